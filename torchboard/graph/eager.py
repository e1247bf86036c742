"""Compiled code runs eagerly while a window is open, so that the hooks in it are seen.

Hooks that are put on a model after its first compiled call never run, and hooks inside a compiled graph would change it.
So code under ``torch.compile`` is told to run as it is written for the length of a window, by the compiler's own stance;
what was compiled stays as it is, is neither guarded nor compiled again, and runs once the window has closed. The stance
belongs to the process: everything that is compiled runs eagerly in a window, the optimizer's step too; but for operators such as
``torch.cond``, which compile themselves and have to.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import RLock
from types import FrameType
from typing import Any

import torch
from torch import nn

from torchboard.graph.higher_order import OperatorRun, meeting


class _EagerWindows:
    """The windows that are open in this process. The first one sets the stance, the last one puts the user's back."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._count = 0
        self._stance: torch._dynamo.decorators.set_stance | None = None

    def enter(self) -> bool:
        """Opens a window; False, and none is open, where compiled code is running right now."""
        with self._lock:
            if self._stance is None:
                try:
                    self._stance = torch.compiler.set_stance("force_eager")
                except RuntimeError:
                    return False
                meeting.begin(self._compiling)
            self._count += 1
            return True

    def leave(self) -> None:
        """Closes a window. A stance that the user has set since the first was opened is left alone."""
        with self._lock:
            self._count -= 1
            if not self._count:
                last_things = _end_of_fullgraph_call()
                if last_things is None:
                    self._give_back()
                else:
                    last_things.append(self._give_back)

    def _give_back(self) -> None:
        with self._lock:
            if self._count or self._stance is None:
                return
            ours, self._stance = self._stance, None
            meeting.end(self._compiling)
            with suppress(RuntimeError):  # compiled code is running: the user's stance of the window stays
                _put_back(ours)

    def _compiling(self, call: OperatorRun) -> Any:
        """Runs an operator that compiles itself as it runs where no window is open."""
        stance, is_away = self._stance, False
        with self._lock, suppress(RuntimeError):
            is_away = stance is not None and _put_back(stance)
        try:
            return call.run()
        finally:
            with self._lock:
                if is_away and self._stance is stance:
                    stance.__enter__()


def _put_back(ours: torch._dynamo.decorators.set_stance) -> bool:
    """Sets the stance that was there before ours, and says whether ours was the present one; otherwise that one stays."""
    present = torch.compiler.set_stance("default")
    is_present = present.prev is ours.stance
    (ours if is_present else present).__exit__(None, None, None)
    return is_present


eager_windows = _EagerWindows()
"""The one count of this process."""


@contextmanager
def eagerly() -> Iterator[None]:
    """A context in which compiled code runs eagerly; free where nothing can have been compiled yet."""
    opened = "torch._dynamo" in sys.modules and eager_windows.enter()
    try:
        yield
    finally:
        if opened:
            eager_windows.leave()


def compiled_modules(model: nn.Module) -> set[nn.Module]:
    """The modules in ``model`` that are compiled, or inside of one that is; a compiled function is not seen."""
    found: set[nn.Module] = set()
    seen, waiting = {model}, [model]
    while waiting:
        module = waiting.pop()
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            found.update(module.modules())
        children = [child for child in module._modules.values() if child is not None and child not in seen]
        seen.update(children)
        waiting += children
    return found


def _end_of_fullgraph_call() -> list[Callable[[], None]] | None:
    """What the outermost ``fullgraph=True`` call that is under way will do at its end; None where there is none.

    Newer compilers raise if such a call ends in the default stance and no compiled code ran in it, which would be so where
    a window closes inside: when the model's pass ends, or after a compiled optimizer step.
    """
    found = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "compile_wrapper" and frame.f_locals.get("fullgraph_count_enabled"):
            found = frame.f_locals.get("cleanups", found)
        frame = frame.f_back
    return found
