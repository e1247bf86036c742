"""Gradients of layer outputs, read by a hook on the output tensor itself, and the end of the backward pass they come in.

A module's backward hook would wrap the output and break models that change it in place; a tensor hook sees the gradient
of the value as it was when the layer returned it, and leaves the graph as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from torchboard.graph.hooks import InertWhenCopied, graph_task


def tap(output: Tensor, report: Callable[[Tensor | None], None]) -> None:
    """Calls ``report`` with the gradient when a backward pass reaches ``output``, which must come from an operation.

    An in-place operation on an output that is a view gives the view a new history, and a hook on the old one stays
    silent: where the base has as many elements as the view, its gradient stands in.
    """
    base = output._base if output._is_view() else None
    if base is not None and not base.is_leaf and base.numel() == output.numel():
        report = _ViewHook(report)
        base.register_hook(_BaseHook(report))
    history = output.grad_fn  # of a view it is brought up to date here
    if type(output) is Tensor and output._backward_hooks is None:  # what ``register_hook`` does, without a handle
        output._backward_hooks = hooks = OrderedDict()
        hooks[report] = report
        history._register_hook_dict(output)
    else:
        output.register_hook(report)


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

    def __init__(self, report: Callable[[Tensor | None], None]) -> None:
        self.report = report
        self.task = -1

    def __call__(self, gradient: Tensor | None) -> None:
        self.task = graph_task()
        self.report(gradient)


class _BaseHook(InertWhenCopied):
    __slots__ = ("view_hook",)

    def __init__(self, view_hook: _ViewHook) -> None:
        self.view_hook = view_hook

    def __call__(self, gradient: Tensor | None) -> None:
        if self.view_hook.task != graph_task():
            self.view_hook(gradient)
