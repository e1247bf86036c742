"""What is to be done once with what an object held, whether it is closed, forgotten, or there when the process ends."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable


class Release:
    """Calls ``actions`` one after the other, once: when it is called, when nobody can reach it, or at the end of the process.

    Unlike ``weakref.finalize`` it keeps nothing alive: an action may lead back to whoever holds this, as a model does
    that holds its monitor. Errors of a call that nobody made are printed.
    """

    def __init__(self, *actions: Callable[[], object]) -> None:
        self._actions = actions
        _waiting.add(self)

    def __call__(self) -> None:
        actions, self._actions = self._actions, ()
        for action in actions:
            action()

    __del__ = __call__


_waiting: weakref.WeakSet[Release] = weakref.WeakSet()


@atexit.register
def _release_all() -> None:
    for release in list(_waiting):
        release()
