"""A forward pass of our own on the user's model, that leaves no trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from torchboard.errors import InvalidValueError
from torchboard.graph.eager import eagerly
from torchboard.graph.module_names import unwrapped


def quiet_pass(model: nn.Module, args: tuple, kwargs: dict) -> None:
    """Runs the model in evaluation mode, without gradients, and leaves it as it was.

    Training flags are put back module by module, whatever mix of them there was. The pass works on copies of the buffers
    and draws its random numbers from a fork of the generators. Hooks that others put on the model run, too. Wrappers
    are left out, as theirs would wait for other ranks, and nothing is compiled for it.

    Raises:
        InvalidValueError: parameters are sharded, and a pass on this rank alone would wait for the others for ever.
        Exception: whatever the model raises; it is left as it was all the same.
    """
    model = unwrapped(model)
    if any(hasattr(parameter, "to_local") for parameter in model.parameters()):
        raise InvalidValueError(
            f"model {type(model).__name__}",
            "its parameters are sharded over ranks that do not take part",
            "leave this picture out",
        )
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=_cuda_devices(model)))
        stack.enter_context(_evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(eagerly())
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        torch.func.functional_call(model, buffers, args, kwargs)


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
