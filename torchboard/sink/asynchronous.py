"""A queue and a thread before another sink, with three promises.

*Order*: events reach the wrapped sink as they were written. *Flush*: when it returns, everything written before it has
reached the wrapped sink and was flushed there. *Errors*: a fault behind the queue is raised by the next call, once, with
its cause; a full disk and its like are, by default, warned of once, retried, and training goes on.

Scalars have a **lane** into the same queue, in which a call costs an append; whoever finds it closed goes through ``write``.
The thread looks at the queue every 20 ms: being woken by every event would cost the caller ten times the append.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import groupby

import numpy as np

from torchboard.errors import ClosedError, InvalidValueError, SinkError, TorchboardWarning
from torchboard.sink import signals
from torchboard.sink.branch import Branch
from torchboard.sink.endings import at_end
from torchboard.sink.forks import inherit
from torchboard.sink.items import File, Flush
from torchboard.sink.lane import LIMIT, Lane
from torchboard.sink.protocol import Sink
from torchboard.values import Event, Scalar
from torchboard.values.points import NAMES, POINT, events_of
from torchboard.values.rows import Row

_TICK = 0.02
"""Seconds between looks at the queue while it is busy."""
_IDLE_TICKS = 10
"""Empty looks after which the thread sleeps until it is woken, or for ``_NAP`` seconds."""
_NAP = 1.0
_BATCH = LIMIT
"""How many items the thread takes at a time; a caller who is that far ahead gives way to it."""
_GIVE_WAY = 0.0005
"""Seconds. Two threads that both want the interpreter all the time get little done; one after the other, much."""
_POINTS = 1 << 12
"""How many points are encoded together: a quarter of a megabyte, which stays in the cache."""
DROPPED_TAG = "monitor/dropped"
"""The scalar that says, where writing works again, how many events were lost so far."""
_RETRY = (0.05, 5.0)
"""First and longest pause, in seconds, between tries to write where writing fails."""


class AsyncSink:
    """Writes to another sink from a thread of its own.

    A write costs the caller a lock and an append. The queue is bounded by bytes: when it is full, droppable events
    (pictures, snapshots) are dropped and counted, and others wait for room, or are dropped and counted too while the
    wrapped sink cannot write at all. Where writing works again, the count is logged as ``monitor/dropped``.

    A signal that ends the process has it flushed first. In a forked process it begins afresh, with an empty queue, and
    writes to runs of that process's own, ``<run>/fork-<pid>``.

    Args:
        sink: where events end up; only the thread touches it from now on. One with a method ``write_points`` takes
            the points of a run in batches; a method ``tick`` is called once a second at least.
        max_bytes: how much may wait in the queue, beside the points in the lane.
        on_error: what a failing file system does: ``"warn"`` warns once, keeps what waits and tries again while training
            goes on; ``"raise"`` raises at the next call.

    Attributes:
        dropped: how many events were lost, since the start.
        lane: the short way in, for points.
    """

    def __init__(self, sink: Sink, *, max_bytes: int = 256 << 20, on_error: str = "warn") -> None:
        if on_error not in ("warn", "raise"):
            raise InvalidValueError(f"on_error={on_error!r}", "there are two policies", "give 'warn' or 'raise'")
        self._max_bytes = max_bytes
        self._raises = on_error == "raise"
        self._queue: deque[bytes | Event | Row | File | Flush] = deque()
        self.lane = Lane(self._queue)
        self._closing = self._inherited = False
        self._use(sink)
        self._begin()
        self._watch_endings()
        inherit(self)

    def _use(self, sink: Sink) -> None:
        self._sink = sink
        self._write_points = getattr(sink, "write_points", None) or self._write_events
        self._tick = getattr(sink, "tick", None)

    def _begin(self) -> None:
        """With an empty queue and free locks; the thread starts with the first event."""
        self.dropped = self._dropped_logged = 0
        self._queue.clear()
        self._queued_bytes = self._in_hand = 0
        self._room = threading.Condition()
        self._wake = threading.Event()
        self._parked = self._stalled = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def in_child(self) -> None:
        """In a forked process: what waits is the parent's to write."""
        self._inherited = True
        self.lane.close()
        self._begin()

    def _start(self) -> None:
        if self._inherited:
            self._inherited = False
            if (afresh := getattr(self._sink, "afresh", None)) is not None:
                self._use(Branch(afresh(), f"fork-{os.getpid()}"))
        self._watch_endings()
        self._thread = threading.Thread(target=self._run, name="torchboard-sink", daemon=True)
        self._thread.start()

    def _watch_endings(self) -> None:
        """Called when the sink is made, in the main thread, and again in the process that makes use of it."""
        self._take_back: Callable[[], None] = at_end(self._close_at_exit)
        signals.watch(self)

    def write(self, event: Event | Row) -> None:
        """Queues an event.

        Raises:
            SinkError: something failed behind the queue since the last call.
            ClosedError: the sink was closed.
        """
        self._enqueue(event)

    def put(self, run: str, path: str, data: bytes) -> None:
        """Queues a file, in order with the events; raises what ``write`` raises."""
        self._enqueue(File(run, path, data))

    def _enqueue(self, item: Event | Row | File) -> None:
        self._check()
        if self._behind and not self._stalled:
            self._wake.set()
            time.sleep(_GIVE_WAY)
        nbytes = item.nbytes
        with self._room:
            if self._thread is None:
                self._start()
            while self._queued_bytes and self._queued_bytes + nbytes > self._max_bytes:
                if item.droppable or self._stalled or not self._thread.is_alive():
                    self.dropped += 1
                    return
                self._wake.set()
                self._room.wait(_TICK)
            self._queue.append(item)
            self._queued_bytes += nbytes
        if self._parked:
            self._wake.set()

    @property
    def _behind(self) -> bool:
        return len(self._queue) >= _BATCH or self._in_hand >= _BATCH

    def flush(self) -> None:
        """Waits until everything written before has reached the wrapped sink and was flushed there.

        Where writing fails and the policy is to warn, it does not wait for the file system to recover.
        """
        self._check()
        if self._thread is None:
            return
        marker = Flush()
        with self._room:
            self._queue.append(marker)
        self._wake.set()
        while not marker.wait(_TICK) and not self._stalled and self._thread.is_alive():
            pass
        self._check()

    def close(self) -> None:
        """Flushes, closes the wrapped sink and ends the thread. A second call does nothing."""
        if self._closing:
            return
        self._closing = True
        self.lane.close()
        self._take_back()
        signals.unwatch(self)
        if self._thread is not None:
            self._wake.set()
            self._thread.join()
        elif not self._inherited:  # what is the parent's stays open
            self._sink.close()
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
            self._fail(error)

    def _check(self) -> None:
        if self._error is not None:
            self._raise_error()
        if self._closing:
            raise ClosedError("a call on a closed sink", "its thread and files are gone", "write before close()")

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
            closing = self._closing  # looked at first: what is queued before it is set is still taken
            items = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
            self._in_hand = len(items)
            self._set_lane()
            self._deliver_all(items)
            self._in_hand = 0
            if not items and closing:
                break
            if self._tick:
                self._attempt(self._tick)
            idle = 0 if items else idle + 1
            if len(self._queue) < _BATCH and not self._closing:
                self._wait(idle)
        self._attempt(self._sink.flush)
        self._attempt(self._sink.close)

    def _deliver_all(self, items: list[bytes | Event | Row | File | Flush]) -> None:
        for kind, group in groupby(items, type):
            if kind is bytes:
                try:
                    self._deliver_points(np.frombuffer(b"".join(group), POINT))
                except Exception as error:  # a defect of ours: what a sink raises is taken where it comes up
                    self._fail(error)
            else:
                for item in group:
                    self._deliver(item)

    def _wait(self, idle: int) -> None:
        """Until the next tick, or, after some idle ones, until somebody writes."""
        self._parked = idle > _IDLE_TICKS
        self._set_lane()
        if not (self._parked and self._queue):  # who saw the lane open just now waits for the nap to end
            self._wake.wait(_NAP if self._parked else _TICK)
        self._wake.clear()
        self._parked = False
        self._set_lane()

    def _set_lane(self) -> None:
        busy = self._parked or self._stalled or self._in_hand >= _BATCH
        self.lane.limit = 0 if busy or self._closing or self._error is not None else LIMIT

    def _deliver(self, item: Event | Row | File | Flush) -> None:
        if isinstance(item, Flush):
            self._attempt(self._sink.flush)
            item.set()
            return
        try:
            self._persist(self._writing(item))
            if not isinstance(item, File):
                self._log_dropped(item.run, item.step)
        except Exception as error:  # a device that failed, say: this event is lost, the next ones are not
            self.dropped += 1
            self._fail(error)
        with self._room:
            self._queued_bytes -= item.nbytes
            self._room.notify_all()

    def _writing(self, item: Event | Row | File) -> Callable[[], None]:
        """What writes the item; a pending value is waited for now, once, whatever the tries to write it."""
        if isinstance(item, File):
            return partial(self._sink.put, item.run, item.path, item.data)
        settled = item.settled() if item.pending else item
        return partial(self._sink.write, settled)

    def _deliver_points(self, points: np.ndarray) -> None:
        for number in np.flatnonzero(np.bincount(points["run"])).tolist():
            run, rest = NAMES[number], points[points["run"] == number]
            step = int(rest["step"][-1])
            while len(rest):
                batch = rest[:_POINTS]
                rest = rest[self._persist(partial(self._write_points, run, batch), len(batch)) :]
            self._log_dropped(run, step)

    def _write_events(self, run: str, points: np.ndarray) -> int:
        """What ``write_points`` does, for a sink that takes events only."""
        self._sink.write(next(events_of(points)))
        return 1

    def _persist(self, write: Callable[[], int | None], events: int = 1) -> int:
        """Writes, and tries again while it is the file system that fails; while somebody closes, once in all.

        Returns:
            How many events are done with: as many as ``write`` says, or all, where they were written or are lost.
        """
        written: list[int | None] = []
        pause, stalled = _RETRY[0], self._stalled
        while not self._attempt(lambda: written.append(write())):
            if not self._stalled or (self._closing and stalled):
                self.dropped += events
                return events
            stalled = True
            self._wake.wait(pause)
            self._wake.clear()
            pause = min(2 * pause, _RETRY[1])
        return written[0] or events

    def _log_dropped(self, run: str, step: int) -> None:
        """Says in the log what is missing from it, once writing works."""
        if self.dropped != self._dropped_logged and not self._stalled:
            event = Event(step, time.time(), ((DROPPED_TAG, Scalar(float(self.dropped))),), run)
            if self._attempt(partial(self._sink.write, event)):
                self._dropped_logged = self.dropped

    def _attempt(self, action: Callable[[], None]) -> bool:
        """Whether it worked; if not, the fault is on record and ``_stalled`` says whether to try again."""
        try:
            action()
        except OSError as error:
            if self._raises:
                self._fail(error)
            elif not self._stalled:
                self._stalled = True
                self._set_lane()
                self._warn(f"cannot write the log ({error}); training goes on, and writing is tried again")
            return False
        except Exception as error:
            self._stalled = False
            self._fail(error)
            return False
        self._stalled = False
        return True

    def _fail(self, error: BaseException) -> None:
        """Leaves the first error for the next call, which must not miss it."""
        self._error = self._error or error
        self.lane.close()
