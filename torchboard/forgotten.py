"""What is to be done once with what an object held, whether it is closed, forgotten, or there when the process ends."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable

from torchboard.sink.apart import apart


class Release:
    """Calls ``actions`` one after the other, once: when it is called, when nobody can reach it, or at the end of the process.

    Unlike ``weakref.finalize`` it keeps nothing alive: an action may lead back to whoever holds this, as a model does
    that holds its monitor. Where nobody called, errors are printed, and the last action, which may take locks, is done
    ``apart``: a collection comes at any line of any thread.
    """

    def __init__(self, *actions: Callable[[], object]) -> None:
        self._actions = actions
        _waiting.add(self)

    def __call__(self) -> None:
        for action in self._take():
            action()

    def __del__(self) -> None:
        *actions, last = self._take() or (None,)
        for action in actions:
            action()
        if last is not None:
            apart(last)

    def _take(self) -> tuple[Callable[[], object], ...]:
        actions, self._actions = self._actions, ()
        return actions


_waiting: weakref.WeakSet[Release] = weakref.WeakSet()


@atexit.register
def _release_all() -> None:
    for release in list(_waiting):
        release()
