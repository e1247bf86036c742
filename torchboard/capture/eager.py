"""Compiled code runs eagerly while a window is open, so that the hooks in it are seen.

Hooks that are put on a model after its first compiled call never run, and hooks inside a compiled graph would change it.
So code under ``torch.compile`` is told to run as it is written for the length of a window, by the compiler's own stance;
what was compiled stays as it is, is neither guarded nor compiled again, and runs once the window has closed. The stance
belongs to the process: everything that is compiled runs eagerly in a window, the optimizer's step too.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _EagerWindows:
    """The windows that are open in this process. The first one sets the stance, the last one puts the user's back."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open = 0
        self._stance: torch._dynamo.decorators.set_stance | None = None

    def open(self) -> bool:
        """Opens one; False, and none is open, where compiled code is running right now."""
        with self._lock:
            if not self._open:
                try:
                    self._stance = torch.compiler.set_stance("force_eager")
                except RuntimeError:
                    return False
            self._open += 1
            return True

    def close(self) -> None:
        """Closes one. A stance that the user has set since the first was opened is left alone."""
        with self._lock:
            self._open -= 1
            if self._open:
                return
            ours, self._stance = self._stance, None
            try:
                present = torch.compiler.set_stance("default")
                last = ours if present.prev is ours.stance else present
                last.__exit__(None, None, None)
            except RuntimeError:  # compiled code is running: the user has set a stance in the window, and keeps it
                return
            _vouch_for_this_call()


eager_windows = _EagerWindows()
"""The one count of this process."""


@contextmanager
def eagerly() -> Iterator[None]:
    """A context in which compiled code runs eagerly; free where nothing can have been compiled yet."""
    opened = "torch._dynamo" in sys.modules and eager_windows.open()
    try:
        yield
    finally:
        if opened:
            eager_windows.close()


def _vouch_for_this_call() -> None:
    """Tells a ``fullgraph=True`` call that is under way that it ran eagerly by intention.

    Newer compilers raise if such a call ends in the default stance and no compiled code ran in it, which is so where a
    window closes inside: at the end of the model's pass, or after a compiled optimizer step.
    """
    set_count = getattr(torch._C._dynamo.eval_frame, "set_fullgraph_compiled_frame_count", None)
    if set_count is None:
        return
    count = set_count(1)
    if count:
        set_count(count)
