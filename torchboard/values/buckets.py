"""Few buckets out of many bins: where the borders go, so that TensorBoard's dashboards show what the bins say.

Half of the buckets follow the axis and half the mass. Nothing is counted again: a border lies between two bins, and a bucket has
what lies between two borders. ``histogram`` says how the dashboards read buckets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_THIN = 2e-7
"""Width of the thinnest bucket, as a fraction of the range: invisible, and above any rounding of the dashboards."""

_INVISIBLE = 5e-4
"""Steps of edges up to this part of the range show nowhere: a page has 30 bins."""
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def few_buckets(
    edges: np.ndarray,
    counts: np.ndarray,
    extremes: tuple[float, float],
    spike: tuple[float, int],
    max_buckets: int,
) -> np.ndarray:
    """float64[k, 3]: the buckets of ``Histogram.from_bins``, whose arguments these are; about 0.1 ms."""
    total = int(counts.sum()) + int(spike[1])
    if not total:
        return np.zeros((0, 3))
    low, high = map(float, extremes)
    if low == high:
        return constant_bucket(low, total)
    if high - low <= 4 * thinnest(low, high):
        return np.array([[low, high, total]])
    cells = _cells(edges, counts, spike, (low, high))
    budget = float(max_buckets)
    knots = _spread(_cut(cells, budget), cells)
    while len(knots.position) >= max_buckets:
        budget *= min(max_buckets / (len(knots.position) + 1), 0.95)
        knots = _spread(_cut(cells, budget), cells)
    buckets = _buckets(knots, cells)
    return buckets if is_float32(buckets) else _joined(buckets, max_buckets // 2)


@dataclass(frozen=True)
class _Cells:
    """The bins that hold something, in ascending order, the spike among them as one without width."""

    left: np.ndarray  # float64[n], within the extremes
    right: np.ndarray  # float64[n]
    count: np.ndarray  # int64[n], positive
    upto: np.ndarray  # int64[n], the counts up to and with this cell
    spike: int | None  # its index

    @cached_property
    def half(self) -> float:
        """Half of the range, which is finite where the range may not be."""
        return self.high / 2 - self.low / 2

    @cached_property
    def share(self) -> np.ndarray:
        """float64[n], 0 to 2: what of the range and of the mass lies up to and with a cell."""
        return (self.right / 2 - self.low / 2) / self.half + self.upto / self.total

    @cached_property
    def gap(self) -> np.ndarray:
        """float64[n - 1], half of the distance from each cell to the next."""
        return self.left[1:] / 2 - self.right[:-1] / 2

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
    index = counts.nonzero()[0]
    left, right, count = edges[index], edges[index + 1], counts[index].astype(np.int64)
    place = None
    if spike[1]:
        place = int(right.searchsorted(spike[0], side="right"))
        left, right = _with(left, place, spike[0]), _with(right, place, spike[0])
        count = _with(count, place, spike[1])
    left, right = _within(left, *extremes), _within(right, *extremes)
    left[0], right[-1] = extremes
    return _Cells(left, right, count, count.cumsum(), place)


def _with(array: np.ndarray, place: int, value: float) -> np.ndarray:
    return np.concatenate((array[:place], [value], array[place:]), dtype=array.dtype)


def _within(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """What ``np.clip`` gives, in half the time where there is little."""
    return np.minimum(np.maximum(array, low), high)


def _cut(cells: _Cells, budget: float) -> _Knots:
    """Cuts where the mean of the two fractions, of the range and of the mass, crosses a multiple of 1/budget.

    So no bucket takes much more than 2/budget of either. A cell that alone takes as much of the mass is cut out, and
    so is every hole wider than 1/budget of the range.
    """
    crossed = np.floor(cells.share * (budget / 2 * (1 - 1e-12)))
    heavy = cells.count >= 2 * cells.total / budget
    hole = cells.gap > cells.half / budget
    after = heavy[:-1] | heavy[1:] | hole
    after[1:] |= crossed[1:-1] != crossed[:-2]
    after[:1] |= crossed[:-1][:1] != 0
    ends, starts = after.nonzero()[0], hole.nonzero()[0]
    order = np.concatenate([2 * ends, 2 * starts + 1]).argsort()
    right, left = cells.right[ends], cells.left[ends + 1]
    middle = np.where(hole[ends], right, right / 2 + left / 2)
    position = np.concatenate([middle, cells.left[starts + 1]])[order]
    return _Knots(position, cells.upto[np.concatenate([ends, starts])[order]])


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
    if max(abs(low), abs(high)) > _LARGEST_FLOAT32:
        return False
    return _step32(low, high) <= _INVISIBLE * (high - low)


def _pick(knots: _Knots, mask: np.ndarray) -> _Knots:
    return _Knots(knots.position[mask], knots.mass[mask])


def _squeeze(knots: _Knots, low: float, high: float) -> _Knots:
    """All knots moved into [low, high]; of several that meet at a border, the one farthest in the direction moved."""
    first = max(int(knots.position.searchsorted(low, side="right")) - 1, 0)
    last = int(knots.position.searchsorted(high, side="left")) + 1
    return _Knots(_within(knots.position[first:last], low, high), knots.mass[first:last])


def _buckets(knots: _Knots, cells: _Cells) -> np.ndarray:
    """float64[k, 3], with edges as ``drawn_edges`` makes them."""
    position = drawn_edges(np.concatenate([[cells.low], knots.position, [cells.high]]))
    mass = np.concatenate([[0], knots.mass, [cells.total]])
    keep = np.concatenate([position[1:] > position[:-1], [True]])
    position, mass = position[keep], mass[keep]
    return np.stack([position[:-1], position[1:], mass[1:] - mass[:-1]], axis=1)


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


def as_float32(array: np.ndarray) -> np.ndarray:
    """The nearest float32 numbers, infinite where there is none."""
    with np.errstate(over="ignore"):
        return array.astype("<f4")


def is_float32(array: np.ndarray) -> bool:
    """Whether all are float32 numbers."""
    return np.array_equal(as_float32(array), array)
