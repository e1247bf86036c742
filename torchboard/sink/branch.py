"""Runs of their own for a process that shares a log directory with the one it comes from.

TensorBoard's Python loader follows one file a run, so two processes never write to one run: what a child logs to ``train``
goes to ``train/fork-<pid>``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torchboard.sink.protocol import Sink
from torchboard.values import Event
from torchboard.values.rows import Row

if TYPE_CHECKING:
    import numpy as np


class Branch:
    """Writes every run to the run ``name`` below it.

    Args:
        sink: a sink that nobody else writes to, one of those that write files.
        name: such as ``fork-1234``.
    """

    def __init__(self, sink: Sink, name: str) -> None:
        self._sink = sink
        self._name = name

    def afresh(self) -> Sink:
        """A sink on the same log directory, with nothing of this one's."""
        return self._sink.afresh()

    def write(self, event: Event | Row) -> None:
        self._sink.write(replace(event, run=self._place(event.run)))

    def write_points(self, run: str, points: np.ndarray) -> int:
        """Writes points of one run, as the wrapped sink does."""
        return self._sink.write_points(self._place(run), points)

    def put(self, run: str, path: str, data: bytes) -> None:
        self._sink.put(self._place(run), path, data)

    def tick(self) -> None:
        """Does what the wrapped sink does now and then."""
        if (tick := getattr(self._sink, "tick", None)) is not None:
            tick()

    def flush(self) -> None:
        self._sink.flush()

    def close(self) -> None:
        self._sink.close()

    def _place(self, run: str) -> str:
        return f"{run}/{self._name}" if run else self._name
