"""A curve drawn in characters.

Braille patterns hold two by four dots a character; a terminal that cannot show them gets one asterisk a character.
"""

from __future__ import annotations

import numpy as np

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # [4 rows, 2 columns], bits of U+2800
_LABEL = 11
_MOST_POINTS = 1 << 12


def draw(steps: np.ndarray, values: np.ndarray, width: int, height: int = 8, unicode: bool = True) -> list[str]:
    """The lines of a chart of values over steps, its scales at the left and below.

    Args:
        steps: int64[n].
        values: float64[n]; what is not finite is left out.
        width: characters a line, at least 24.
        height: lines of the curve.
        unicode: whether Braille patterns can be shown.

    Returns:
        ``height + 1`` lines, or one where no value is finite.
    """
    finite = np.isfinite(values)
    if not finite.any():
        return [" " * _LABEL + " no finite value"]
    x, y = _thinned(steps[finite].astype(np.float64), values[finite])
    columns = max(width, 24) - _LABEL - 2
    across, down = (2, 4) if unicode else (1, 1)
    grid = _plot(x, y, columns * across, height * down)
    if unicode:
        cells = grid.reshape(height, 4, columns, 2).transpose(0, 2, 1, 3)
        rows = ["".join(chr(0x2800 + code) for code in row) for row in (cells * _DOTS).sum((2, 3))]
    else:
        rows = ["".join("*" if dot else " " for dot in row) for row in grid]
    labels = {0: f"{y.max():.4g}", height - 1: f"{y.min():.4g}"}
    bar = "┤" if unicode else "|"
    lines = [f"{labels.get(number, ''):>{_LABEL}} {bar}{row}" for number, row in enumerate(rows)]
    first, last = f"{x.min():.0f}", f"{x.max():.0f}"
    return [*lines, " " * (_LABEL + 2) + first + last.rjust(columns - len(first))]


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Few enough points to draw: the smallest and the largest of each stretch, in their order."""
    if len(x) <= _MOST_POINTS:
        return x, y
    starts = np.arange(0, len(x), -(-len(x) // (_MOST_POINTS // 2)))
    stops = [*starts[1:], len(x)]
    picked = [first + np.array([y[first:stop].argmin(), y[first:stop].argmax()]) for first, stop in zip(starts, stops)]
    index = np.sort(np.concatenate(picked))
    return x[index], y[index]


def _plot(x: np.ndarray, y: np.ndarray, width: int, height: int) -> np.ndarray:
    """bool[height, width]: the points and the straight lines between them."""
    column, row = _scaled(x, width), height - 1 - _scaled(y, height)
    grid = np.zeros((height, width), bool)
    for left, right, top, bottom in zip(column, column[1:], row, row[1:]):
        count = max(abs(int(right) - int(left)), abs(int(bottom) - int(top))) + 1
        grid[
            np.linspace(top, bottom, count).round().astype(int), np.linspace(left, right, count).round().astype(int)
        ] = True
    grid[row, column] = True
    return grid


def _scaled(values: np.ndarray, size: int) -> np.ndarray:
    """Places 0 … size - 1 of values between their extremes; the middle where all are equal."""
    low, high = values.min() / 2, values.max() / 2  # halves: their difference is finite
    if low == high:
        return np.full(len(values), size // 2)
    return ((values / 2 - low) / (high - low) * (size - 1)).round().astype(int)
