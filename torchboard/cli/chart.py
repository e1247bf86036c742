"""Curves and histograms drawn in characters.

Braille patterns hold two by four dots a character; a terminal that cannot show them gets one mark a character. Curves over
each other are told apart by colours, or, where there are none, by marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MARKS = "*o+x#@%&"
"""What the curves of one chart are drawn with, one after the other, where there are no colours."""
COLOURS = (36, 33, 35, 32, 34, 31, 96, 93)
"""And the colours, as numbers of ANSI escape sequences."""

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # [4 rows, 2 columns], bits of U+2800
_BARS = (" ▁▂▃▄▅▆▇█", " .:-=+*#@")
_LABEL = 11
_MOST_POINTS = 1 << 12


@dataclass(frozen=True)
class Style:
    """How a terminal is drawn on.

    Attributes:
        width: characters a line; at least 24 are used.
        height: lines of a chart.
        unicode: whether it shows Braille patterns and blocks.
        colours: whether it takes ANSI escape sequences.
        log: whether the vertical axis is logarithmic.
    """

    width: int
    height: int = 8
    unicode: bool = True
    colours: bool = False
    log: bool = False


def draw(curves: Sequence[tuple[np.ndarray, np.ndarray]], style: Style) -> list[str]:
    """The lines of a chart, its scales at the left and below.

    Args:
        curves: pairs of steps, int64[n], and values, float64[n]; a line is broken where a value is not finite, or on a
            logarithmic axis not positive.

    Returns:
        ``height + 1`` lines, or one where there is nothing to draw.
    """
    points = [_thinned(steps.astype(np.float64), _scale(values, style.log)) for steps, values in curves]
    xs, ys = (np.concatenate([np.zeros(0), *axis]) for axis in zip(*points))
    drawn = np.isfinite(ys)
    if not drawn.any():
        return [" " * _LABEL + f" no {'positive' if style.log else 'finite'} value"]
    xs, ys = xs[drawn], ys[drawn]
    columns = max(style.width, 24) - _LABEL - 2
    fine = style.unicode and (len(curves) == 1 or style.colours)
    across, down = (2, 4) if fine else (1, 1)
    limits = (xs.min(), xs.max(), ys.min(), ys.max())
    grids = [_plot(x, y, limits, (columns * across, style.height * down)) for x, y in points]
    rows = _braille(grids, style) if fine else _marked(grids)
    low, high = (10**limit if style.log else limit for limit in limits[2:])
    labels = {0: f"{high:.4g}", style.height - 1: f"{low:.4g}"}
    bar = "┤" if style.unicode else "|"
    lines = [f"{labels.get(number, ''):>{_LABEL}} {bar}{row}" for number, row in enumerate(rows)]
    first, last = f"{limits[0]:.0f}", f"{limits[1]:.0f}"
    return [*lines, " " * (_LABEL + 2) + first + last.rjust(columns - len(first))]


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """The running mean that TensorBoard draws: each value counts ``weight`` times as much as the next, from 0 to below 1.

    What is not finite stays as it is and counts for nothing.
    """
    result = values.copy()
    mean, share = 0.0, 0.0
    for number in np.flatnonzero(np.isfinite(values)):
        mean = mean * weight + (1 - weight) * values[number]
        share = share * weight + (1 - weight)
        result[number] = mean / share
    return result


def bars(histograms: Sequence[np.ndarray], columns: int, unicode: bool = True) -> tuple[list[str], float, float]:
    """Histograms as lines of bars over one range and to one scale, and that range.

    Args:
        histograms: float64[k, 3] each, rows of left edge, right edge and count.
        columns: bars a line.
        unicode: whether blocks can be shown.
    """
    edges = np.concatenate([np.zeros((0, 2)), *(rows[:, :2][rows[:, 2] > 0] for rows in histograms)])
    edges = edges[np.isfinite(edges).all(1)]
    if not len(edges):
        return [" " * columns for _ in histograms], 0.0, 0.0
    low, high = float(edges[:, 0].min()), float(edges[:, 1].max())
    heights = np.array([_rebinned(rows, low, high, columns) for rows in histograms])
    levels = np.ceil(heights / max(heights.max(), 5e-324) * 8).astype(int)
    letters = _BARS[0] if unicode else _BARS[1]
    return ["".join(letters[level] for level in row) for row in levels], low, high


def _rebinned(rows: np.ndarray, low: float, high: float, columns: int) -> np.ndarray:
    """float64[columns]: counts in bins of one width, each bucket spread evenly over its own."""
    rows = rows[np.isfinite(rows).all(1)]
    if high == low:
        return np.where(np.arange(columns) == columns // 2, rows[:, 2].sum(), 0.0)
    left, right = ((rows[:, side, None] - low) / (high - low) * columns for side in (0, 1))
    start = np.arange(columns)
    overlap = np.clip(np.minimum(right, start + 1) - np.maximum(left, start), 0, None)
    width = right - left
    spread = np.divide(overlap, width, out=np.zeros_like(overlap), where=width > 0)
    place = np.clip(np.floor(left), 0, columns - 1)
    spread = np.where(width > 0, spread, place == start)
    return (spread * rows[:, 2, None]).sum(0)


def _scale(values: np.ndarray, log: bool) -> np.ndarray:
    """The values on the vertical axis; NaN where there is nothing to draw."""
    finite = np.where(np.isfinite(values), values, np.nan)
    if not log:
        return finite
    return np.log10(np.where(finite > 0, finite, 1.0), where=finite > 0, out=np.full(len(values), np.nan))


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Few enough points to draw: the smallest and the largest of each stretch and one gap, in their order."""
    if len(x) <= _MOST_POINTS:
        return x, y
    picked: list[int] = []
    length = -(-len(x) // (_MOST_POINTS // 2))
    for first in range(0, len(x), length):
        part = y[first : first + length]
        finite = np.flatnonzero(np.isfinite(part))
        if len(finite):
            picked += [first + int(finite[part[finite].argmin()]), first + int(finite[part[finite].argmax()])]
        if len(finite) < len(part):
            picked.append(first + int(np.flatnonzero(np.isnan(part))[0]))
    index = np.unique(picked)
    return x[index], y[index]


def _plot(x: np.ndarray, y: np.ndarray, limits: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """bool[height, width]: the points, and straight lines between those that follow each other without a gap."""
    width, height = size
    drawn = np.isfinite(y)
    grid = np.zeros((height, width), bool)
    column = _placed(x, limits[0], limits[1], width)
    row = height - 1 - _placed(np.where(drawn, y, limits[2]), limits[2], limits[3], height)
    for number in np.flatnonzero(drawn[:-1] & drawn[1:]):
        (left, right), (top, bottom) = column[number : number + 2], row[number : number + 2]
        steps = max(abs(int(right) - int(left)), abs(int(bottom) - int(top))) + 1
        down = np.linspace(top, bottom, steps).round().astype(int)
        grid[down, np.linspace(left, right, steps).round().astype(int)] = True
    grid[row[drawn], column[drawn]] = True
    return grid


def _placed(values: np.ndarray, low: float, high: float, size: int) -> np.ndarray:
    """Places 0 … size - 1 of values between two limits; the middle where these are equal."""
    low, high = low / 2, high / 2  # halves: their difference is finite
    if low == high:
        return np.full(len(values), size // 2)
    return np.clip(((values / 2 - low) / (high - low) * (size - 1)).round(), 0, size - 1).astype(int)


def _braille(grids: list[np.ndarray], style: Style) -> list[str]:
    height, columns = style.height, grids[0].shape[1] // 2
    cells = np.stack([grid.reshape(height, 4, columns, 2).transpose(0, 2, 1, 3) for grid in grids])
    codes = (cells.any(0) * _DOTS).sum((2, 3)) + 0x2800
    if len(grids) == 1 or not style.colours:
        return ["".join(map(chr, row)) for row in codes]
    owners = _last(cells.any((3, 4)))
    return [_coloured([chr(code) for code in row], owner) for row, owner in zip(codes, owners)]


def _marked(grids: list[np.ndarray]) -> list[str]:
    letters = np.array([" ", *MARKS])
    owners = _last(np.stack(grids))
    return ["".join(letters[np.where(row < 0, 0, row % len(MARKS) + 1)]) for row in owners]


def _last(drawn: np.ndarray) -> np.ndarray:
    """int[height, width]: the last curve that is drawn in each cell, -1 for none; of bool[curves, height, width]."""
    numbers = np.arange(len(drawn))[:, None, None]
    return np.where(drawn, numbers, -1).max(0)


def _coloured(letters: list[str], owners: np.ndarray) -> str:
    line, before = "", -1
    for letter, owner in zip(letters, owners):
        if owner != before and owner >= 0:
            line += f"\x1b[{COLOURS[owner % len(COLOURS)]}m"
            before = owner
        line += letter
    return line if before < 0 else f"{line}\x1b[0m"
