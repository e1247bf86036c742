"""How much of a training's time the monitor takes, and how often it can afford to look."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.posts import read_each
from torchboard.graph.job import in_a_job

_MAX_STRIDE = 1 << 20


class Overhead:
    """A stopwatch for the monitor's own host time, and the bound that follows from it.

    As a context manager it measures what runs inside, on any thread: what threads do at the same time counts once, and inside
    itself it does nothing. Without a limit nothing is measured. What a granted step took is compared with the time since the
    one before: above its share the distance between granted steps doubles, once or several times; below a quarter of it, it
    halves, down to what the schedule says. Its share is what the limit leaves beside what no distance changes, the first
    steps of epochs and collecting, in the last epoch; a quarter of the limit at least, so that the next granted step is never
    so far away that cheaper steps go unnoticed. Time on a device is not seen. In a distributed job all ranks do so together, when
    an epoch ends.

    Args:
        limit: the share of the training's time that the monitor may take, such as 0.01; None for no bound.
        clock: gives seconds.
    """

    def __init__(self, limit: float | None = None, clock=time.perf_counter) -> None:
        self.limit = limit
        self._clock = clock
        self._stride = self._wanted = 1
        self._due = 0
        self._granted = False
        self._lock = Lock()
        self._depth = 0
        self._spent = 0.0
        self._began = clock()
        self._last = self._began
        self._epoch = (self._began, 0.0)
        self._before = self._on_granted = self._fixed = self._waited = 0.0

    def __enter__(self) -> None:
        if self.limit is None:
            return
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self._began = self._clock()

    def __exit__(self, *exception: object) -> None:
        if self.limit is None:
            return
        with self._lock:
            self._depth -= 1
            if not self._depth:
                self._spent += self._clock() - self._began

    def affords(self) -> bool:
        """Whether a step that is due is captured: every one, or one in 2, 4, 8, … of them."""
        self._due += 1
        self._granted = self._due >= self._stride
        if self._granted:
            self._due = 0
            self._before = self._spent
        return self._granted

    def captured(self) -> None:
        """A captured step has ended. One that ``affords`` was not asked for, an epoch's first, changes nothing."""
        if self.limit is None or not self._granted:
            return
        self._granted = False
        now, spent = self._mark()
        cost = spent - self._before
        share = cost / max(now - self._last, 1e-9)
        self._last = now
        self._on_granted += cost
        limit = max(self.limit - self._fixed, self.limit / 4)
        self._wanted = self._stride
        while share > limit and self._wanted < _MAX_STRIDE:
            self._wanted *= 2
            share /= 2
        if share < limit / 4 and self._wanted > 1:
            self._wanted //= 2
        if not in_a_job():
            self._stride = self._wanted

    def agree(self, ranks: Ranks) -> None:
        """From now on every rank captures as seldom as the one that wants to most seldom. All call it when an epoch ends."""
        wanted: list[int] = []
        posts = ranks.gather("stride", b"%d" % self._wanted)
        read_each(posts, ranks, lambda _, post: wanted.append(int(post)))
        agreed = {0: ranks.from_first("agreed stride", b"%d" % max(wanted, default=self._wanted))}
        read_each(agreed, ranks, self._take_stride)

    def _take_stride(self, _: int, post: bytes) -> None:
        self._stride = self._wanted = int(post)

    def wait(self, until: Callable[[], None]) -> None:
        """Calls what returns when all is written. Its time is in the next share that ``take`` gives; the bound does not go by
        it, since captured steps that lie further apart shorten it little. What it raises is raised."""
        if self.limit is None:
            until()
            return
        began = self._clock()
        try:
            until()
        finally:
            self._waited += self._clock() - began

    def take(self) -> float:
        """The monitor's share of the time since the last call, waiting included. It is called when an epoch ends and all is
        collected."""
        now, spent = self._mark()
        began, before = self._epoch
        elapsed = max(now - began, 1e-9)
        self._fixed = (spent - before - self._on_granted) / elapsed
        self._on_granted = 0.0
        self._before = spent
        self._epoch = now, spent
        waited, self._waited = self._waited, 0.0
        return (spent - before + waited) / elapsed

    def _mark(self) -> tuple[float, float]:
        """Now, and what has been spent until now."""
        now = self._clock()
        return now, self._spent + (now - self._began if self._depth else 0.0)
