"""The records of an event file for commands that go through all of them: plain scalars by the thousand, all else one by one.

A record of **plain scalars** holds numbers as ``simple_value``, each with a tag and nothing more. Such records that follow
each other are given as columns, which takes a thirtieth of the time of building their messages, and written from columns
as well. What comes, and in which order, is what ``damage.records`` gives: the checksums of all records are verified.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from torchboard import proto
from torchboard.cli.damage import Damage, records_from
from torchboard.eventfile.framing import HEADER_BYTES, Fault, Record
from torchboard.eventfile.stretches import Stretch, stretches
from torchboard.reader.layout import STEP, STEP_KEY
from torchboard.reader.templates import Alike, Template, TemplateScan
from torchboard.values import wire
from torchboard.values.points import MAX_TAG_BYTES, NAMES, POINT, PointEncoder
from torchboard.values.rows import Row, RowEncoder

_FEW = 64
"""Fewer values in a row are given as records."""
_FEW_POINTS = 16
"""So many events of one scalar are cheaper to write one by one than as a batch."""


@dataclass(frozen=True, eq=False)
class Scalars:
    """The values of consecutive records of plain scalars, in order.

    Attributes:
        offset: where the first of the records starts in its file, in bytes.
        names: tags, those of these values among them.
        tags: int64[n], where the tag of each value stands in ``names``.
        steps: int64[n].
        wall_times: float64[n], of the values' events.
        numbers: float64[n], float32 numbers.
    """

    offset: int
    names: list[str]
    tags: np.ndarray
    steps: np.ndarray
    wall_times: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.tags)

    @property
    def tag_names(self) -> list[str]:
        """The tags that occur, each once."""
        return [self.names[place] for place in np.flatnonzero(np.bincount(self.tags)).tolist()]

    def only(self, chosen: np.ndarray | slice) -> Scalars:
        """Some of them."""
        columns = self.tags, self.steps, self.wall_times, self.numbers
        return Scalars(self.offset, self.names, *(column[chosen] for column in columns))

    def event(self) -> Any:
        """All of them as one ``proto.Event``, at the step and the time of the first."""
        values = [
            proto.Summary.Value(tag=self.names[tag], simple_value=number)
            for tag, number in zip(self.tags.tolist(), self.numbers.tolist())
        ]
        step, wall_time = int(self.steps[0]), float(self.wall_times[0])
        return proto.Event(step=step, wall_time=wall_time, summary=proto.Summary(value=values))

    def groups(self, slack: float) -> np.ndarray:
        """Where events of several scalars start if those that follow each other share one, and where the last one ends:
        int64. In one event the step is the same, no tag comes twice, and times are at most ``slack`` seconds behind the
        first.
        """
        starts = np.flatnonzero(np.append(True, self.steps[1:] != self.steps[:-1]))
        firsts = np.repeat(starts, np.diff(starts, append=len(self)))
        behind, before = self.wall_times - self.wall_times[firsts], self._same_tag_before()
        apart = (before >= firsts) | ~((behind >= 0) & (behind <= slack))
        more, times, places = [], self.wall_times.tolist(), before.tolist()
        bounds = np.append(starts, len(self))
        for run in np.flatnonzero(np.logical_or.reduceat(apart, starts)).tolist():
            start = bounds[run]
            for place in range(start, bounds[run + 1]):
                if places[place] >= start or not 0 <= times[place] - times[start] <= slack:
                    start = place
                    more.append(place)
        return np.sort(np.concatenate([bounds, np.array(more, np.int64)]))

    def _same_tag_before(self) -> np.ndarray:
        """Where the last value with the same tag stands, -1 where there is none: int64[n]."""
        order = np.argsort(self.tags, kind="stable")
        same = self.tags[order[1:]] == self.tags[order[:-1]]
        before = np.full(len(self), -1)
        before[order[1:][same]] = order[:-1][same]
        return before


class ScalarsEncoder:
    """Turns columns of scalars into framed records; keeps templates of the tags."""

    def __init__(self) -> None:
        self._points = PointEncoder()
        self._rows = RowEncoder()

    def encode(self, scalars: Scalars, bounds: np.ndarray) -> Iterator[bytes]:
        """The records, some in a piece: one event for each group, at the step and the time of its first value."""
        short = np.array([len(name.encode()) <= MAX_TAG_BYTES for name in scalars.names])
        alone = (np.diff(bounds) == 1) & short[scalars.tags[bounds[:-1]]]
        turns = np.flatnonzero(np.diff(alone, prepend=~alone[:1])).tolist()
        for first, last in pairwise([*turns, len(alone)]):
            if alone[first] and last - first >= _FEW_POINTS:
                yield self._encode_points(scalars.only(slice(bounds[first], bounds[last])))
            else:
                yield from self._encode_rows(scalars, bounds[first : last + 1].tolist())

    def _encode_points(self, scalars: Scalars) -> bytes:
        numbers = np.zeros(len(scalars.names), np.int32)
        for place in np.flatnonzero(np.bincount(scalars.tags)).tolist():
            numbers[place] = NAMES.number(scalars.names[place])
        points = np.zeros(len(scalars), POINT)
        points["tag"], points["step"] = numbers[scalars.tags], scalars.steps
        points["wall_time"], points["value"] = scalars.wall_times, scalars.numbers
        return self._points.encode(points)[0].tobytes()

    def _encode_rows(self, scalars: Scalars, bounds: list[int]) -> Iterator[bytes]:
        part = slice(bounds[0], bounds[-1])
        tags = [scalars.names[tag] for tag in scalars.tags[part].tolist()]
        numbers = scalars.numbers[part].tolist()
        firsts = bounds[:-1]
        places = zip(pairwise(bounds), scalars.steps[firsts].tolist(), scalars.wall_times[firsts].tolist())
        for (start, stop), step, wall_time in places:
            inside = slice(start - bounds[0], stop - bounds[0])
            yield self._rows.encode(Row(step, wall_time, "", tuple(tags[inside]), tuple(numbers[inside])))


def batches(path: str, stop: int, salvage: bool = False) -> Iterator[Scalars | Record | Damage]:
    """What ``damage.records`` gives, with many plain scalars in a row as ``Scalars``.

    Raises:
        OSError: the file cannot be read.
    """
    reading = _Reading(stop)
    for stretch in stretches(path):
        fault = stretch if isinstance(stretch, Fault) else (yield from reading.items(stretch))
        if fault is not None:
            yield from records_from(path, fault, stop, salvage)
            return


class _Reading:
    """One file while it is read."""

    def __init__(self, stop: int) -> None:
        self._stop = stop
        self._scan = TemplateScan()
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}

    def items(self, stretch: Stretch) -> Generator[Scalars | Record, None, Fault | None]:
        """The records of a stretch before ``stop``, up to the first that fails its checksum; returns what is wrong there."""
        found, others = self._scan.scan(stretch, ())
        broken = min([len(stretch), *(int(alike.records[~alike.sound].min(initial=len(stretch))) for alike in found)])
        within = int(np.searchsorted(stretch.starts, self._stop - stretch.base + HEADER_BYTES))
        limit = min(broken, within)
        records, columns, singles = self._columns(found, others, stretch)
        singles = singles[singles < limit]
        places = np.searchsorted(records, np.append(singles, limit)).tolist()
        done = 0
        for single, place in zip([*singles.tolist(), limit], places):
            yield from self._of_part(stretch, records[done:place], [column[done:place] for column in columns])
            done = place
            if single == limit:
                break
            if not stretch.is_sound(single):
                return stretch.fault(single)
            yield Record(stretch.offset(single), stretch.data(single).tobytes())
        return stretch.fault(broken) if broken < within else None

    def _columns(
        self, found: list[Alike], others: np.ndarray, stretch: Stretch
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """The record of each plain scalar, int64[n]; their columns; and the numbers of all other records, sorted."""
        parts = [[np.zeros(0, np.int64)] * 3 + [np.zeros(0)] * 2]
        singles = [others]
        for alike in found:
            for template, (start, stop) in zip(alike.templates, pairwise(alike.bounds.tolist())):
                records, count = alike.records[start:stop], len(template.tags)
                if not len(records) or not _is_plain(template, stretch.data(int(records[0]))):
                    singles.append(records)
                    continue
                tags = np.tile([self._number(tag) for tag in template.tags], len(records))
                events = (column[start:stop].repeat(count) for column in (alike.records, alike.steps, alike.wall_times))
                records, steps, wall_times = events
                parts.append([records, tags, steps, wall_times, alike.numbers[start:stop].ravel()])
        records, *columns = (np.concatenate(column) for column in zip(*parts))
        order = np.argsort(records, kind="stable")
        return records[order], [column[order] for column in columns], np.sort(np.concatenate(singles))

    def _of_part(self, stretch: Stretch, records: np.ndarray, columns: list[np.ndarray]) -> Iterator[Scalars | Record]:
        """Values of consecutive records, as records where they are few."""
        if len(records) >= _FEW:
            yield Scalars(stretch.offset(int(records[0])), self._names, *columns)
            return
        for record in dict.fromkeys(records.tolist()):
            yield Record(stretch.offset(record), stretch.data(record).tobytes())

    def _number(self, tag: str) -> int:
        if tag not in self._numbers:
            self._numbers[tag] = len(self._names)
            self._names.append(tag)
        return self._numbers[tag]


def _is_plain(template: Template, record: np.ndarray) -> bool:
    """Whether records of a template are as long as plain scalars with these tags: any other field, and any other form of a
    number, would make them longer."""
    values = sum(len(wire.value_before_number(tag)) + wire.FLOAT_BYTES for tag in template.tags)
    step_bytes = 0
    if record[STEP - 1] == STEP_KEY:
        step_bytes = 2 + int(np.argmax(record[STEP : STEP + 10] < 0x80))
    return len(record) == STEP - 1 + step_bytes + len(wire.SUMMARY + wire.varint(values)) + values
