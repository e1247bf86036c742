"""A process that is told to end writes what waits first.

Where SIGTERM, SIGHUP or SIGINT would end the process at once, because nobody handles them, sinks in use put a handler
there: it flushes them and then lets the signal do what it would have done. Python's own handler of SIGINT, which raises
KeyboardInterrupt, and handlers of anybody else are left alone; one that replaces ours later wins, and where it calls ours,
as the handler that it found, ours only flushes. Without a sink in use there is no handler.

The handler runs between two instructions of the main thread, which may hold any lock, so it takes none that others take: a
thread of its own flushes. Should that thread need a lock of the main thread's, the handler gives up waiting and returns,
and the thread sends the signal again when it is done.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import weakref
from contextlib import suppress
from types import FrameType
from typing import Protocol

from torchboard.sink.forks import in_child

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
_PATIENCE = 0.5
"""Seconds that the main thread stands still for the flush before it goes on to give its locks back."""


class Flushable(Protocol):
    """What can be flushed from any thread."""

    def flush(self) -> None:
        """Returns when everything written before is in the file."""


class Ending(Protocol):
    """What has something to write when the process ends, from any thread."""

    def before_end(self, number: int) -> None:
        """Called once, before the last flush, where the signal ``number`` ends the process."""


_watched: weakref.WeakSet[Flushable] = weakref.WeakSet()
_endings: weakref.WeakSet[Ending] = weakref.WeakSet()


def watch(sink: Flushable) -> None:
    """Flushes the sink when a signal ends the process, until ``unwatch``. Handlers can be set from the main thread only."""
    _watched.add(sink)
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL and not _caught_below_python(number):
                signal.signal(number, _leave)


def unwatch(sink: Flushable) -> None:
    """Forgets a sink; with the last one go the handlers that are still ours."""
    _watched.discard(sink)
    if not _watched and threading.current_thread() is threading.main_thread():
        _restore()


def call_before_end(ending: Ending) -> None:
    """Has ``ending.before_end`` called where a signal ends the process while a sink is watched, until ``forget``."""
    _endings.add(ending)


def forget(ending: Ending) -> None:
    """Takes ``call_before_end`` back."""
    _endings.discard(ending)


def _restore() -> None:
    for number in _SIGNALS:
        if signal.getsignal(number) is _leave:
            signal.signal(number, signal.SIG_DFL)


class _Departure:
    """The flush before the end, on a thread of its own."""

    def __init__(self, number: int, last: bool) -> None:
        self._number = number
        self._last = last
        self._done = False
        self._running = _thread.allocate_lock()
        self._running.acquire()
        self._turn = _thread.allocate_lock()  # for whichever comes first: the end of the flush, or who will not wait
        _thread.start_new_thread(self._run, ())

    def wait(self) -> bool:
        """Whether the flush has ended, perhaps after some waiting."""
        ended = self._running.acquire(timeout=_PATIENCE)
        if ended:
            self._running.release()
        return ended

    def call_back(self) -> bool:
        """Has the thread send the signal again when the flush ends; False where it has ended."""
        return self._turn.acquire(blocking=False) or not self._done

    def _run(self) -> None:
        for ending in list(_endings) if self._last else ():
            with suppress(Exception):
                ending.before_end(self._number)
        for sink in list(_watched):
            with suppress(Exception):  # the process ends; there is nobody left to tell
                sink.flush()
        self._done = True
        self._running.release()
        if not self._turn.acquire(blocking=False):
            os.kill(os.getpid(), self._number)


_departures: dict[int, _Departure] = {}
"""Flushes that the main thread did not wait for, by the signal that they will send again."""


def _leave(number: int, frame: FrameType | None) -> None:
    last = signal.getsignal(number) is _leave
    departure = _departures.pop(number, None) or _Departure(number, last)
    if not departure.wait() and last:
        _departures[number] = departure
        if departure.call_back():
            return
    if last:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _caught_below_python(number: int) -> bool:
    """Whether C code set a handler, as the workers of a DataLoader do; not seen where there is no ``/proc``."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            masks = [line for line in status if line.startswith("SigCgt:")]
    except OSError:
        return False
    return any(int(mask.split()[1], 16) >> (number - 1) & 1 for mask in masks)


@in_child
def _forget_parent() -> None:
    """In a forked child: it has no sink in use yet, and signals end it as they end anybody."""
    _departures.clear()
    _watched.clear()
    _endings.clear()
    _restore()
