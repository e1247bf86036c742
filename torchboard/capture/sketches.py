"""One sketch a tag: rows of one table a device, and their way to histograms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from torchboard.capture.ranks.parts import Part, part_of
from torchboard.capture.snapshot import HostCopy, Snapshot
from torchboard.capture.tensors import measurable
from torchboard.errors import InvalidValueError
from torchboard.graph.job import in_a_job
from torchboard.sketch import compact, layout, merging, ops
from torchboard.sketch.host_compiled import Changes
from torchboard.sketch.rows import TableRows
from torchboard.sketch.sampling import BLOCK
from torchboard.sketch.table import SketchTable, sketch_of
from torchboard.values import Histogram, Scalar, Value

_HOST = torch.device("cpu")
_MOST_KEPT = 128
"""Lists of rows that are kept: a model may use other parameters at every step."""


class Row(NamedTuple):
    """Where a tag's sketch lies."""

    table: SketchTable
    index: int

    def observe_(self, tensor: torch.Tensor) -> None:
        """Folds every element of a tensor into the sketch, on the tensor's device; never waits."""
        self.table.observe_(self.index, tensor)


class Sketches:
    """Sketches by tag; one tag may be seen on several devices, as under ``DataParallel``, by a thread each.

    Args:
        max_elements: how much a row reads of a tensor, see ``sketch.sampling``; None for all of it.
    """

    def __init__(self, max_elements: int | None = None) -> None:
        self._max_elements = max_elements
        self._tables: dict[torch.device, SketchTable] = {}
        self._tags: dict[torch.device, list[str]] = {}  # of each row of the device's table
        self._rows: dict[tuple[str, torch.device], Row] = {}
        self._parts: dict[str, Part] = {}
        self._host_rows: dict[tuple[str | None, ...], list[int]] = {}

    def row(self, tag: str, device: torch.device, like: torch.Tensor | None = None) -> Row:
        """The row of a tag on a device, made when first asked for; ``like`` as for ``mark``."""
        if like is not None:
            self.mark(tag, like)
        row = self._rows.get((tag, device))
        if row is None:
            table = self._tables.get(device)
            if table is None:
                table = self._tables[device] = SketchTable(device, self._max_elements)
                self._tags[device] = []
            self._tags[device].append(tag)
            row = self._rows[tag, device] = Row(table, table.add_row())
        return row

    def mark(self, tag: str, tensor: torch.Tensor) -> None:
        """What is observed under a tag is the local part of this tensor, until sketches are collected."""
        part = part_of(tensor)
        if part is not None:
            self._parts[tag] = part

    def observe_(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Folds each tensor into the sketch of its tag, in a few launches for all those of a device; never waits."""
        together: dict[torch.device, tuple[list[int], list[torch.Tensor]]] = {}
        for tag, tensor in tensors:
            device = tensor.device
            index = self.row(tag, device).index
            if device not in together:
                together[device] = [], []
            rows, values = together[device]
            rows.append(index)
            values.append(tensor)
        for device, (rows, values) in together.items():
            self._tables[device].observe_many_(rows, values)

    def read_(self, tags: tuple[str, ...], tensors: list[torch.Tensor]) -> list[int]:
        """Folds those of the tensors that compiled code can read in the host's memory into the sketches of the tags beside
        them, in one call; gives the places of the others."""
        if not all([tensor.is_cpu for tensor in tensors]):
            return [*range(len(tensors))]
        if not tags:
            return []
        table, rows = self._on_host(tags)
        return table.read_many_(rows, tensors)

    def read_changes_(self, tags: tuple[str | None, ...], changes: Changes) -> list[int]:
        """Folds by how much tensors have changed into the sketches of their tags, in one call; gives the places of those that
        compiled code cannot fold."""
        table, rows = self._on_host(tags)
        return table.read_changes_(rows, changes)

    def _on_host(self, tags: tuple[str | None, ...]) -> tuple[SketchTable, list[int]]:
        """The table of the host, and its rows for the tags, which are looked up once."""
        rows = self._host_rows.get(tags)
        if rows is None:
            if len(self._host_rows) == _MOST_KEPT:
                self._host_rows.clear()
            rows = self._host_rows[tags] = [-1 if tag is None else self.row(tag, _HOST).index for tag in tags]
        return self._tables[_HOST], rows

    def collect(self) -> list[SketchSnapshot]:
        """Starts the copy of all sketches to the host, one snapshot a device; the sketches begin anew, empty.

        A tag that several devices of one type have seen is merged on the first of them.
        """
        snapshots = []
        parts, self._parts = self._parts, {}
        self._host_rows.clear()
        notes = self._notes()
        packed = not in_a_job()  # packed rows cannot be merged with those of other ranks
        for tags, rows in at_home(
            [(tuple(self._tags[device]), table.read()) for device, table in self._tables.items()]
        ):
            copy = to_host(rows, packed=packed and rows.counts.is_cuda)
            mine = {tag: parts[tag] for tag in tags if tag in parts}
            snapshots.append(SketchSnapshot(tags, copy, mine, {tag: notes[tag] for tag in tags if tag in notes}))
        return snapshots

    def _notes(self) -> dict[str, str]:
        """What is to be said of the tags of which a sample was read."""
        return {
            self._tags[device][row]: f"a sample of {read:,} of {whole:,} elements, in blocks of {BLOCK}"
            for device, table in self._tables.items()
            for row, (read, whole) in table.sampled.items()
        }


def at_home(tables: Sequence[tuple[tuple[str, ...], TableRows]]) -> list[tuple[tuple[str, ...], TableRows]]:
    """Tags and rows of several devices, merged where a tag comes first; of another type of device it is ``<tag>@<device>``."""
    result: list[tuple[tuple[str, ...], TableRows]] = []
    for tags, rows in tables:
        for place, (theirs, home) in enumerate(result):
            shared = set(tags) & set(theirs) if home.counts.device.type == rows.counts.device.type else ()
            if shared:
                result[place] = theirs, _with_guests(theirs, home, {tag: tags.index(tag) for tag in shared}, rows)
                kept = [at for at, tag in enumerate(tags) if tag not in shared]
                tags, rows = tuple(tags[at] for at in kept), _picked([(rows, at) for at in kept], rows)
        known = {tag for theirs, _ in result for tag in theirs}
        result.append((tuple(f"{tag}@{rows.counts.device}" if tag in known else tag for tag in tags), rows))
    return result


def _with_guests(tags: Sequence[str], home: TableRows, guests: dict[str, int], rows: TableRows) -> TableRows:
    """The rows of ``home``, those of some tags merged with rows of another device of the same type."""
    places = [place for place, tag in enumerate(tags) if tag in guests]
    moved = TableRows(*(buffer.to(home.counts.device, non_blocking=True) for buffer in rows.buffers))
    merged = merging.merge(
        [_picked([(home, at) for at in places], home), _picked([(moved, guests[tags[at]]) for at in places], home)]
    )
    new = dict(zip(places, range(len(places))))
    return _picked([(merged, new[at]) if at in new else (home, at) for at in range(len(tags))], home)


def _picked(places: Sequence[tuple[TableRows, int]], like: TableRows) -> TableRows:
    """These rows, in one table; nothing waits, as an index would."""
    if not places:
        return TableRows(*(buffer[:0] for buffer in like.buffers))
    return TableRows(*(torch.stack(rows) for rows in zip(*([b[at] for b in rows.buffers] for rows, at in places))))


@dataclass(frozen=True)
class SketchSnapshot(Snapshot):
    """A histogram for each sketch that saw an element; rows of a table, one a tag.

    Elements that a histogram cannot show are given as scalars beside it, ``nonfinite/<tag>``, where there are any.

    Attributes:
        parts: tag -> which part of a sharded or replicated tensor this process has observed.
        notes: tag -> what is said of its histogram.
    """

    parts: Mapping[str, Part] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    kind = Histogram

    @property
    def plugins(self) -> dict[str, str]:
        return super().plugins | dict.fromkeys(map(_nonfinite_tag, self.tags), Scalar.plugin)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Moments and parameters of the sketches, a row a tag, as ``layout`` has them. Waits for the copy."""
        arrays = self.copy.wait()
        if len(arrays) > 1:
            return arrays[1], arrays[2]
        heads = np.ascontiguousarray(arrays[0][:, : compact.HEAD]).view(np.float64)
        return heads[:, : layout.SLOTS], heads[:, layout.SLOTS :]

    def settle(self) -> Iterable[tuple[str, Value]]:
        for tag, *row in zip(self.tags, *self.copy.wait()):
            figures, histogram = _packed_histogram(*row) if len(row) == 1 else _histogram(*row)
            if not figures[layout.COUNT]:
                continue
            yield tag, replace(histogram, description=self.notes[tag]) if tag in self.notes else histogram
            lost = figures[layout.COUNT] - layout.finite(figures)
            if lost:
                yield _nonfinite_tag(tag), Scalar(float(lost), "elements that are NaN or infinite")


def snapshot_of(tag: str, values: Any) -> SketchSnapshot:
    """All elements of a tensor, array or list as one histogram on its way to the host; reduced where they are.

    Raises:
        InvalidValueError: the elements are not real numbers, or there is nothing to measure.
    """
    tensor = measurable(_as_tensor(tag, values))
    if tensor is None:
        raise InvalidValueError(
            f"histogram {tag!r} of {_described(values)}",
            "its elements are not real numbers in memory",
            "give real numbers, such as x.abs()",
        )
    return SketchSnapshot((tag,), to_host(sketch_of(tensor), packed=tensor.is_cuda))


def to_host(rows: TableRows, packed: bool) -> HostCopy:
    """The copy of rows to the host: as they are, 32 KB a row, or cut down on their device to 1.4 KB."""
    return HostCopy([ops.pack(*rows.buffers)] if packed else rows.buffers)


def _as_tensor(tag: str, values: Any) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values
    try:
        return torch.as_tensor(np.asarray(values), device=_HOST)
    except (TypeError, ValueError):
        raise InvalidValueError(
            f"histogram {tag!r} of {_described(values)}",
            "that is no array of numbers",
            "give a tensor, an array or a list of numbers",
        ) from None


def _described(values: Any) -> str:
    shape = f" of shape {list(values.shape)} and {values.dtype}" if hasattr(values, "dtype") else f" {values!r:.60}"
    return f"{type(values).__name__}{shape}"


def _histogram(counts: np.ndarray, moments: np.ndarray, parameters: np.ndarray) -> tuple[np.ndarray, Histogram]:
    """The moments of one row of a sketch, and its buckets."""
    pivot, scale, kind = parameters
    if kind != layout.FLOATS:
        spike = pivot, int(moments[layout.SPIKE])
        return moments, Histogram.from_points(layout.points(parameters), layout.ascending(counts), spike=spike)
    return moments, _of_bins(layout.edges(pivot, scale), layout.ascending(counts), moments, parameters)


def _packed_histogram(words: np.ndarray) -> tuple[np.ndarray, Histogram]:
    """The same of a row that was packed on its device."""
    row = compact.unpack(words)
    return row.moments, _of_bins(row.edges, row.counts, row.moments, row.parameters)


def _of_bins(edges: np.ndarray, counts: np.ndarray, moments: np.ndarray, parameters: np.ndarray) -> Histogram:
    extremes = -moments[layout.NEGATED_MIN], moments[layout.MAX]
    spike = parameters[layout.PIVOT], int(moments[layout.SPIKE])
    return Histogram.from_bins(edges, counts, extremes=extremes, spike=spike)


def _nonfinite_tag(tag: str) -> str:
    return f"nonfinite/{tag}"
