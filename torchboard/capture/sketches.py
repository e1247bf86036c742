"""One sketch a tag: rows of one table a device, and their way to histograms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from torchboard.capture.snapshot import HostCopy, Snapshot
from torchboard.capture.tensors import measurable
from torchboard.errors import InvalidValueError
from torchboard.sketch import compact, layout, ops
from torchboard.sketch.rows import TableRows
from torchboard.sketch.table import SketchTable, sketch_of
from torchboard.values import Histogram, Scalar, Value


class Row(NamedTuple):
    """Where a tag's sketch lies."""

    table: SketchTable
    index: int

    def observe_(self, tensor: torch.Tensor) -> None:
        """Folds every element of a tensor into the sketch, on the tensor's device; never waits."""
        self.table.observe_(self.index, tensor)


class Sketches:
    """Sketches by tag. A tag seen on a second device gets a second sketch, ``<tag>@<device>``."""

    def __init__(self) -> None:
        self._tables: dict[torch.device, SketchTable] = {}
        self._tags: dict[torch.device, list[str]] = {}  # of each row of the device's table
        self._rows: dict[tuple[str, torch.device], Row] = {}
        self._known: set[str] = set()

    def row(self, tag: str, device: torch.device) -> Row:
        """The row of a tag on a device, made when first asked for."""
        row = self._rows.get((tag, device))
        if row is None:
            table = self._tables.get(device)
            if table is None:
                table = self._tables[device] = SketchTable(device)
                self._tags[device] = []
            self._tags[device].append(f"{tag}@{device}" if tag in self._known else tag)
            self._known.add(tag)
            row = self._rows[tag, device] = Row(table, table.add_row())
        return row

    def observe_(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Folds each tensor into the sketch of its tag, in a few launches for all those of a device; never waits."""
        together: dict[SketchTable, tuple[list[int], list[torch.Tensor]]] = {}
        for tag, tensor in tensors:
            table, index = self.row(tag, tensor.device)
            rows, values = together.setdefault(table, ([], []))
            rows.append(index)
            values.append(tensor)
        for table, (rows, values) in together.items():
            table.observe_many_(rows, values)

    def collect(self) -> list[SketchSnapshot]:
        """Starts the copy of all sketches to the host, one snapshot a device; the sketches begin anew, empty."""
        snapshots = []
        for device, table in self._tables.items():
            copy = to_host(table.read(), packed=device.type == "cuda")
            snapshots.append(SketchSnapshot(tuple(self._tags[device]), copy))
        return snapshots


class SketchSnapshot(Snapshot):
    """A histogram for each sketch that saw an element; rows of a table, one a tag.

    Elements that a histogram cannot show are given as scalars beside it, ``nonfinite/<tag>``, where there are any.
    """

    kind = Histogram

    @property
    def plugins(self) -> dict[str, str]:
        return super().plugins | dict.fromkeys(map(_nonfinite_tag, self.tags), Scalar.plugin)

    def settle(self) -> Iterable[tuple[str, Value]]:
        for tag, *row in zip(self.tags, *self.copy.wait()):
            figures, histogram = _packed_histogram(*row) if len(row) == 1 else _histogram(*row)
            if not figures[layout.COUNT]:
                continue
            yield tag, histogram
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
        return torch.as_tensor(np.asarray(values))
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
