"""A forward pass of our own on the user's model, that leaves no trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from torchboard.errors import InvalidValueError
from torchboard.graph.eager import eagerly
from torchboard.graph.job import is_set_up
from torchboard.graph.module_names import unwrapped
from torchboard.graph.tensors import is_sharded

_FSDP1 = "_fsdp_wrapped_module"


def quiet_pass(model: nn.Module, args: tuple, kwargs: dict) -> None:
    """Runs the model in evaluation mode, without gradients, and leaves it as it was.

    Training flags are put back module by module, whatever mix of them there was. The pass works on copies of the buffers
    and draws its random numbers from a fork of the generators. Hooks that others put on the model run, too. The wrapper
    around it is left out, and nothing is compiled for it.

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
        stack.enter_context(_evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(eagerly())
        if is_set_up():
            stack.enter_context(_NoCollectives(model))
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        torch.func.functional_call(model, buffers, args, kwargs)


class _NoCollectives(TorchDispatchMode):
    """Stops a collective before it begins: other ranks make no pass, and this one would wait for them for ever."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional", "_c10d_functional_autograd", "c10d_functional"):
            raise _refused(self._model, f"it calls {func}, for ranks that do not take part")
        return func(*args, **(kwargs or {}))


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


def _cuda_devices(model: nn.Module) -> list[int]:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    return [device.index for device in devices if device.type == "cuda" and device.index is not None]
