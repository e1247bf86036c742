"""What stands where in the event files of one run.

One pass over the files, as a stream, notes every point: 24 bytes of memory for a scalar, value included, and 40 for
anything else, whose values stay on disk until they are asked for. Files are read in the order of their names; a file that
is broken is read up to there. Scalars are read many at once, by ``TemplateScan``; a parser reads the rest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from torchboard import proto
from torchboard.eventfile.framing import Fault
from torchboard.eventfile.names import MARK
from torchboard.eventfile.stretches import Stretch, stretches
from torchboard.reader.numbers import number_of
from torchboard.reader.points import Column, Points
from torchboard.reader.templates import TemplateScan
from torchboard.values.graph import RUN_GRAPH_TAG

__all__ = ["Column", "Problem", "RunIndex", "event_files", "runs_below"]

_FORMS = {"image": "images", "histo": "histograms", "audio": "audio"}
"""The forms of a value that TensorFlow 1 had beside ``simple_value``, and the plugins that show them."""


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
        self._templates = TemplateScan()
        for number in range(len(self.files)):
            self._read(number)

    def _read(self, number: int) -> None:
        path = self.files[number]
        try:
            for stretch in stretches(path):
                fault = stretch if isinstance(stretch, Fault) else self._absorb(stretch, number)
                if fault is not None:
                    self.problems.append(Problem(path, *fault))
                    return
        except OSError as error:
            self.problems.append(Problem(path, 0, f"the file cannot be read ({error})"))

    def _absorb(self, stretch: Stretch, number: int) -> Fault | None:
        """Notes what stands in a stretch up to the first record that fails its checksum, and gives what is wrong there."""
        points = Points(stretch, number)
        found, others = self._templates.scan(stretch, self.metadata)
        broken = min([len(stretch), *(int(alike.records[~alike.sound].min(initial=len(stretch))) for alike in found)])
        for record in others.tolist():
            if record >= broken:
                break
            if not stretch.is_sound(record):
                broken = record
                break
            self._note(points, record)
        if broken < len(stretch):
            found = [alike.only(alike.records < broken) for alike in found]
        for alike in found:
            points.add_alike(alike)
        points.add_to(self.columns)
        self._span(number, np.concatenate([points.wall_times, *(alike.wall_times for alike in found)]))
        return stretch.fault(broken) if broken < len(stretch) else None

    def _note(self, points: Points, record: int) -> None:
        """Notes one record, whatever it holds."""
        try:
            event = proto.Event.FromString(points.stretch.data(record).tobytes())
        except DecodeError:
            self._complain(points, record, "it is no event")
            return
        what = event.WhichOneof("what")
        if what == "summary":
            points.wall_times.append(event.wall_time)
            for position, value in enumerate(event.summary.value):
                self._note_value(points, (record, position), event, value)
        elif what == "graph_def":
            points.add((RUN_GRAPH_TAG, "graphs"), (record, 0), event)
        elif what == "tagged_run_metadata":
            points.add((event.tagged_run_metadata.tag, "graph_tagged_run_metadata"), (record, 0), event)
        elif what == "session_log" and event.session_log.status == proto.SessionLog.START:
            points.restart(record, event.step)

    def _note_value(self, points: Points, place: tuple[int, int], event: Any, value: Any) -> None:
        form = value.WhichOneof("value") or ""
        if form == "simple_value":
            points.add((value.tag, "scalars"), place, event, number_of(value))
            return
        tag = value.tag or value.node_name
        plugin = _FORMS.get(form) or self._plugin(tag, value)
        if plugin != "scalars":
            points.add((tag, plugin), place, event)
            return
        number, form = number_of(value)
        if number is None:
            self._complain(points, place[0], f"scalar {tag!r} is not one number ({form})")
        else:
            points.add((tag, plugin), place, event, (number, form))

    def _complain(self, points: Points, record: int, what: str) -> None:
        self.problems.append(Problem(self.files[points.file], points.stretch.offset(record), what))

    def _plugin(self, tag: str, value: Any) -> str:
        name = value.metadata.plugin_data.plugin_name
        if tag not in self.metadata:
            if not name:
                return ""
            self.metadata[tag] = proto.SummaryMetadata()
            self.metadata[tag].CopyFrom(value.metadata)
        return name or self.metadata[tag].plugin_data.plugin_name

    def _span(self, number: int, wall_times: np.ndarray) -> None:
        known = wall_times[~np.isnan(wall_times)]
        if len(known):
            first, last = float(known.min()), float(known.max())
            span = self.spans.get(self.files[number], (first, last))
            self.spans[self.files[number]] = min(first, span[0]), max(last, span[1])


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
