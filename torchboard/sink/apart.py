"""Work in a thread of its own, for who may hold a lock and not know it: one whom the garbage collection calls."""

from __future__ import annotations

import _thread
import atexit
import sys
import threading
from collections.abc import Callable

from torchboard.sink.forks import in_child

_PATIENCE = 1.0
"""Seconds that the caller waits: work that needs no lock of the caller's is mostly done by then."""
_LAST_PATIENCE = 60.0

_under_way: set[threading.Event] = set()


def apart(action: Callable[[], object]) -> None:
    """Does it in another thread, and returns when it is done or has taken a second; the process's end waits for it.

    Errors are printed. Where no thread can be started any more, the caller's does it.
    """
    done = threading.Event()
    _under_way.add(done)
    try:
        _thread.start_new_thread(_do, (action, done))  # Thread.start would take locks, which the caller may hold
    except RuntimeError:
        _do(action, done)
    done.wait(_PATIENCE)


def _do(action: Callable[[], object], done: threading.Event) -> None:
    try:
        action()
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        _under_way.discard(done)
        done.set()


@atexit.register
def _wait_for_all() -> None:
    for done in list(_under_way):
        done.wait(_LAST_PATIENCE)


@in_child
def _leave_to_parent() -> None:
    _under_way.clear()
