"""A log directory as runs, tags and arrays, whoever wrote it: torchboard, TensorFlow, PyTorch, tensorboardX or Keras.

    >>> log = torchboard.read("runs/resnet")
    >>> loss = log.scalars("epoch_loss", run="train")
    >>> loss.steps, loss.values

A run's files are gone through once, when something of that run is first asked for; pictures, histograms and the like stay
on disk until they are. A reader shows the log as it was then: ``read`` again to see what came since.
"""

from __future__ import annotations

import difflib
import os
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Generic, TypeVar

import numpy as np

from torchboard import proto
from torchboard.errors import CorruptRecordError, InvalidValueError, RunError, TorchboardError
from torchboard.eventfile.scanning import record_at
from torchboard.reader.index import Column, Problem, RunIndex, runs_below
from torchboard.reader.remote import fetch
from torchboard.values import KINDS, ConceptualGraph, Histogram, Image, OpGraph, Scalar, Text, Value
from torchboard.values.graph import RUN_GRAPH_TAG

__all__ = ["Problem", "Reader", "Series", "read"]

_Values = TypeVar("_Values")


@dataclass(frozen=True, eq=False)
class Series(Generic[_Values]):
    """What one tag of one run holds, point by point, in the order of the files.

    Attributes:
        run: the run, relative to the log directory.
        tag: the tag.
        plugin: the plugin that shows it.
        steps: int64[n]; they go up unless the writer let them go back.
        wall_times: float64[n], seconds since the epoch.
        values: float64[n] for scalars, and a list of n values for anything else.
    """

    run: str
    tag: str
    plugin: str
    steps: np.ndarray
    wall_times: np.ndarray
    values: _Values

    def __len__(self) -> int:
        return len(self.steps)


def read(log_dir: str | os.PathLike[str]) -> Reader:
    """A reader of all runs below a directory. Lists directories; opens no file.

    Of a URL (``s3://bucket/runs``) all event files are downloaded first; the copy goes with the reader.

    Raises:
        InvalidValueError: ``log_dir`` is not a path.
        RunError: there is no such directory, or it cannot be downloaded.
    """
    return Reader(log_dir)


class Reader:
    """A log directory, read as it is asked for.

    What stands before a record that is torn or fails its checksum is read; the rest of that file is named in
    ``problems``. Where a run was started again at a step, what older files hold from that step on is left out, as
    TensorBoard leaves it out.

    Raises:
        InvalidValueError: ``log_dir`` is not a path.
        RunError: there is no such directory.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        if not isinstance(log_dir, (str, os.PathLike)):
            raise InvalidValueError(
                f"log_dir={log_dir!r}", "a log directory is a path", "give a string such as 'runs/resnet'"
            )
        self.log_dir = os.path.expanduser(os.fspath(log_dir))
        if "://" in self.log_dir:
            self.log_dir = fetch(self.log_dir)
            weakref.finalize(self, shutil.rmtree, self.log_dir, ignore_errors=True)
        if not os.path.isdir(self.log_dir):
            raise RunError(
                f"log_dir={self.log_dir!r}", "there is no such directory", "give the directory that the runs lie in"
            )
        self.runs = tuple(runs_below(self.log_dir))
        """Names of the runs, sorted: directories relative to ``log_dir``, ``'.'`` for itself."""
        self._indexes: dict[str, RunIndex] = {}

    def __repr__(self) -> str:
        return f"Reader({self.log_dir!r}, {len(self.runs)} runs)"

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What could not be read, in the order of the runs and their files. Goes through all files."""
        return tuple(problem for run in self.runs for problem in self.index(run).problems)

    def index(self, run: str) -> RunIndex:
        """What stands where in a run. Goes through its files at the first call.

        Raises:
            InvalidValueError: there is no such run.
        """
        if run not in self.runs:
            raise _unknown("run", run, self.runs, self.log_dir)
        if run not in self._indexes:
            self._indexes[run] = RunIndex(os.path.normpath(os.path.join(self.log_dir, run)))
        return self._indexes[run]

    def tags(self, run: str | None = None) -> dict[str, str]:
        """Tag -> plugin, of one run or of all of them; an empty plugin where the files name none.

        Where two plugins share a tag, the first that came is named.
        """
        found: dict[str, str] = {}
        for name in self.runs if run is None else (run,):
            for tag, plugin in self._columns(name):
                found.setdefault(tag, plugin)
        return dict(sorted(found.items()))

    def scalars(self, tag: str, run: str | None = None) -> Series[np.ndarray]:
        """The scalars of a tag, as float64 of whatever type they were written in.

        Args:
            tag: the tag.
            run: the run; None for the only run that has the tag.

        Raises:
            InvalidValueError: there is no such run, no such tag, another kind of value under it, or several runs have it.
        """
        run, column = self._find(tag, run, ("scalars",))
        return _series(run, column, np.array(column.numbers, np.float64))

    def histograms(self, tag: str, run: str | None = None) -> Series[list[Histogram]]:
        """The histograms of a tag; arguments and errors as for ``scalars`` and ``values``."""
        return self._decoded(tag, run, Histogram.plugin)

    def images(self, tag: str, run: str | None = None) -> Series[list[Image]]:
        """The pictures of a tag, decoded; arguments and errors as for ``scalars`` and ``values``."""
        return self._decoded(tag, run, Image.plugin)

    def texts(self, tag: str, run: str | None = None) -> Series[list[Text]]:
        """The texts of a tag; arguments and errors as for ``scalars`` and ``values``."""
        return self._decoded(tag, run, Text.plugin)

    def graphs(self, tag: str = RUN_GRAPH_TAG, run: str | None = None) -> Series[list[OpGraph | ConceptualGraph]]:
        """Graphs: without a tag the graph of the run; arguments and errors as for ``scalars`` and ``values``."""
        return self._decoded(tag, run, OpGraph.plugin, ConceptualGraph.plugin)

    def values(self, tag: str, run: str | None = None) -> Series[list[Any]]:
        """What a tag holds, whichever kind it is, as a list of ``torchboard.values``.

        Args:
            tag: the tag.
            run: the run; None for the only run that has the tag.

        Raises:
            InvalidValueError: as for ``scalars``, or torchboard cannot read values of the plugin.
            CorruptRecordError: a value is not what its plugin says.
            OSError: a file is gone since the tags were read.
        """
        return self._decoded(tag, run)

    def to_pandas(self) -> Any:
        """All scalars of all runs as a ``pandas.DataFrame``: run, tag, step, wall_time and value, one row a point.

        Raises:
            TorchboardError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise TorchboardError(
                "a data frame", "pandas is not installed", "run 'pip install pandas', or use scalars()"
            ) from error
        series = list(self.all_scalars())
        lengths = [len(one) for one in series]
        return pandas.DataFrame(
            {
                "run": np.repeat(np.array([one.run for one in series], object), lengths),
                "tag": np.repeat(np.array([one.tag for one in series], object), lengths),
                "step": np.concatenate([np.zeros(0, np.int64), *(one.steps for one in series)]),
                "wall_time": np.concatenate([np.zeros(0), *(one.wall_times for one in series)]),
                "value": np.concatenate([np.zeros(0), *(one.values for one in series)]),
            }
        )

    def all_scalars(self) -> Iterator[Series[np.ndarray]]:
        """The scalars of every tag of every run, in the order of their names."""
        for run in self.runs:
            for (_, plugin), column in sorted(self._columns(run).items(), key=itemgetter(0)):
                if plugin == "scalars":
                    yield _series(run, column, np.array(column.numbers, np.float64))

    def _columns(self, run: str) -> dict[tuple[str, str], Column]:
        """The columns of a run that hold anything: a restart may have emptied some."""
        return {key: column for key, column in self.index(run).columns.items() if column.steps}

    def _find(self, tag: str, run: str | None, plugins: tuple[str, ...]) -> tuple[str, Column]:
        """The run and the column of a tag, of any plugin if none is named."""
        found: list[tuple[str, Column]] = []
        others: set[str] = set()
        for name in self.runs if run is None else (run,):
            columns = [column for (other, _), column in self._columns(name).items() if other == tag]
            fitting = [column for column in columns if not plugins or column.plugin in plugins]
            found += [(name, column) for column in fitting[:1]]
            others |= {column.plugin for column in columns}
        if len(found) == 1:
            return found[0]
        if found:
            runs = ", ".join(repr(name) for name, _ in found)
            raise InvalidValueError(f"tag {tag!r}", f"several runs have it ({runs})", "name one of them as run")
        if others:
            raise InvalidValueError(
                f"tag {tag!r}",
                f"it holds {', '.join(sorted(others)) or 'values of no plugin'}, not {' or '.join(plugins)}",
                "use values(), or the method of that kind",
            )
        raise _unknown("tag", tag, self.tags(run), self.log_dir if run is None else f"run {run!r}")

    def _decoded(self, tag: str, run: str | None, *plugins: str) -> Series[list[Any]]:
        run, column = self._find(tag, run, plugins)
        if column.plugin == "scalars":
            return _series(run, column, [Scalar(number) for number in column.numbers])
        if column.plugin not in KINDS:
            raise InvalidValueError(
                f"tag {tag!r}",
                f"torchboard cannot read values of the plugin {column.plugin!r}",
                f"use one of {', '.join(sorted(KINDS))}",
            )
        return _series(run, column, list(_load(column, self.index(run))))


def _series(run: str, column: Column, values: _Values) -> Series[_Values]:
    steps, wall_times = np.array(column.steps, np.int64), np.array(column.wall_times, np.float64)
    return Series(run, column.tag, column.plugin, steps, wall_times, values)


def _load(column: Column, index: RunIndex) -> Iterator[Value]:
    """The values of a column, from disk, one at a time."""
    places = iter(column.places)
    for number, group in groupby(zip(places, places, places), itemgetter(0)):
        with open(index.files[number], "rb") as file:
            for _, offset, position in group:
                event = proto.Event.FromString(record_at(file, offset).data)
                try:
                    value = _decode(column, event, position, index)
                except Exception as error:
                    raise CorruptRecordError(
                        f"tag {column.tag!r} in {index.files[number]} at byte {offset}",
                        f"it is no value for {column.plugin} ({type(error).__name__}: {error})",
                        "leave this tag out; the others can be read",
                    ) from error
                yield value


def _decode(column: Column, event: Any, position: int, index: RunIndex) -> Value:
    kind = KINDS[column.plugin]
    if event.HasField("graph_def"):
        return kind.decode(event.graph_def)
    if event.HasField("tagged_run_metadata"):
        return kind.decode(event.tagged_run_metadata.run_metadata)
    message = event.summary.value[position]
    if not message.HasField("metadata") and column.tag in index.metadata:
        message.metadata.CopyFrom(index.metadata[column.tag])
    return kind.decode(message)


def _unknown(what: str, name: str, known: Any, where: str) -> InvalidValueError:
    near = difflib.get_close_matches(str(name), list(known), 3, 0.3)
    remedy = f"perhaps it is {' or '.join(map(repr, near))}" if near else f"see the {what}s of the reader"
    return InvalidValueError(f"{what} {name!r}", f"there is none in {where}", remedy)
