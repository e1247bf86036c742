"""Folds tensors of few distinct values: 8-bit types, truth values, and integers that lie close together.

Values are counted, one table entry each, in a single pass of about half a nanosecond an element (integers of more than
8 bits take two more for their extremes and one to count from the least); everything else follows from at most ``SPAN``
counts, exactly. A row that has met nothing else is exact: each of its bins stands for one value.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from functools import lru_cache

import torch

from torchboard.sketch import layout, reference
from torchboard.sketch.host_row import HostRow

SPAN = 2 * layout.REACH
"""Integers that lie at most this far apart are counted each by itself."""

_FLOATS = {torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz}
_INTEGERS = {torch.int16, torch.int32, torch.int64}
_KNOWN = {*_FLOATS, *_INTEGERS, torch.uint8, torch.int8, torch.bool}
_LARGEST = 2**53
"""Up to here every whole number is a float64."""
_MANY = 1 << 14
"""From so many integers on it pays to look at some before all."""


@dataclass(frozen=True, eq=False)
class _Counted:
    """Distinct finite values and how often each occurs.

    Attributes:
        values: float64[n].
        counts: int64[n].
        whole: whether the values are integers.
        extremes: the least and the greatest value that occurs; (inf, -inf) where none does.
        specials: NaN, positive and negative infinities.
    """

    values: torch.Tensor
    counts: torch.Tensor
    whole: bool
    extremes: tuple[float, float]
    specials: tuple[int, int, int] = (0, 0, 0)


def observe_(row: HostRow, flat: torch.Tensor, times: int) -> bool:
    """Adds a flat tensor to a row, each element ``times`` times; False, and nothing done, if it is not of this sort."""
    if flat.dtype not in _KNOWN:
        return False
    if flat.dtype in _INTEGERS:
        counted = _count_integers(flat)
    elif flat.dtype == torch.bool:
        counted = _count_truths(flat)
    else:
        counted = _count_bytes(flat)
    if counted is not None:
        _fold(row, counted, flat.numel() * times, times)
    return counted is not None


def _count_truths(flat: torch.Tensor) -> _Counted:
    true = int(torch.count_nonzero(flat))
    counts = torch.frombuffer(array("q", (flat.numel() - true, true)), dtype=torch.int64)
    extremes = float(true == flat.numel()), float(true > 0)
    return _Counted(_bytes(torch.bool)[0][:2], counts, True, extremes)


def _count_bytes(flat: torch.Tensor) -> _Counted:
    values, finite = _bytes(flat.dtype)
    counts = torch.bincount(flat.view(torch.uint8), minlength=256)
    met = counts.mul(finite)
    specials = 0, 0, 0
    if int(met.sum()) < flat.numel():
        beside = values[counts > met], counts[counts > met]
        specials = tuple(
            int(beside[1][mask].sum()) for mask in (beside[0].isnan(), beside[0] == math.inf, beside[0] == -math.inf)
        )
    there = values[met > 0]
    extremes = tuple(map(float, torch.aminmax(there))) if there.numel() else (math.inf, -math.inf)
    return _Counted(values.nan_to_num(0.0, 0.0, 0.0), met, flat.dtype not in _FLOATS, extremes, specials)


@lru_cache(maxsize=16)
def _bytes(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The value of each byte in a type, float64[256], and whether it is finite."""
    codes = torch.arange(256, dtype=torch.uint8, device="cpu")
    values = codes.view(dtype).to(torch.float64)
    return values, values.isfinite()


def _count_integers(flat: torch.Tensor) -> _Counted | None:
    if flat.numel() > _MANY and _far_apart(*torch.aminmax(flat[:: flat.numel() >> 6])):
        return None
    low, high = torch.aminmax(flat)
    if _far_apart(low, high):
        return None
    low, high = int(low), int(high)
    narrow = flat if flat.dtype == torch.int64 else flat.to(torch.int32)
    counts = torch.bincount(narrow - low, minlength=high - low + 1)
    return _Counted(_integers(low, high), counts, True, (float(low), float(high)))


def _far_apart(low: torch.Tensor, high: torch.Tensor) -> bool:
    return int(high) - int(low) > SPAN or max(-int(low), int(high)) > _LARGEST


def _integers(low: int, high: int) -> torch.Tensor:
    return torch.arange(low, high + 1, dtype=torch.float64, device="cpu")


def _fold(row: HostRow, counted: _Counted, number: int, times: int) -> None:
    figures = [number, 0, 0, *(special * times for special in counted.specials), 0.0, 0.0]
    low, high = counted.extremes
    if low <= high:
        _settle(row, low, high, counted.whole)
        values, counts = counted.values, counted.counts * times if times != 1 else counted.counts
        weight, y = counts.double(), (values - row.pivot) * row.scale
        spike = values == row.pivot
        figures[layout.SPIKE] = int(counts[spike].sum())
        figures[layout.ZEROS] = int(counts[values == 0].sum()) if row.pivot else figures[layout.SPIKE]
        figures[layout.SUM], figures[layout.SUM_SQUARES] = float(torch.dot(y, weight)), float(torch.dot(y * y, weight))
        row.counts.index_add_(0, _bins(row, values, y), counts.masked_fill(spike, 0))
    row.add(figures, low, high)


def _settle(row: HostRow, low: float, high: float, whole: bool) -> None:
    """Gives a new row its parameters, and takes from an old one a kind that these values do not fit."""
    if not row.scale:
        pivot = _pivot(low, high) if whole else 0.0
        distance = max(abs(low - pivot), abs(high - pivot))
        row.settle(pivot, layout.choose_scale(distance, pivot), layout.INTEGERS if whole else layout.POINTS)
    distance = max(abs(low - row.pivot), abs(high - row.pivot))
    fits = {
        layout.FLOATS: True,
        layout.INTEGERS: whole and distance <= layout.REACH,
        layout.POINTS: not whole and distance * row.scale < layout.HIGHEST,
    }
    if not fits[row.kind]:
        row.become_floats()


def _pivot(low: float, high: float) -> float:
    """Zero where the data reach there and no integer is too far from it; else the middle."""
    zero = max(-low, high) <= layout.REACH and not layout.wants_pivot(low, high)
    return 0.0 if zero else float((low + high) // 2)


def _bins(row: HostRow, values: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The bin of each value; of those that do not occur, any."""
    if row.kind == layout.INTEGERS:
        side = (values - row.pivot).abs_().clamp_(max=layout.SIDE - 1).long()
    else:
        side = reference.code(y.abs().clamp_(layout.LOWEST, layout.HIGHEST))
    return side + (values < row.pivot) * layout.SIDE
