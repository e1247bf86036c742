"""Gradients of layer outputs, read by a hook on the output tensor itself, and the end of the backward pass they come in.

A module's backward hook would wrap the output and break models that change it in place; a tensor hook sees the gradient
of the value as it was when the layer returned it, and leaves the graph as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from torchboard.graph.hooks import InertWhenCopied, graph_task


class Report(partial):
    """What is called with a gradient; whoever pickles or copies the output is not warned of it, as it is none of the output's."""

    __slots__ = ()
    __torch_unserializable__ = True


def tap(output: Tensor, report: Report) -> None:
    """Calls ``report`` with the gradient when a backward pass reaches ``output``, which must come from an operation.

    An in-place operation on an output that is a view gives the view a new history, and a hook on the old one stays
    silent: where the base has as many elements as the view, and the memory they share was written to since, the base's
    gradient stands in.
    """
    base = output._base if type(output) is Tensor and output._is_view() else None
    if base is not None and not base.is_leaf and base.numel() == output.numel():
        report = _ViewHook(report)
        _hook(base, _BaseHook(report, _writes(output)))
    _hook(output, report)


def _hook(tensor: Tensor, report: Callable[[Tensor | None], None]) -> None:
    history = tensor.grad_fn  # of a view it is brought up to date here
    if type(tensor) is Tensor and tensor._backward_hooks is None:  # what ``register_hook`` does, without a handle
        tensor._backward_hooks = hooks = OrderedDict()
        hooks[report] = report
        history._register_hook_dict(tensor)
    else:
        tensor.register_hook(report)


def _writes(tensor: Tensor) -> Tensor:
    """A tensor that holds no memory, and whose version counts the writes to that of ``tensor`` and its views, also when these
    are gone."""
    counter = tensor.detach()
    counter.data = _nothing(tensor.device)
    return counter


@cache
def _nothing(device: torch.device) -> Tensor:
    return torch.empty(0, device=device)


def untraced(call: Callable[..., None], compiled: str) -> Callable[..., None]:
    """What does the same, kept from the compiler where captured steps stay compiled, as ``Capture.compiled`` says: a compiled
    function may call ``backward()``, and what runs in there would be compiled with it."""
    return torch.compiler.disable(call) if compiled == "graph" else call


class BackwardEnd:
    """Tells when a backward pass has ended, the reduction of gradients over ranks included.

    Args:
        action: called once a pass, with nothing; must not raise.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._task = -1

    def expect(self) -> None:
        """Within a backward pass: its end will be told. Free where that was said before."""
        task = graph_task()
        if task != self._task:
            self._task = task
            _when_passed(self._wait)

    def _wait(self) -> None:
        """What wrappers have asked for in this pass lies in front of what is asked for now."""
        _when_passed(self._action)


_when_passed = torch.autograd.Variable._execution_engine.queue_callback


class _ViewHook(InertWhenCopied):
    """Knows in which backward pass it was called last."""

    __slots__ = ("report", "task")
    __torch_unserializable__ = True

    def __init__(self, report: Report) -> None:
        self.report = report
        self.task = -1

    def __call__(self, gradient: Tensor | None) -> None:
        self.task = graph_task()
        self.report(gradient)


class _BaseHook(InertWhenCopied):
    """Stands in for the view's hook in a backward pass that did not call it, if there were writes in between."""

    __slots__ = ("view_hook", "version", "writes")
    __torch_unserializable__ = True

    def __init__(self, view_hook: _ViewHook, writes: Tensor) -> None:
        self.view_hook = view_hook
        self.writes = writes
        self.version = writes._version

    def __call__(self, gradient: Tensor | None) -> None:
        if self.view_hook.task != graph_task() and self.writes._version != self.version:
            self.view_hook(gradient)
