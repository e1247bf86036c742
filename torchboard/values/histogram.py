"""Distributions over steps: the Histograms, Distributions and Time Series dashboards.

A histogram is kept as TensorBoard draws it: contiguous buckets ``[left, right, count]``. ``from_bins`` makes at most
64 of them out of any number of bins, in float32, or where that would lose something that shows 32 in float64: at most 768
bytes, and about 100 around them. Counts are moved whole, so the mass is exact; edges lie between bins, and the first left
and the last right one are the true minimum and maximum; half of the buckets follow the axis, for the dashboards that
re-bin to 30 equal bins, and half follow the mass, for the percentiles. About 0.1 ms for 4000 bins, 0.5 ms where float64 is
needed.

How the dashboards read buckets, and what is written around: the outer buckets hold data, because percentiles start at
the first non-empty one; no bucket that holds data has zero width, because one that lies on the border of two display
bins is not drawn; edges are finite, because a single infinite one blanks the card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from torchboard.errors import InvalidValueError
from torchboard.values.tensor import elements_of, tensor_proto
from torchboard.values.value import metadata

MAX_BUCKETS = 64
"""Most buckets of float32; of float64, which take twice the bytes, half as many."""

_THIN = 2e-7
"""Width of the thinnest bucket, as a fraction of the range: invisible, and above any rounding of the dashboards."""

_INVISIBLE = 5e-4
"""Steps of edges up to this part of the range show nowhere: a page has 30 bins."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often values fall into each of a row of buckets.

    Attributes:
        buckets: float64[k, 3], rows of left edge, right edge and count, ascending and contiguous; no row for no data.
        description: Markdown shown with the card.
    """

    buckets: np.ndarray
    description: str = ""

    plugin: ClassVar[str] = "histograms"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self.description == other.description and np.array_equal(self.buckets, other.buckets)

    def __hash__(self) -> int:
        return hash((self.buckets.tobytes(), self.description))

    @property
    def nbytes(self) -> int:
        return self.buckets.nbytes + len(self.description)

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as a rank-2 tensor: float32 where that loses no digit of it (12 bytes a bucket), else float64
        (24)."""
        message = event.summary.value.add(tag=tag)
        message.metadata.CopyFrom(metadata(self.plugin, description=self.description))
        message.tensor.CopyFrom(tensor_proto(_float32(self.buckets) if _is_float32(self.buckets) else self.buckets))

    @classmethod
    def decode(cls, message: Any) -> Histogram:
        """The histogram of a ``Summary.Value``, as a tensor or in the older form of limits and counts."""
        if message.WhichOneof("value") == "histo":
            return cls(_of_limits(message.histo), message.metadata.summary_description)
        values = elements_of(message.tensor)
        return cls(values.astype(np.float64).reshape(-1, 3), message.metadata.summary_description)

    @classmethod
    def from_counts(cls, edges: np.ndarray, counts: np.ndarray, description: str = "") -> Histogram:
        """Buckets as they are given, all of them.

        Args:
            edges: [k + 1] finite numbers in ascending order.
            counts: [k] numbers, not negative.
            description: Markdown shown with the card.

        Raises:
            InvalidValueError: one of these does not hold.
        """
        edges, counts = np.asarray(edges, np.float64), np.asarray(counts, np.float64)
        if counts.ndim != 1 or edges.shape != (len(counts) + 1,):
            came = f"edges of shape {list(edges.shape)} for counts of shape {list(counts.shape)}"
            raise InvalidValueError(came, "k counts lie between k + 1 edges", "give both as one dimension")
        if not np.isfinite(edges).all() or (edges[1:] < edges[:-1]).any():
            raise InvalidValueError(
                f"edges {edges}", "only finite, ascending edges can be drawn", "sort them and drop the others"
            )
        check_counts(counts)
        return cls(np.stack([edges[:-1], edges[1:], counts], axis=1), description)

    @classmethod
    def from_bins(
        cls,
        edges: np.ndarray,
        counts: np.ndarray,
        *,
        extremes: tuple[float, float],
        spike: tuple[float, int] = (0.0, 0),
        max_buckets: int = MAX_BUCKETS,
    ) -> Histogram:
        """Few buckets out of many bins, made for TensorBoard's dashboards.

        Args:
            edges: float64[k + 1] in ascending order; the outer ones may be infinite.
            counts: int[k], what lies between them.
            extremes: smallest and largest value counted; finite, unless nothing is.
            spike: ``(value, count)`` of elements that all equal one value, which is an edge, and are in no bin.
            max_buckets: most buckets to make, at least 8; half as many where edges or counts need float64.

        Returns:
            Contiguous buckets from the one extreme to the other, whose counts add up to those of the bins and the
            spike. The first and the last of them are not empty. Equal values give one bucket, no values none. Edges are
            float32 numbers where no step between those is wider than 1/2000 of the range; an extreme that is none is
            moved to the next one outwards.
        """
        total = int(counts.sum()) + int(spike[1])
        if not total:
            return cls(np.zeros((0, 3)))
        low, high = map(float, extremes)
        if low == high:
            return cls(constant_bucket(low, total))
        if high - low <= 4 * thinnest(low, high):
            return cls(np.array([[low, high, total]]))
        cells = _cells(edges, counts, spike, (low, high))
        budget = float(max_buckets)
        knots = _spread(_cut(cells, budget), cells)
        while len(knots.position) >= max_buckets:
            budget *= min(max_buckets / (len(knots.position) + 1), 0.95)
            knots = _spread(_cut(cells, budget), cells)
        buckets = _buckets(knots, cells)
        return cls(buckets if _is_float32(buckets) else _joined(buckets, max_buckets // 2))

    @classmethod
    def from_points(cls, values: np.ndarray, counts: np.ndarray, *, spike: tuple[float, int] = (0.0, 0)) -> Histogram:
        """Few buckets out of distinct values; as ``from_bins``, but a bucket with one value in it is thin.

        Args:
            values: float64[k], finite, in ascending order.
            counts: int[k], how often each occurs.
            spike: ``(value, count)`` of one more, which may lie anywhere.
        """
        met = np.flatnonzero(counts)
        values, counts = values[met], counts[met]
        if spike[1]:
            place = int(np.searchsorted(values, spike[0]))
            values, counts = np.insert(values, place, spike[0]), np.insert(counts, place, spike[1])
        if not len(values):
            return cls(np.zeros((0, 3)))
        low, high = float(values[0]), float(values[-1])
        half = thinnest(low, high) / 2
        edges = np.clip(np.stack([values - half, values + half], axis=1), low, high).ravel()
        between = np.stack([counts, np.zeros_like(counts)], axis=1).ravel()[:-1]
        return cls.from_bins(np.maximum.accumulate(edges), between, extremes=(low, high))


@dataclass(frozen=True)
class _Cells:
    """The bins that hold something, in ascending order, the spike among them as one without width."""

    left: np.ndarray  # float64[n], within the extremes
    right: np.ndarray  # float64[n]
    count: np.ndarray  # int64[n], positive
    upto: np.ndarray  # int64[n], the counts up to and with this cell
    spike: int | None  # its index

    @property
    def total(self) -> int:
        return int(self.upto[-1])

    @property
    def low(self) -> float:
        return float(self.left[0])

    @property
    def high(self) -> float:
        return float(self.right[-1])


@dataclass(frozen=True)
class _Knots:
    """Points of the cumulative distribution inside the extremes: buckets lie between neighbours."""

    position: np.ndarray  # float64[m], ascending
    mass: np.ndarray  # int64[m], how many values lie left of the position


def _cells(edges: np.ndarray, counts: np.ndarray, spike: tuple[float, int], extremes: tuple[float, float]) -> _Cells:
    index = np.flatnonzero(counts)
    left, right, count = edges[index], edges[index + 1], counts[index].astype(np.int64)
    place = None
    if spike[1]:
        place = int(np.searchsorted(right, spike[0], side="right"))
        left, right = np.insert(left, place, spike[0]), np.insert(right, place, spike[0])
        count = np.insert(count, place, spike[1])
    left, right = np.clip(left, *extremes), np.clip(right, *extremes)
    left[0], right[-1] = extremes
    return _Cells(left, right, count, np.cumsum(count), place)


def _cut(cells: _Cells, budget: float) -> _Knots:
    """Cuts where the mean of the two fractions, of the range and of the mass, crosses a multiple of 1/budget.

    So no bucket takes much more than 2/budget of either. A cell that alone takes as much of the mass is cut out, and
    so is every hole wider than 1/budget of the range.
    """
    low, high = cells.low, cells.high
    half = high / 2 - low / 2
    crossed = np.floor(((cells.right / 2 - low / 2) / half + cells.upto / cells.total) * (budget / 2 * (1 - 1e-12)))
    heavy = cells.count >= 2 * cells.total / budget
    hole = cells.left[1:] / 2 - cells.right[:-1] / 2 > half / budget
    after = np.diff(crossed, prepend=0.0)[:-1] != 0
    after |= heavy[:-1] | heavy[1:] | hole
    ends, starts = np.flatnonzero(after), np.flatnonzero(hole)
    order = np.argsort(np.concatenate([2 * ends, 2 * starts + 1]))
    middle = np.where(hole, cells.right[:-1], cells.right[:-1] / 2 + cells.left[1:] / 2)
    position = np.concatenate([middle[ends], cells.left[starts + 1]])[order]
    return _Knots(position, cells.upto[np.concatenate([ends, starts])[order]])


def check_counts(counts: np.ndarray) -> None:
    """Refuses counts that are negative or not finite."""
    if not (counts >= 0).all() or not np.isfinite(counts).all():
        raise InvalidValueError(f"counts {counts}", "a count is a finite number from 0 up", "drop the others")


def _spread(knots: _Knots, cells: _Cells) -> _Knots:
    """The knots, and those of the spike, moved so far apart that the outer buckets and the spike's have a width."""
    low, high = cells.low, cells.high
    thin = thinnest(low, high)
    if cells.spike is None:
        return _squeeze(knots, low + thin, high - thin)
    value, after = float(cells.left[cells.spike]), cells.upto[cells.spike]
    before = after - cells.count[cells.spike]
    parts = []
    start, stop = value - thin / 2, value + thin / 2
    if before and start - low > 2 * thin:
        left = _pick(knots, (knots.mass < before) | ((knots.mass == before) & (knots.position < start - thin)))
        parts += [_squeeze(left, low + thin, start - thin), _Knots(np.array([start]), np.array([before]))]
    if after < cells.total and high - stop > 2 * thin:
        right = _pick(knots, (knots.mass > after) | ((knots.mass == after) & (knots.position > stop + thin)))
        stop = max(stop, low + thin)
        parts += [_Knots(np.array([stop]), np.array([after])), _squeeze(right, stop + thin, high - thin)]
    return _Knots(np.concatenate([part.position for part in parts]), np.concatenate([part.mass for part in parts]))


def thinnest(low: float, high: float) -> float:
    """A width that is invisible in this range, and still one after rounding to the float type that the edges will
    have."""
    rounding = _step32(low, high) if _fits_float32(low, high) else 2.0**-52 * max(abs(low), abs(high))
    smallest = 5e-324
    return max(2 * _THIN * (high / 2 - low / 2), 2 * rounding, 2 * smallest)


def _step32(low: float, high: float) -> float:
    """The widest step between float32 numbers from the one to the other."""
    return max(2.0**-23 * max(abs(low), abs(high)), 2.0**-149)


def _fits_float32(low: float, high: float) -> bool:
    """Whether float32 numbers lie so close from the one to the other that rounding edges to them shows nowhere."""
    if max(abs(low), abs(high)) > float(np.finfo(np.float32).max):
        return False
    return _step32(low, high) <= _INVISIBLE * (high - low)


def _pick(knots: _Knots, mask: np.ndarray) -> _Knots:
    return _Knots(knots.position[mask], knots.mass[mask])


def _squeeze(knots: _Knots, low: float, high: float) -> _Knots:
    """All knots moved into [low, high]; of several that meet at a border, the one farthest in the direction moved."""
    first = max(int(np.searchsorted(knots.position, low, side="right")) - 1, 0)
    last = int(np.searchsorted(knots.position, high, side="left")) + 1
    return _Knots(np.clip(knots.position[first:last], low, high), knots.mass[first:last])


def _buckets(knots: _Knots, cells: _Cells) -> np.ndarray:
    """float64[k, 3], with edges as ``drawn_edges`` makes them."""
    position = drawn_edges(np.concatenate([[cells.low], knots.position, [cells.high]]))
    mass = np.concatenate([[0], knots.mass, [cells.total]])
    keep = np.append(position[1:] > position[:-1], True)
    return np.stack([position[keep][:-1], position[keep][1:], np.diff(mass[keep])], axis=1)


def drawn_edges(edges: np.ndarray) -> np.ndarray:
    """Ascending edges as the float32 numbers nearest to them, the outer two not inside, where nobody could see it; else as
    they are."""
    if not _fits_float32(edges[0], edges[-1]):
        return edges
    nearest = edges.astype(np.float32)
    rounded = nearest.astype(np.float64)
    if rounded[0] > edges[0]:
        rounded[0] = np.nextafter(nearest[0], np.float32(-np.inf))
    if rounded[-1] < edges[-1]:
        rounded[-1] = np.nextafter(nearest[-1], np.float32(np.inf))
    return rounded if (rounded[1:] > rounded[:-1]).all() else edges


def _joined(buckets: np.ndarray, most: int) -> np.ndarray:
    """Buckets of which neighbours are joined until there are ``most``: at each turn those two where, both drawn evenly, the
    fewest values come to lie elsewhere."""
    left, right, count = buckets.T
    half = right[-1] / 2 - left[0] / 2
    while len(count) > most:
        width = (right / 2 - left / 2) / half
        moved = np.abs(count[1:] * width[:-1] - count[:-1] * width[1:]) / (width[1:] + width[:-1])
        place = int(np.argmin(moved))
        left, right = np.delete(left, place + 1), np.delete(right, place)
        count = np.append(np.append(count[:place], count[place] + count[place + 1]), count[place + 2 :])
    return np.stack([left, right, count], axis=1)


def constant_bucket(value: float, count: int) -> np.ndarray:
    """One bucket without width, and from -5 down one that has some: the dashboards' own widening is reversed there."""
    width = 1e-6 * abs(value) if value < -5 else 0.0
    edges = np.clip([value - width, value + width], -np.finfo(np.float64).max, np.finfo(np.float64).max)
    return np.array([[*edges, count]])


def _float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype("<f4")


def _is_float32(array: np.ndarray) -> bool:
    """Whether all are float32 numbers."""
    return np.array_equal(_float32(array), array)


def _of_limits(message: Any) -> np.ndarray:
    """Buckets of a ``HistogramProto``: right limits and counts, whose empty ends stand for no data."""
    limits, counts = np.array(message.bucket_limit), np.array(message.bucket)
    used = np.flatnonzero(counts)
    if not len(used):
        return np.zeros((0, 3))
    first, last = used[0], used[-1]
    edges = np.concatenate([[message.min], limits[first:last], [message.max]])
    return np.stack([edges[:-1], edges[1:], counts[first : last + 1]], axis=1)
