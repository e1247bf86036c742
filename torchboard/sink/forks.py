"""What becomes of our state in a forked process, which has one thread and copies of everything else.

Nobody holds a lock while a process forks; instead, whoever has state that a child must not go on with is told so in the
child, before the child goes on, and starts afresh. Nothing of this costs anything where nobody forks.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol


class Heir(Protocol):
    """Something that a forked child inherits and must not go on with."""

    def in_child(self) -> None:
        """Starts afresh. Any lock may be held by a thread that is not there."""


_heirs: weakref.WeakSet[Heir] = weakref.WeakSet()


def inherit(heir: Heir) -> None:
    """Has ``heir.in_child`` called in every child forked from now on, as long as the heir lives."""
    _heirs.add(heir)


def in_child(action: Callable[[], None]) -> Callable[[], None]:
    """Decorates a function that is called in every child forked from now on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=action)
    return action


class Lock:
    """A lock for a ``with`` block that is free in a forked child, whoever held it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        inherit(self)

    def in_child(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


@in_child
def _tell() -> None:
    for heir in list(_heirs):
        heir.in_child()
