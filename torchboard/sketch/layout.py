"""What one row of a sketch holds: where its bins lie and which figure is in which slot.

An element x of the tensor becomes ``y = (x - pivot) * scale``, with a power of two for a scale, and y falls into the
bin of its sign, its exponent and its five leading mantissa bits. Elements equal to the pivot are counted apart, as
the *spike*, and are in no bin. 63 binades are resolved on each side of the pivot: 39 below the exponent that the
first tensor of the row had, 24 from there up. What lies nearer to the pivot joins the innermost bin of its side; what
lies farther joins an overflow bin. Every element is in exactly one place::

    count == numel == bins + spike + NaN + positive infinities + negative infinities

**The guarantee.** A bin at a distance d from the pivot is at most d/32 wide. The pivot of a row is zero unless the
first tensor is of one sign and narrow (max |x| < 16 min |x|), and then it lies inside the data; so for a tensor of
range R no d is above R * 16/15, and no bin wider than R/30: never coarser than 30 equal bins, from one pass that knew
no range beforehand. (The overflow bin is as wide as it must be. It is used only by what is 2**24 times farther from
the pivot than the farthest element that chose the scale.)

The order of a row's counts is the one that a float's bits have: 2017 bins right of the pivot, outwards, then 2017 bins
left of it, outwards. ``ascending`` puts them in the order of ``edges``.

**Exact rows.** A row in the host's memory that has met only 8-bit floats is of the kind ``POINTS``: every one of their
256 values is the inner edge of a bin, so a count belongs to that very value. One that has met only integers within
``REACH`` of a whole pivot (all 8-bit ones are) is of the kind ``INTEGERS``: its bins are the single numbers pivot, pivot
+ 1, ... on the right, pivot - 1, ... on the left. The first tensor that does not fit makes either a row of ``FLOATS``,
the kind described above; no element changes its bin more than once by that, and none is lost.

Rows of the same kind, pivot and scale merge exactly: add ``counts`` and the slots before ``NEGATED_MIN``, take the
maximum of the others. ``merging`` brings others to one kind, pivot and scale.
"""

from __future__ import annotations

import math
import struct

import numpy as np

MANTISSA_BITS = 5
"""Leading mantissa bits that tell bins apart: 32 bins a binade."""
BINADES = 63
BINADES_ABOVE = 24
"""How many of the binades lie at |y| >= 1."""
LOWEST = 2.0 ** (BINADES_ABOVE - BINADES)
"""|y| below this joins the innermost bin."""
HIGHEST = 2.0**BINADES_ABOVE
"""|y| from here on is in the overflow bin."""
SIDE = (BINADES << MANTISSA_BITS) + 1
"""Bins on one side of the pivot; the last one is the overflow bin."""
BINS = 2 * SIDE
"""Bins of a row."""

COUNT, SPIKE, ZEROS, NAN, POS_INF, NEG_INF, SUM, SUM_SQUARES, NEGATED_MIN, MAX = range(10)
"""Slots of a row of moments. ``COUNT`` is every element; ``SPIKE`` those equal to the pivot; ``ZEROS`` those equal to
zero, wherever the pivot is; ``SUM`` and ``SUM_SQUARES`` are over the normalised y of the finite elements, so that
nothing overflows or cancels; ``NEGATED_MIN`` and ``MAX`` are -min(x) and max(x) of the finite elements, -inf where
there is none."""
SLOTS = 10
ADDITIVE = NEGATED_MIN
"""Slots before this one add up; this one and those behind it take the maximum."""

PIVOT, SCALE, KIND = range(3)
"""Slots of a row of parameters. A scale of 0 means that the row has met no finite element yet."""
PARAMETERS = 3

FLOATS, POINTS, INTEGERS = range(3)
"""Kinds of rows. Whoever knows nothing of exact rows leaves a 0, which is ``FLOATS``."""
REACH = SIDE - 2
"""Integers up to this far from the pivot have a bin of their own in a row of the kind ``INTEGERS``."""

NARROW = 16.0
"""Data of one sign whose largest magnitude is below this many times the smallest is seen from a pivot of its own."""


def _unit_edges() -> np.ndarray:
    """Edges of one side for pivot 0 and scale 1, float64[SIDE + 1], from 0 to infinity."""
    bins = np.arange(SIDE)
    mantissa = 1.0 + (bins % 32) / 32.0
    edges = np.ldexp(mantissa, bins // 32 + BINADES_ABOVE - BINADES)
    edges[0] = 0.0
    return np.append(edges, np.inf)


_UNIT_SIDE = _unit_edges()
_UNIT = np.concatenate([-_UNIT_SIDE[:0:-1], _UNIT_SIDE])


def edges(pivot: float | np.ndarray, scale: float | np.ndarray) -> np.ndarray:
    """Edges of the bins in ascending order, the outermost ones infinite.

    Args:
        pivot: one number, or float64[rows].
        scale: likewise; 0 counts as 1.

    Returns:
        float64[BINS + 1], or float64[rows, BINS + 1]. Edge number ``SIDE`` is the pivot. A bin right of the pivot
        holds its left edge, a bin left of it its right edge.
    """
    pivot, scale = np.asarray(pivot, np.float64)[..., None], np.asarray(scale, np.float64)[..., None]
    with np.errstate(over="ignore"):
        return _UNIT / np.where(scale == 0, 1.0, scale) + pivot


def ascending(counts: np.ndarray) -> np.ndarray:
    """Counts of one row or of many, ``[..., BINS]``, in the order of ``edges``. A copy."""
    return np.concatenate([counts[..., : SIDE - 1 : -1], counts[..., :SIDE]], axis=-1)


def points(parameters: np.ndarray) -> np.ndarray:
    """The one value that each bin of an exact row stands for, float64[BINS] in ascending order.

    Args:
        parameters: float64[PARAMETERS], of a row whose kind is not ``FLOATS``.
    """
    pivot, scale, kind = parameters
    side = np.arange(SIDE, dtype=np.float64) if kind == INTEGERS else _UNIT_SIDE[:-1] / (scale or 1.0)
    return np.concatenate([pivot - side[::-1], pivot + side])


def finite(moments: np.ndarray) -> np.ndarray:
    """How many elements are finite; ``moments`` is ``[..., SLOTS]``."""
    return moments[..., COUNT] - moments[..., NAN] - moments[..., POS_INF] - moments[..., NEG_INF]


def mean(moments: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Mean of the finite elements, float64[...]; NaN where there is none.

    Args:
        moments: float64[..., SLOTS].
        parameters: float64[..., PARAMETERS].
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return parameters[..., PIVOT] + moments[..., SUM] / finite(moments) / parameters[..., SCALE]


def std(moments: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Standard deviation of the finite elements (dividing by their number), float64[...]; NaN where there is none."""
    number = finite(moments)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = moments[..., SUM_SQUARES] / number - (moments[..., SUM] / number) ** 2
        return np.sqrt(np.maximum(variance, 0.0)) / parameters[..., SCALE]


def norm(moments: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Euclidean norm of the finite elements, float64[...]; 0 where there is none."""
    number, scale = finite(moments), parameters[..., SCALE]
    pivot = parameters[..., PIVOT] * scale
    squares = moments[..., SUM_SQUARES] + pivot * (2.0 * moments[..., SUM] + pivot * number)
    return np.sqrt(np.maximum(squares, 0.0)) / np.where(scale == 0, 1.0, scale)


def wants_pivot(low: float, high: float) -> bool:
    """Whether data in [low, high] is of one sign and narrow, so that a pivot other than 0 resolves it better."""
    return (low > 0 and high < NARROW * low) or (high < 0 and -low < -NARROW * high)


def choose_pivot(low: float, high: float, mean: float, std: float) -> float:
    """The number with the fewest significand bits within half a standard deviation of the mean, clipped to [low, high].

    So the weights of a normalisation layer are seen from exactly 1, at every step and on every rank. ``low`` and
    ``high`` have one sign.
    """
    inner, outer = sorted((abs(max(low, mean - 0.5 * std)), abs(min(high, mean + 0.5 * std))))
    small, large = (struct.unpack("<q", struct.pack("<d", value))[0] for value in (inner, outer))
    differing = (1 << (small ^ large).bit_length()) - 1
    magnitude = struct.unpack("<d", struct.pack("<q", large & ~(differing >> 1)))[0]
    return math.copysign(magnitude, low)


def choose_scale(distance: float, pivot: float) -> float:
    """The power of two that brings ``distance``, the farthest element from the pivot, into [1, 2).

    Where all elements are equal the pivot's own magnitude stands in, and 1 for zero.
    """
    exponent = math.frexp(distance or abs(pivot) or 1.0)[1] - 1
    return math.ldexp(1.0, -min(max(exponent, -1022), 1022))
