"""Histograms that somebody else counted: upper limits of buckets and how many values lie in each.

The buckets are kept as they are, as many as there are, except where the dashboards would not draw them: empty ones at the
ends are left out, and no bucket that holds something is without a width. Limits are rounded to float32 where nobody could
see it: 12 bytes a bucket instead of 24.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from torchboard.errors import InvalidValueError
from torchboard.values.buckets import constant_bucket, drawn_edges, thinnest
from torchboard.values.histogram import Histogram, check_counts


def from_limits(limits: Any, counts: Any, least: float = math.nan, greatest: float = math.nan) -> Histogram:
    """A histogram of buckets that each reach from the limit before to their own.

    Args:
        limits: [k] numbers in ascending order, of which equal ones are one bucket. Those of empty buckets at the ends, and
            the last of all, may be infinite.
        counts: [k] numbers, finite and not negative.
        least: where the first bucket that holds something begins; if that is not finite, at the limit before.
        greatest: where the last one ends; if that is not finite, at its limit.

    Raises:
        InvalidValueError: one of these does not hold, or the ends lie inside what the limits say.
    """
    limits, counts = _vector("bucket_limits", limits), _vector("bucket_counts", counts)
    if limits.shape != counts.shape:
        came = f"{limits.size} bucket_limits for {counts.size} bucket_counts"
        raise InvalidValueError(came, "each bucket has one upper limit", "give edges[1:] of numpy.histogram's edges")
    if np.isnan(limits).any() or (limits[1:] < limits[:-1]).any():
        raise InvalidValueError(f"bucket_limits {limits}", "they do not ascend", "sort them with their counts")
    check_counts(counts)
    if not counts.any():
        return Histogram(np.zeros((0, 3)))
    limits, starts = np.unique(limits, return_index=True)
    counts = np.add.reduceat(counts, starts)
    used = np.flatnonzero(counts)
    first, last = used[0], used[-1]
    low, high = _ends(limits, first, last, (least, greatest))
    if low == high:
        return Histogram(constant_bucket(low, counts.sum()))
    edges = np.concatenate([[low], limits[first:last], [high]])
    thin = thinnest(low, high)
    edges[0], edges[-1] = min(low, edges[1] - thin), max(high, edges[-2] + thin)
    return Histogram.from_counts(drawn_edges(edges), counts[first : last + 1])


def _ends(limits: np.ndarray, first: int, last: int, given: tuple[float, float]) -> tuple[float, float]:
    """Where the bucket ``first`` begins and ``last`` ends: where it was given, up to rounding, or else at a limit."""
    finite = limits[np.isfinite(limits)]
    if not len(finite) or (first < last and not math.isfinite(limits[first])):
        wrong = "a bucket that holds something has no finite limit"
        raise InvalidValueError(f"bucket_limits {limits}", wrong, "count what is not finite elsewhere")
    low, high = given
    if not math.isfinite(low):
        low = max(limits[max(first - 1, 0)], finite[0])
    if not math.isfinite(high):
        high = min(limits[last], finite[-1])
    inner = limits[first:last] if first < last else [low]
    slack = max(1e-6 * (high / 2 - low / 2), 2.0**-22 * max(abs(low), abs(high)))
    if low > inner[0] + slack or high < inner[-1] - slack:
        raise InvalidValueError(
            f"min={low} and max={high}",
            f"there are values below {inner[0]} and above {inner[-1]}",
            "give the least and the greatest value that was counted",
        )
    return float(min(low, inner[0])), float(max(high, inner[-1]))


def _vector(name: str, values: Any) -> np.ndarray:
    """Real numbers of one dimension as float64."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "biuf"):
        came = f"{name} of shape {list(array.shape)} and {array.dtype}"
        raise InvalidValueError(came, "they are real numbers in one dimension", "give a list of numbers")
    return array.astype(np.float64)
