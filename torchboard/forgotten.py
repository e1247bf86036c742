"""What is to be done once with what an object held, whether it is closed, forgotten, or there when the process ends."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable
from typing import Any


class Release:
    """Calls ``action`` with its arguments once: when it is called, when nobody can reach it, or at the end of the process.

    Unlike ``weakref.finalize`` it keeps nothing alive: an argument may lead back to whoever holds this, as a model does
    that holds its monitor. Errors of a call that nobody made are printed.
    """

    def __init__(self, action: Callable[..., None], *arguments: Any) -> None:
        self._action: Callable[..., None] | None = action
        self._arguments = arguments
        _waiting.add(self)

    def __call__(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            arguments, self._arguments = self._arguments, ()
            action(*arguments)

    __del__ = __call__


_waiting: weakref.WeakSet[Release] = weakref.WeakSet()


@atexit.register
def _release_all() -> None:
    for release in list(_waiting):
        release()
