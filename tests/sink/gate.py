"""A sink that stands still or fails when it is told to."""

from __future__ import annotations

import threading

from torchboard.sink.memory import MemorySink


class Gate(MemorySink):
    """Lets a write through only while it is open, or fails with what it was told to."""

    def __init__(self):
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.failure = None
        self.flushed = self.closed = 0

    def write(self, event):
        self.open.wait()
        if self.failure is not None:
            raise self.failure
        super().write(event)

    def put(self, run, path, data):
        self.open.wait()
        if self.failure is not None:
            raise self.failure
        super().put(run, path, data)
        self.events.append(path)

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed += 1
