"""A queue and a thread before another sink, with three promises.

*Order*: events reach the wrapped sink as they were written. *Flush*: when it returns, everything written before it has
reached the wrapped sink and was flushed there. *Errors*: a fault behind the queue is raised by the next call, once, with
its cause; a full disk and its like are, by default, warned of once, retried, and training goes on.
"""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torchboard.errors import ClosedError, InvalidValueError, SinkError, TorchboardWarning
from torchboard.sink.protocol import Sink
from torchboard.values import Event

_TICK = 0.02
"""Seconds between looks at the queue while it is busy: waking a thread for every event would cost the caller more."""
_IDLE_TICKS = 10
"""Empty looks after which the thread sleeps until it is woken."""
_RETRY = (0.05, 5.0)
"""First and longest pause, in seconds, between tries to write where writing fails."""


class _Flush(threading.Event):
    """A place in the queue, set when the thread has passed it."""


@dataclass(frozen=True)
class _File:
    """A file in the queue; it is never dropped for want of room while the wrapped sink can write."""

    run: str
    path: str
    data: bytes

    droppable: ClassVar[bool] = False

    @property
    def nbytes(self) -> int:
        return 200 + len(self.data)


class AsyncSink:
    """Writes to another sink from a thread of its own.

    A write costs the caller a lock and an append. The queue is bounded by bytes: when it is full, droppable events
    (pictures, snapshots) are dropped and counted, and others wait for room, or are dropped and counted too while the
    wrapped sink cannot write at all.

    Args:
        sink: where events end up; only the thread touches it from now on.
        max_bytes: how much may wait in the queue.
        on_error: what a failing file system does: ``"warn"`` warns once, keeps what waits and tries again while training
            goes on; ``"raise"`` raises at the next call.

    Attributes:
        dropped: how many events were lost, since the start.
    """

    def __init__(self, sink: Sink, *, max_bytes: int = 256 << 20, on_error: str = "warn") -> None:
        if on_error not in ("warn", "raise"):
            raise InvalidValueError(f"on_error={on_error!r}", "there are two policies", "give 'warn' or 'raise'")
        self.dropped = 0
        self._sink = sink
        self._max_bytes = max_bytes
        self._raises = on_error == "raise"
        self._queue: deque[Event | _File | _Flush] = deque()
        self._queued_bytes = 0
        self._room = threading.Condition()
        self._wake = threading.Event()
        self._parked = False
        self._stalled = False
        self._closing = False
        self._error: BaseException | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="torchboard-sink", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)

    def write(self, event: Event) -> None:
        """Queues an event.

        Raises:
            SinkError: something failed behind the queue since the last call.
            ClosedError: the sink was closed, or was made in another process.
        """
        self._enqueue(event)

    def put(self, run: str, path: str, data: bytes) -> None:
        """Queues a file, in order with the events.

        Raises:
            SinkError: something failed behind the queue since the last call.
            ClosedError: the sink was closed, or was made in another process.
        """
        self._enqueue(_File(run, path, data))

    def _enqueue(self, item: Event | _File) -> None:
        self._check()
        nbytes = item.nbytes
        with self._room:
            while self._queue and self._queued_bytes + nbytes > self._max_bytes:
                if item.droppable or self._stalled or not self._thread.is_alive():
                    self.dropped += 1
                    return
                self._wake.set()
                self._room.wait(_TICK)
            self._queue.append(item)
            self._queued_bytes += nbytes
        if self._parked:
            self._wake.set()

    def flush(self) -> None:
        """Waits until everything written before has reached the wrapped sink and was flushed there.

        Where writing fails and the policy is to warn, it does not wait for the file system to recover.
        """
        self._check()
        self._wait_for_flush()
        self._check()

    def close(self) -> None:
        """Flushes, closes the wrapped sink and ends the thread. A second call, or one in a forked child, does nothing."""
        if self._closing or os.getpid() != self._process:
            return
        self._closing = True
        atexit.unregister(self._close_at_exit)
        self._wake.set()
        self._thread.join()
        if self.dropped:
            self._warn(f"{self.dropped} events could not be written and are lost")
        self._raise_error()

    def _close_at_exit(self) -> None:
        try:
            self.close()
        except SinkError as error:
            self._warn(str(error))

    def _warn(self, message: str) -> None:
        """Warns; where warnings are made errors, the error waits for the next call, so the thread lives on."""
        try:
            warnings.warn(message, TorchboardWarning, stacklevel=2)
        except TorchboardWarning as error:
            self._error = self._error or error

    def _wait_for_flush(self) -> None:
        marker = _Flush()
        with self._room:
            self._queue.append(marker)
        self._wake.set()
        while not marker.wait(_TICK):
            if self._stalled or not self._thread.is_alive():
                return

    def _check(self) -> None:
        if self._error is not None:
            self._raise_error()
        if self._closing:
            raise ClosedError("a call on a closed sink", "its thread and files are gone", "write before close()")
        if os.getpid() != self._process:
            raise ClosedError(
                f"a call in process {os.getpid()}",
                f"the sink belongs to process {self._process}, and a forked process has no thread to write it",
                "log from the process that made the writer, or make a new one with a log_dir of its own",
            )

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise SinkError(
                f"{type(error).__name__}: {error}", "an event could not be written", "see the cause; later events go on"
            ) from error

    # Everything below runs on the sink's thread.

    def _run(self) -> None:
        idle = 0
        while True:
            item = self._take()
            if item is not None:
                idle = 0
                self._deliver(item)
            elif self._closing:
                break
            else:
                idle += 1
                self._wait(idle)
        self._attempt(self._sink.flush)
        self._attempt(self._sink.close)

    def _take(self) -> Event | _File | _Flush | None:
        with self._room:
            if not self._queue:
                return None
            item = self._queue.popleft()
            if not isinstance(item, _Flush):
                self._queued_bytes -= item.nbytes
                self._room.notify_all()
            return item

    def _wait(self, idle: int) -> None:
        """Until the next tick, or, after some idle ones, until somebody writes."""
        self._parked = idle > _IDLE_TICKS
        if not (self._parked and self._queue):
            self._wake.wait(None if self._parked else _TICK)
        self._wake.clear()
        self._parked = False

    def _deliver(self, item: Event | _File | _Flush) -> None:
        if isinstance(item, _Flush):
            self._attempt(self._sink.flush)
            item.set()
            return
        try:
            write = self._writing(item)
        except Exception as error:  # a device that failed, say: this event is lost, the next ones are not
            self._lose(error)
            return
        pause = _RETRY[0]
        while not self._attempt(write):
            if not self._stalled or self._closing:
                self.dropped += 1
                break
            self._wake.wait(pause)
            self._wake.clear()
            pause = min(2 * pause, _RETRY[1])

    def _writing(self, item: Event | _File) -> Callable[[], None]:
        """What writes the item; a pending value is waited for now, once, whatever the tries to write it."""
        if isinstance(item, _File):
            return lambda: self._sink.put(item.run, item.path, item.data)
        settled = item.settled()
        return lambda: self._sink.write(settled)

    def _attempt(self, action) -> bool:
        """Whether it worked; if not, the fault is on record and ``_stalled`` says whether to try again."""
        try:
            action()
        except OSError as error:
            if self._raises:
                self._error = self._error or error
            elif not self._stalled:
                self._stalled = True
                self._warn(f"cannot write the log ({error}); training goes on, and writing is tried again")
            return False
        except Exception as error:
            self._stalled = False
            self._error = self._error or error
            return False
        self._stalled = False
        return True

    def _lose(self, error: Exception) -> None:
        self._error = self._error or error
        self.dropped += 1
