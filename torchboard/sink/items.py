"""What stands in a sink's queue beside events and points."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import ClassVar


class Flush(threading.Event):
    """A place in the queue, set when the thread has passed it."""


@dataclass(frozen=True)
class File:
    """A file in the queue; it is never dropped for want of room while the wrapped sink can write."""

    run: str
    path: str
    data: bytes

    droppable: ClassVar[bool] = False

    @property
    def nbytes(self) -> int:
        """About how much memory it holds."""
        return 200 + len(self.data)
