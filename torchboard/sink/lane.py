"""The short way into a sink's queue: open while there is nothing to check, so that logging a scalar costs an append."""

from __future__ import annotations

from collections import deque
from typing import Any

LIMIT = 1 << 14
"""How many items may wait for the lane to be open: about 3 MB of points."""


class Lane:
    """The short way into a queue, for points only, closed at first.

    ``if len(lane.queue) < lane.limit: lane.queue.append(point)`` is all that it takes.

    Attributes:
        queue: what waits, of all kinds.
        limit: how much may wait for the lane to be open; 0 while it is closed.
    """

    __slots__ = ("limit", "queue")

    def __init__(self, queue: deque[Any]) -> None:
        self.queue = queue
        self.limit = 0

    def close(self) -> None:
        self.limit = 0
