"""The four verbs of every sink."""

from __future__ import annotations

from typing import Protocol

from torchboard.errors import InvalidValueError
from torchboard.values import Event
from torchboard.values.rows import Row


class Sink(Protocol):
    """Takes events in order. Asynchrony is a sink that holds a sink, not an option of one."""

    def write(self, event: Event | Row) -> None:
        """Takes one event. What it holds must not change afterwards."""

    def put(self, run: str, path: str, data: bytes) -> None:
        """Takes one file, in order with the events: ``path`` below the run's directory, whole or not at all.

        A file of that name is replaced.
        """

    def flush(self) -> None:
        """Returns when everything written before it is where the sink takes it."""

    def close(self) -> None:
        """Flushes and lets go of files and threads. A second call does nothing."""


def check_sink(sink: object) -> None:
    """Refuses what events cannot go to.

    Raises:
        InvalidValueError: it is a class, or lacks one of the four verbs.
    """
    lacking = [verb for verb in ("write", "put", "flush", "close") if not callable(getattr(sink, verb, None))]
    if lacking or isinstance(sink, type):
        raise InvalidValueError(
            f"sink={sink!r:.80}",
            f"it has no method {lacking[0]}, as a sink has" if lacking else "a class is no sink yet",
            "give one such as torchboard.MemorySink(), or a path as log_dir",
        )
