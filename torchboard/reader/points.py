"""The points of one tag, and how the points of a stretch of records are added to those that came before.

A stretch brings its points tag by tag, not record by record: those of records that were read together in one piece, all
others one by one. Each carries the number of its record, by which they are put in order.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from torchboard.eventfile.stretches import Stretch
from torchboard.reader.templates import Alike


@dataclass
class Column:
    """The points of one tag that belong to one plugin, in the order of the files."""

    tag: str
    plugin: str
    steps: array[int] = field(default_factory=lambda: array("q"))
    wall_times: array[float] = field(default_factory=lambda: array("d"))
    numbers: array[float] = field(default_factory=lambda: array("d"))
    """The values of scalars; empty for any other plugin."""
    places: array[int] = field(default_factory=lambda: array("q"))
    """File, offset of the record and place in its summary of anything but scalars, three numbers a point."""
    forms: set[str] = field(default_factory=set)
    """In which forms scalars stand in the files."""

    def extend(self, piece: Piece) -> None:
        """Adds points behind those that are there."""
        values = self.places if piece.values.ndim == 2 else self.numbers
        for column, more in ((self.steps, piece.steps), (self.wall_times, piece.wall_times), (values, piece.values)):
            column.frombytes(more.tobytes())

    def purge(self, step: int) -> None:
        """Drops the points from a step on."""
        keep = np.frombuffer(self.steps, np.int64) < step if self.steps else np.zeros(0, bool)
        if keep.all():
            return
        for name in ("steps", "wall_times", "numbers", "places"):
            old = getattr(self, name)
            rows = np.frombuffer(old, np.dtype(old.typecode)).reshape(len(keep), -1) if old else np.zeros((0, 1))
            setattr(self, name, array(old.typecode, rows[keep].tobytes() if old else b""))


class Piece(NamedTuple):
    """Points of one column in one stretch, in order."""

    records: np.ndarray
    """int64[n]: the numbers of their records."""
    steps: np.ndarray
    """int64[n]"""
    wall_times: np.ndarray
    """float64[n]"""
    values: np.ndarray
    """float64[n], the numbers of scalars, or int64 [n, 3], the places of anything else."""

    def rows(self, chosen: np.ndarray) -> Piece:
        """Some of the points."""
        return Piece(*(column[chosen] for column in self))


class Points:
    """The points of one stretch of a file, which may come in any order of the columns, and what was purged in between."""

    def __init__(self, stretch: Stretch, file: int) -> None:
        self.stretch = stretch
        self.file = file
        self.wall_times: list[float] = []
        """Of the summaries that were parsed one by one."""
        self._firsts: dict[tuple[str, str], tuple[int, int]] = {}
        self._forms: dict[tuple[str, str], set[str]] = {}
        self._pieces: dict[tuple[str, str], list[Piece]] = {}
        self._singles: dict[tuple[str, str], list[tuple[int, int, float, Any]]] = {}
        self._restarts: list[tuple[int, int]] = []

    def add(
        self, key: tuple[str, str], place: tuple[int, int], event: Any, number: tuple[float, str] | None = None
    ) -> None:
        """Adds one point to the column ``key``; those of one column come in order.

        Args:
            place: its record, and its place in that.
            event: what its step and wall time are of.
            number: of a scalar, the number and its form in the file.
        """
        record, position = place
        self._meet(key, place, number[1] if number else "")
        value = number[0] if number else (self.file, self.stretch.offset(record), position)
        self._singles.setdefault(key, []).append((record, event.step, event.wall_time, value))

    def add_alike(self, alike: Alike) -> None:
        """Adds the points of records that are alike."""
        bounds = alike.bounds.tolist()
        for template, start, stop in zip(alike.templates, bounds, bounds[1:]):
            if start == stop:
                continue
            records, steps, wall_times = (
                column[start:stop] for column in (alike.records, alike.steps, alike.wall_times)
            )
            first = int(records[0])
            for position, (tag, form) in enumerate(zip(template.tags, template.forms)):
                key = tag, "scalars"
                self._meet(key, (first, position), form)
                piece = Piece(records, steps, wall_times, alike.numbers[start:stop, position])
                self._pieces.setdefault(key, []).append(piece)

    def restart(self, record: int, step: int) -> None:
        """Drops the points of all records before this one from a step on; restarts come in order."""
        self._restarts.append((record, step))

    def add_to(self, columns: dict[tuple[str, str], Column]) -> None:
        """Adds them to what came before; columns that are new are added in the order in which they first came."""
        if self._restarts:
            lowest = min(step for _, step in self._restarts)
            for column in columns.values():
                column.purge(lowest)
        for key in sorted(self._firsts, key=self._firsts.__getitem__):
            column = columns.setdefault(key, Column(*key))
            column.extend(self._kept(self._piece(key)))
            column.forms |= self._forms[key]

    def _meet(self, key: tuple[str, str], place: tuple[int, int], form: str) -> None:
        first = self._firsts.get(key)
        if first is None or place < first:
            self._firsts[key] = place
        forms = self._forms.setdefault(key, set())
        if form:
            forms.add(form)

    def _piece(self, key: tuple[str, str]) -> Piece:
        """All points of a column, in the order of their records."""
        pieces = list(self._pieces.get(key, ()))
        if key in self._singles:
            records, steps, wall_times, values = zip(*self._singles[key])
            kind = np.float64 if key[1] == "scalars" else np.int64
            pieces.append(
                Piece(
                    np.array(records, np.int64),
                    np.array(steps, np.int64),
                    np.array(wall_times, np.float64),
                    np.array(values, kind),
                )
            )
        if len(pieces) == 1:
            return pieces[0]
        joined = Piece(*(np.concatenate(parts) for parts in zip(*pieces)))
        return joined.rows(np.argsort(joined.records, kind="stable"))

    def _kept(self, piece: Piece) -> Piece:
        """The points that no restart behind them drops."""
        if not self._restarts:
            return piece
        records, steps = np.array(self._restarts, np.int64).T
        lowest = np.minimum.accumulate(steps[::-1])[::-1]
        following = np.searchsorted(records, piece.records, "right")
        last = following == len(records)
        return piece.rows(last | (piece.steps < lowest[np.where(last, 0, following)]))
