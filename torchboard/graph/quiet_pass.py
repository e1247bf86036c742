"""A forward pass of our own on the user's model, that leaves no trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from torchboard.errors import InvalidValueError
from torchboard.graph.eager import eagerly
from torchboard.graph.higher_order import meeting
from torchboard.graph.job import is_set_up
from torchboard.graph.kept_state import KeptState
from torchboard.graph.modes import run_aside
from torchboard.graph.module_names import unwrapped
from torchboard.graph.tensors import is_sharded
from torchboard.graph.undone_writes import UndoneWrites

_FSDP1 = "_fsdp_wrapped_module"


def quiet_pass(model: nn.Module, args: tuple, kwargs: dict) -> None:
    """Runs the model in evaluation mode, without gradients, and leaves it as it was.

    Put back are the modes of modules, what is in them (``KeptState``), the numbers in every tensor that was there before,
    arguments too (``UndoneWrites``), and the states of random generators. Nothing can be done about files, other processes
    and objects of the user's own classes. Hooks that others put on the model run, too. The wrapper around it is left out,
    and nothing is compiled for it.

    Raises:
        InvalidValueError: the pass would wait for other ranks, which do not take part: parameters are sharded, parts of
            the model are wrapped for themselves, or it calls a collective, which is stopped before it begins.
        Exception: whatever the model raises; it is left as it was all the same.
    """
    model = unwrapped(model)
    if any(map(is_sharded, model.parameters())):
        raise _refused(model, "its parameters are sharded over ranks that do not take part")
    if any(isinstance(part, DistributedDataParallel) or _FSDP1 in part._modules for part in model.modules()):
        raise _refused(model, "parts of it are wrapped for themselves, and wait for ranks that do not take part")
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=_cuda_devices(model)))
        stack.callback(KeptState(model).put_back)
        stack.enter_context(_evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(eagerly())
        meeting.begin(run_aside)
        stack.callback(meeting.end, run_aside)
        stack.enter_context(_no_autocast_cache())
        writes = stack.enter_context(UndoneWrites(partial(_waits, model) if is_set_up() else None))
        stack.callback(writes.undo)
        # A kernel that is no operator does not say what it writes to.
        writes.keep(buffer for buffer in model.buffers() if not is_lazy(buffer))
        model(*args, **kwargs)


def _waits(model: nn.Module, operator: Any) -> Exception | None:
    """Why an operator must not begin: of other ranks, which make no pass, it would wait for ever."""
    if operator.namespace not in ("c10d", "_c10d_functional", "_c10d_functional_autograd", "c10d_functional"):
        return None
    return _refused(model, f"it calls {operator}, for ranks that do not take part")


def _refused(model: nn.Module, wrong: str) -> InvalidValueError:
    return InvalidValueError(f"a pass of {type(model).__name__} on one rank alone", wrong, "leave this picture out")


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module's flag off, without ``eval()``, which users override; and back again, each to what it was."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """Weights that are cast in the pass have no graph, and must not be met by training in the same ``autocast``.

    Newer versions of torch see to it themselves.
    """
    enabled = torch.is_autocast_cache_enabled()
    try:
        torch.set_autocast_cache_enabled(False)
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)


def _cuda_devices(model: nn.Module) -> list[int]:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    return [device.index for device in devices if device.type == "cuda" and device.index is not None]
