"""Hooks that a copy of the model does not inherit, and that never raise.

A model may be copied or pickled while it is armed: an averaged copy, a checkpoint. What a copy gets in place of a hook is
a callable of the standard library that takes anything and returns None, so that it neither reports nor needs this package.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch


class InertWhenCopied:
    """A hook that copies and pickles into one that does nothing."""

    __slots__ = ()

    def __copy__(self):
        return contextlib.nullcontext().__exit__

    def __deepcopy__(self, memo):
        return contextlib.nullcontext().__exit__

    def __reduce__(self):
        return getattr, (contextlib.nullcontext(), "__exit__")


class GuardedHook(InertWhenCopied):
    """What sits on a module or an optimizer: it changes no result and never raises, and is silent in code that is traced.

    Args:
        report: called with what the hook is called with.
        failed: called with what ``report`` raises.
    """

    __slots__ = ("_failed", "_report")

    def __init__(self, report: Callable[..., None], failed: Callable[[Exception], None]) -> None:
        self._report = report
        self._failed = failed

    def __call__(self, *arguments: Any) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        try:
            self._report(*arguments)
        except Exception as error:
            self._failed(error)


graph_task = torch._C._current_graph_task_id
"""The number of the backward pass that this thread works on; -1 outside of any."""


def in_backward() -> bool:
    """Whether this thread is inside a backward pass, where activation checkpointing runs layers again."""
    return graph_task() != -1
