"""What stands where in the event files of one run.

One pass over the files, as a stream, notes every point: 24 bytes of memory for a scalar, value included, and 40 for
anything else, whose values stay on disk until they are asked for. Files are read in the order of their names; a file that
is broken is read up to there.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from torchboard import proto
from torchboard.eventfile.framing import Fault
from torchboard.eventfile.names import MARK
from torchboard.eventfile.scanning import walk
from torchboard.values.graph import RUN_GRAPH_TAG
from torchboard.values.tensor import array_of

_FORMS = {"image": "images", "histo": "histograms", "audio": "audio"}
"""The forms of a value that TensorFlow 1 had beside ``simple_value``, and the plugins that show them."""

_DTYPES = {value.number: name for name, value in proto.DataType.items()}
_FLOAT = proto.DataType["DT_FLOAT"].number


@dataclass(frozen=True)
class Problem:
    """Something in an event file that could not be read.

    Attributes:
        path: the file.
        offset: where the record starts, in bytes.
        what: what is wrong with it.
    """

    path: str
    offset: int
    what: str


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

    def add_number(self, number: float, form: str) -> None:
        """Notes the value of one more scalar."""
        self.numbers.append(number)
        if form not in self.forms:
            self.forms.add(form)

    def purge(self, step: int) -> None:
        """Drops the points from a step on."""
        keep = np.frombuffer(self.steps, np.int64) < step if self.steps else np.zeros(0, bool)
        if keep.all():
            return
        for name in ("steps", "wall_times", "numbers", "places"):
            old = getattr(self, name)
            rows = np.frombuffer(old, np.dtype(old.typecode)).reshape(len(keep), -1) if old else np.zeros((0, 1))
            setattr(self, name, array(old.typecode, rows[keep].tobytes() if old else b""))


class RunIndex:
    """What stands where in one run.

    Attributes:
        directory: where the run's files are.
        files: their paths, in the order in which they are read.
        columns: (tag, plugin) -> the points, in the order in which they first came.
        problems: what could not be read.
        spans: file -> first and last wall time of its summaries, in seconds since the epoch.
        metadata: tag -> the first ``SummaryMetadata`` that came with it: TensorFlow 1 leaves them out later.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.files = event_files(directory)
        self.columns: dict[tuple[str, str], Column] = {}
        self.problems: list[Problem] = []
        self.spans: dict[str, tuple[float, float]] = {}
        self.metadata: dict[str, Any] = {}
        for number in range(len(self.files)):
            self._read(number)

    def _read(self, number: int) -> None:
        path = self.files[number]
        try:
            for item in walk(path):
                if isinstance(item, Fault):
                    self.problems.append(Problem(path, *item))
                    return
                try:
                    event = proto.Event.FromString(item.data)
                except DecodeError:
                    self.problems.append(Problem(path, item.offset, "it is no event"))
                    continue
                self._note(event, number, item.offset)
        except OSError as error:
            self.problems.append(Problem(path, 0, f"the file cannot be read ({error})"))

    def _note(self, event: Any, number: int, offset: int) -> None:
        what = event.WhichOneof("what")
        if what == "summary":
            self._span(self.files[number], event.wall_time)
            for position, value in enumerate(event.summary.value):
                if value.WhichOneof("value") == "simple_value":
                    self._point(value.tag, "scalars", event).add_number(value.simple_value, "simple_value")
                else:
                    self._note_value(event, value, (number, offset, position))
        elif what == "graph_def":
            self._point(RUN_GRAPH_TAG, "graphs", event).places.extend((number, offset, 0))
        elif what == "tagged_run_metadata":
            tag = event.tagged_run_metadata.tag
            self._point(tag, "graph_tagged_run_metadata", event).places.extend((number, offset, 0))
        elif what == "session_log" and event.session_log.status == proto.SessionLog.START:
            for column in self.columns.values():
                column.purge(event.step)

    def _note_value(self, event: Any, value: Any, place: tuple[int, int, int]) -> None:
        tag = value.tag or value.node_name
        plugin = _FORMS.get(value.WhichOneof("value") or "") or self._plugin(tag, value)
        if plugin != "scalars":
            self._point(tag, plugin, event).places.extend(place)
            return
        number, form = _number(value.tensor)
        if number is None:
            self.problems.append(Problem(self.files[place[0]], place[1], f"scalar {tag!r} is not one number ({form})"))
        else:
            self._point(tag, plugin, event).add_number(number, form)

    def _plugin(self, tag: str, value: Any) -> str:
        name = value.metadata.plugin_data.plugin_name
        if tag not in self.metadata:
            if not name:
                return ""
            self.metadata[tag] = proto.SummaryMetadata()
            self.metadata[tag].CopyFrom(value.metadata)
        return name or self.metadata[tag].plugin_data.plugin_name

    def _point(self, tag: str, plugin: str, event: Any) -> Column:
        column = self.columns.get((tag, plugin))
        if column is None:
            column = self.columns[tag, plugin] = Column(tag, plugin)
        column.steps.append(event.step)
        column.wall_times.append(event.wall_time)
        return column

    def _span(self, path: str, wall_time: float) -> None:
        first, last = self.spans.get(path, (wall_time, wall_time))
        if wall_time < first or wall_time >= last:
            self.spans[path] = (min(first, wall_time), max(last, wall_time))


def event_files(directory: str) -> list[str]:
    """Paths of the event files that lie in a directory, in the order of their names."""
    with os.scandir(directory) as entries:
        return sorted(entry.path for entry in entries if MARK in entry.name and entry.is_file())


def runs_below(log_dir: str) -> list[str]:
    """Directories with event files, the log directory among them, relative to it; links are followed, loops are not.

    A directory that cannot be listed counts as empty.
    """
    found, waiting = [], [log_dir]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                items = list(entries)
        except OSError:
            continue
        if any(MARK in item.name and item.is_file() for item in items):
            found.append(os.path.relpath(directory, log_dir))
        waiting += [item.path for item in items if item.is_dir() and not _leads_back(item.path, directory)]
    return sorted(found)


def _leads_back(path: str, directory: str) -> bool:
    """Whether a directory is a link to one that holds it."""
    if not os.path.islink(path):
        return False
    target = os.path.realpath(path)
    return os.path.commonpath([target, os.path.realpath(directory)]) == target


def _number(tensor: Any) -> tuple[float | None, str]:
    """The one number that a tensor of any numeric type holds, None if it does not, and its element type and shape."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == _FLOAT and not shape and len(tensor.float_val) == 1:
        return tensor.float_val[0], "DT_FLOAT"
    dtype = _DTYPES.get(tensor.dtype, f"type {tensor.dtype}")
    form = f"{dtype} {shape}" if shape else dtype
    try:
        array = array_of(tensor)
    except ValueError:
        return None, form
    return (float(array.reshape(())) if array.size == 1 and array.dtype.kind != "c" else None), form
