"""One run's event files as one, which TensorBoard shows the same.

Two passes over the files, plain scalars as columns and all else record by record: the first notes what TensorBoard leaves
out, the second writes the rest. In memory are about 50 bytes a value, one record, and the columns of a few megabytes of a
file. About 1 µs a plain scalar, and 10 µs any other value. Scalars that follow each other at one step go into one event, at
the time of the first of them; any other record is copied as it is. What is left behind: points that were superseded, torn
and corrupt records, all but the first announcement of the file format.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError

from torchboard import proto
from torchboard.cli.columns import Scalars, ScalarsEncoder, batches
from torchboard.cli.damage import Damage
from torchboard.cli.log import writer_of
from torchboard.cli.rebucket import rebucketed
from torchboard.cli.survey import Survey
from torchboard.errors import CorruptRecordError, RunInUseError
from torchboard.eventfile.framing import Record, frame
from torchboard.reader.index import event_files

_WRITER = "torchboard compact "
"""How the first record of a file that was made here starts to say what it stands for."""


@dataclass(frozen=True)
class Rules:
    """What may be changed.

    Attributes:
        slack: scalars of one step share an event if their times lie at most so many seconds behind the first.
        clean: whether points that one of the loaders leaves out are left behind too, or only those that both do.
        salvage: whether records behind damage are taken, which no loader shows.
        histograms: whether large histograms get few buckets.
    """

    slack: float = 0.01
    clean: bool = False
    salvage: bool = False
    histograms: bool = False


@dataclass
class Tally:
    """What became of a run.

    Attributes:
        kept, superseded: values that were written and that were not.
        moved: the farthest that a value's time was moved, in seconds.
        timeless: records whose time was not finite; they got that of the record before.
        foreign: sound records that are no events.
        rebucketed: histograms that got fewer buckets.
        damage: what could not be read.
    """

    kept: int = 0
    superseded: int = 0
    moved: float = 0.0
    timeless: int = 0
    foreign: int = 0
    rebucketed: int = 0
    damage: list[Damage] = field(default_factory=list)

    @property
    def repaired(self) -> bool:
        """Whether anything was wrong."""
        return bool(self.superseded or self.timeless or self.foreign or self.damage)


class Source:
    """The event files of a run as they are now.

    Attributes:
        directory: where they lie.
        files: their paths, in the order in which they are read.
        leftovers: files that an interrupted ``compact`` has already rewritten into one of ``files``.
        nbytes: how large all of them are together.

    Raises:
        OSError: a file cannot be read.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._states = _states(directory)
        replaced = {name for path in self._states for name in _replaced(path)}
        self.leftovers = [path for path in self._states if (os.path.basename(path), self.size(path)) in replaced]
        self.files = [path for path in self._states if path not in self.leftovers]
        self.nbytes = sum(map(self.size, self._states))

    @property
    def is_one(self) -> bool:
        """Whether there is a single file."""
        return len(self._states) == 1

    def size(self, path: str) -> int:
        """How large a file is."""
        return self._states[path][0]

    def check(self) -> None:
        """Makes sure that nobody has written meanwhile.

        Raises:
            RunInUseError: somebody has.
        """
        if _states(self.directory) != self._states:
            raise RunInUseError(
                f"log directory {self.directory!r}",
                "its event files changed while they were read",
                "end the training that writes there first",
            )

    def events(self, rules: Rules, advance: Callable[[int], object]) -> Iterator[Scalars | Record | Damage]:
        """The records of all files in order, and the damage between them."""
        for path in self.files:
            done = 0
            for item in batches(path, self.size(path), rules.salvage):
                if item.offset - done > 1 << 20:
                    advance(item.offset - done)
                    done = item.offset
                yield item
            advance(self.size(path) - done)


def rewrite(source: Source, target: str, rules: Rules, advance: Callable[[int], object]) -> Tally:
    """Writes a run into one new file, which is complete, checked and on disk when this returns.

    Args:
        source: the run.
        target: the file to make; its name should hide it from TensorBoard.
        rules: what may be changed.
        advance: is told how many bytes more were read, twice the run's in all.

    Raises:
        OSError: a file cannot be read or written.
        RunInUseError: somebody writes to the run.
        CorruptRecordError: the new file does not read back.
    """
    survey, tally = Survey(), Tally()
    for item in source.events(rules, advance):
        if isinstance(item, Damage):
            tally.damage.append(item)
        elif isinstance(item, Scalars):
            survey.note_scalars(item)
        elif (event := _event(item)) is not None:
            survey.note(event)
        else:
            tally.foreign += 1
    superseded = survey.superseded(by_either=rules.clean)
    with open(target, "xb") as file:
        _Copy(file, source, rules, tally).write(survey, superseded, advance)
        file.flush()
        os.fsync(file.fileno())
    tally.superseded = int(superseded.sum())
    source.check()
    _check(target, tally.kept)
    return tally


class _Copy:
    """The second pass."""

    def __init__(self, file: BinaryIO, source: Source, rules: Rules, tally: Tally) -> None:
        self._file = file
        self._source = source
        self._rules = rules
        self._tally = tally
        self._begun = False
        self._version = ""
        self._time = 0.0  # of the last record that has one
        self._waiting: Any = None  # an event of scalars that more may join
        self._tags: set[str] = set()  # those in it
        self._heads: dict[str, bytes] = {}  # metadata that the first record of a tag had, until it is written
        self._encoder = ScalarsEncoder()

    def write(self, survey: Survey, superseded: np.ndarray, advance: Callable[[int], object]) -> None:
        """Writes what is not superseded."""
        scalars = {name for name, tag in survey.tags.items() if tag.plugin == "scalars"}
        self._heads = {name: tag.metadata for name, tag in survey.tags.items() if tag.metadata and not tag.uniform}
        position, dropped = 0, superseded.tobytes()
        for item in self._source.events(self._rules, advance):
            if isinstance(item, Scalars):
                end = position + len(item)
                if not superseded[position:end].all():
                    self._write_scalars(item.only(~superseded[position:end]), scalars)
                position = end
                continue
            event = None if isinstance(item, Damage) else _event(item)
            if event is None:
                continue
            self._set_time(event)
            if event.WhichOneof("what") != "summary":
                self._write_other(event)
                continue
            end = position + len(event.summary.value)
            if any(dropped[position:end]):
                values = [value for value, drop in zip(event.summary.value, dropped[position:end]) if not drop]
                event = proto.Event(wall_time=event.wall_time, step=event.step, summary=proto.Summary(value=values))
            position = end
            self._write_summary(event, scalars)
        self._flush()

    def _write_scalars(self, values: Scalars, scalars: set[str]) -> None:
        """Writes plain scalars as columns, but the first group and the last: these may share an event with what lies around."""
        if not np.isfinite(values.wall_times).all() or self._heads.keys() & values.tag_names:
            self._write_groups(values, np.arange(len(values) + 1), scalars)
            return
        bounds = values.groups(self._rules.slack)
        self._write_groups(values, bounds[:2], scalars)
        if len(bounds) > 3:
            self._flush()
            self._write_columns(values, bounds[1:-1])
        self._write_groups(values, bounds[max(1, len(bounds) - 2) :], scalars)

    def _write_columns(self, values: Scalars, bounds: np.ndarray) -> None:
        for data in self._encoder.encode(values, bounds):
            self._file.write(data)
        self._tally.kept += int(bounds[-1] - bounds[0])
        moved = values.wall_times[bounds[0] : bounds[-1]] - values.wall_times[bounds[:-1]].repeat(np.diff(bounds))
        self._tally.moved = max(self._tally.moved, float(moved.max()))

    def _write_groups(self, values: Scalars, bounds: np.ndarray, scalars: set[str]) -> None:
        for start, stop in pairwise(bounds.tolist()):
            event = values.only(slice(start, stop)).event()
            self._set_time(event)
            self._write_summary(event, scalars)

    def _write_summary(self, event: Any, scalars: set[str]) -> None:
        values = event.summary.value
        if not values:
            return
        self._tally.kept += len(values)
        tags = {value.tag or value.node_name for value in values}
        for value in values if self._heads and tags & self._heads.keys() else ():
            if (value.tag or value.node_name) in self._heads:
                value.metadata.ParseFromString(self._heads.pop(value.tag or value.node_name))
        if not tags <= scalars:
            if tags & self._tags:
                self._flush()
            if self._rules.histograms:
                self._tally.rebucketed += sum(map(rebucketed, values))
            self._put(event)
        elif self._joins(event, tags):
            self._tally.moved = max(self._tally.moved, event.wall_time - self._waiting.wall_time)
            self._waiting.summary.value.extend(values)
            self._tags |= tags
        else:
            self._flush()
            self._waiting, self._tags = event, tags

    def _joins(self, event: Any, tags: set[str]) -> bool:
        waiting = self._waiting
        return (
            waiting is not None
            and event.step == waiting.step
            and 0 <= event.wall_time - waiting.wall_time <= self._rules.slack
            and not tags & self._tags
        )

    def _write_other(self, event: Any) -> None:
        self._flush()
        if event.HasField("file_version"):
            if event.file_version == self._version:
                return
            self._version = event.file_version
        elif event.WhichOneof("what") is None and event.source_metadata.writer.startswith(_WRITER):
            return
        self._put(event)

    def _set_time(self, event: Any) -> None:
        if math.isfinite(event.wall_time):
            self._time = event.wall_time
        else:
            event.wall_time = self._time
            self._tally.timeless += 1

    def _flush(self) -> None:
        if self._waiting is not None:
            self._put(self._waiting)
            self._waiting, self._tags = None, set()

    def _put(self, event: Any) -> None:
        if not self._begun:
            self._begun = True
            self._announce(event)
        self._file.write(frame(event.SerializeToString()))

    def _announce(self, first: Any) -> None:
        """Names the files that this one stands for, in its first record."""
        paths = [*self._source.leftovers, *self._source.files[:-1]]
        if not paths:
            if first.source_metadata.writer.startswith(_WRITER):
                first.source_metadata.writer = "torchboard"
            return
        names = [[os.path.basename(path), self._source.size(path)] for path in paths]
        announcement = first if first.HasField("file_version") else proto.Event(wall_time=first.wall_time)
        announcement.source_metadata.writer = _WRITER + json.dumps(names)
        if announcement is not first:
            self._file.write(frame(announcement.SerializeToString()))


def _event(record: Record) -> Any:
    """The event that a record holds, None if it is none."""
    try:
        return proto.Event.FromString(record.data)
    except DecodeError:
        return None


def _states(directory: str) -> dict[str, tuple[int, int, int]]:
    """Path -> size, time of the last change and inode of the event files in a directory."""
    found = {path: os.stat(path) for path in event_files(directory)}
    return {path: (state.st_size, state.st_mtime_ns, state.st_ino) for path, state in found.items()}


def _replaced(path: str) -> set[tuple[str, int]]:
    """Name and size of the files that a compacted file says it stands for; none if it is another file."""
    writer = writer_of(path)
    names = json.loads(writer[len(_WRITER) :]) if writer.startswith(_WRITER) else ()
    return {(name, length) for name, length in names}


def _check(path: str, expected: int) -> None:
    """Reads the new file back."""
    found = 0
    for item in batches(path, os.path.getsize(path)):
        if isinstance(item, Damage):
            raise CorruptRecordError(f"the new file {path!r}", f"{item.what} at byte {item.offset}", "check the disk")
        found += len(item if isinstance(item, Scalars) else proto.Event.FromString(item.data).summary.value)
    if found != expected:
        raise CorruptRecordError(
            f"the new file {path!r}", f"it holds {found} values instead of {expected}", "check the disk"
        )
