"""How numbers of each shape are drawn: planes in a square, lines as rows, volumes by slices, tables as they are.

What is drawn may be a part, a sample or means of what there is; every drawing says so in its heading. Everything here is
NumPy, on the thread that settles a snapshot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from torchboard.drawing.frame import framed, numbered
from torchboard.drawing.tiles import GAP, GROUND, Scale, enlarged, tiles
from torchboard.values.image import grid

_WIDTH = 312
"""A picture is enlarged to at most this many pixels across, where it has fewer: with its labels, what TensorBoard shows."""
_MAX_CELL, _MAX_SLICE = 128, 40
"""Planes and slices are enlarged to at most this many pixels a side."""
_MAX_ELEMENT = 12
"""An element of a kernel is enlarged to at most so many pixels."""
_ELEMENT = 10
"""The side, in pixels, of an element of a vector."""
_ROW = 64
"""Elements of a vector in a row."""
_APART = 30
"""Pixels between the labels of columns, at least."""
_MAX_LINE = 24
"""The height, in pixels, of a line of numbers is at most this."""


class Sheet(Protocol):
    """A way of drawing an array."""

    def draw(self, values: np.ndarray) -> np.ndarray:
        """A picture uint8[H, W, 3]."""

    @property
    def heading(self) -> list[str]:
        """What the picture shows, line by line."""


@dataclass(frozen=True)
class Planes:
    """Planes [count, height, width] in a square grid, numbered along its rows.

    Attributes:
        shape: of all that there are, before any was left out or averaged.
        drawn: how many are drawn, the first ones.
        pooled: of how many elements a side one pixel is the mean.
        what: what a plane is.
    """

    shape: tuple[int, int, int]
    drawn: int
    pooled: int = 1
    what: str = "channels"

    @property
    def heading(self) -> list[str]:
        count, height, width = self.shape
        lines = [f"{_first(self.drawn, count)} {self.what}, {height} x {width}"]
        if self.pooled > 1:
            lines.append(f"a pixel is the mean of {self.pooled} x {self.pooled}")
        return lines

    def draw(self, values: np.ndarray) -> np.ndarray:
        return _in_a_square(values, Scale.of(values), self.heading)


@dataclass(frozen=True)
class Volumes:
    """Slices [count, slices, height, width]: a row for each channel, a column for each slice.

    Attributes:
        shape: of all that there is: channels, depth, height, width.
        slices: which of the depth are drawn.
        drawn: how many channels are drawn, the first ones.
        pooled: of how many elements a side one pixel is the mean.
    """

    shape: tuple[int, int, int, int]
    slices: tuple[int, ...]
    drawn: int
    pooled: int = 1

    @property
    def heading(self) -> list[str]:
        count, depth, height, width = self.shape
        lines = [f"{_first(self.drawn, count)} channels, a row each, {depth} x {height} x {width}"]
        lines.append("columns: slices along the first axis" + _mean_of(self.pooled))
        return lines

    def draw(self, values: np.ndarray) -> np.ndarray:
        count, depth, height, width = values.shape
        zoom = _zoom(height, width, depth, _MAX_SLICE)
        scale = Scale.of(values)
        picture = tiles(scale.paint(values.reshape(-1, height, width)), depth, zoom)
        rows = numbered(count, height * zoom + GAP)
        ticks = numbered(depth, width * zoom + GAP)
        return framed(picture, self.heading, scale, rows, [(x, str(at)) for (x, _), at in zip(ticks, self.slices)])


@dataclass(frozen=True)
class Kernels:
    """Kernels [outputs, inputs, height, width]: those of one output side by side, and outputs below each other.

    Where an output has few inputs, several outputs stand in a row.

    Attributes:
        shape: of all that there is.
        what: what an input is.
    """

    shape: tuple[int, int, int, int]
    drawn: tuple[int, int]
    what: str = "inputs"

    @property
    def heading(self) -> list[str]:
        outputs, inputs, height, width = self.shape
        counts = f"{_first(self.drawn[0], outputs)} outputs, {_first(self.drawn[1], inputs)} {self.what}"
        return [counts, f"kernels of {height} x {width}, those of an output side by side"]

    def draw(self, values: np.ndarray) -> np.ndarray:
        outputs, inputs, height, width = values.shape
        scale = Scale.of(values)
        in_a_row = max(1, min(outputs, round(math.sqrt(outputs * height / (inputs * width)))))
        rows_of = -(-outputs // in_a_row)
        across, down = _WIDTH // (in_a_row * inputs) - GAP, 2 * _WIDTH // rows_of - GAP
        zoom = max(2, min(_MAX_ELEMENT, across // width, down // height))
        strips = np.stack([tiles(strip, inputs, zoom) for strip in scale.paint(values)])
        gap = GAP if in_a_row == 1 else 3 * GAP
        picture = grid(strips, columns=in_a_row, gap=gap, fill=GROUND if in_a_row == 1 else 255)
        rows = numbered(rows_of, strips.shape[1] + gap, step=in_a_row)
        if in_a_row == 1:
            return framed(picture, self.heading, scale, rows, numbered(inputs, width * zoom + GAP, apart=_APART))
        return framed(picture, self.heading, scale, rows, _across(in_a_row, strips.shape[2] + gap))


@dataclass(frozen=True)
class Vector:
    """Numbers [1, count] in rows, as a text is read.

    Attributes:
        count: of all that there are.
    """

    count: int

    @property
    def heading(self) -> list[str]:
        return [f"{self.count} numbers, row by row"]

    def draw(self, values: np.ndarray) -> np.ndarray:
        count = values.shape[1]
        width = min(count, _ROW if count <= _ROW * _ROW else 4 * _ROW)
        cells = np.zeros(-(-count // width) * width)
        cells[:count] = values[0]
        scale = Scale.of(values)
        colors = scale.paint(cells)
        colors[count:] = 255
        zoom = max(2, min(_ELEMENT, _WIDTH // width))
        picture = enlarged(colors.reshape(-1, width, 3), _ELEMENT, zoom)
        rows = numbered(len(picture) // _ELEMENT, _ELEMENT, step=width)
        heading = self.heading + ([f"the first {count} of them"] if count < self.count else [])
        return framed(picture, heading, scale, rows, numbered(width, zoom, apart=_APART))


@dataclass(frozen=True)
class Table:
    """A table [rows, columns] as it is written.

    Attributes:
        shape: of the whole one.
        rows: what a row is.
        columns: what a column is.
        steps: of how many rows, and of how many columns, one is drawn.
        pooled: of how many columns a pixel is the mean, where it is not one of them.
    """

    shape: tuple[int, int]
    rows: str
    columns: str
    steps: tuple[int, int] = (1, 1)
    pooled: int = 1

    @property
    def heading(self) -> list[str]:
        lines = [f"{self.shape[0]} {self.rows} (down) x {self.shape[1]} {self.columns} (across)"]
        named = zip(self.steps, (self.rows, self.columns))
        parts = [f"every {_ordinal(step)} of the {name}" for step, name in named if step > 1]
        if self.pooled > 1:
            parts.append(f"a pixel is the mean of {self.pooled} {self.columns}")
        return lines + ([", ".join(parts)] if parts else [])

    def draw(self, values: np.ndarray) -> np.ndarray:
        height, width = values.shape
        across = max(1, min(_MAX_LINE, _WIDTH // width))
        down = across if self.rows == self.columns else max(1, min(_MAX_LINE, _WIDTH // height))
        scale = Scale.of(values)
        picture = enlarged(scale.paint(values), down, across)
        rows = numbered(height, down, self.steps[0])
        columns = numbered(width, across, self.steps[1] * self.pooled, apart=_APART)
        return framed(picture, self.heading, scale, rows, columns)


@dataclass(frozen=True)
class Heads:
    """Attention [heads, queries, keys], a square for each head: red where a query (down) looks at a key (across).

    Attributes:
        shape: of all that there is.
        step: of how many queries one is drawn, and of how many keys a pixel is the sum.
        window: whether it is the first of several windows.
    """

    shape: tuple[int, int, int]
    step: tuple[int, int]
    drawn: int
    window: bool = False

    @property
    def heading(self) -> list[str]:
        heads, queries, keys = self.shape
        where = ", the first window" if self.window else ""
        lines = [f"{_first(self.drawn, heads)} heads, {queries} queries (down) x {keys} keys (across){where}"]
        if self.step[0] > 1:
            lines.append(f"every {_ordinal(self.step[0])} query")
        if self.step[1] > 1:
            lines.append(f"a pixel is the sum over {self.step[1]} keys")
        return lines

    def draw(self, values: np.ndarray) -> np.ndarray:
        return _in_a_square(values, Scale.of(values, signed=False), self.heading)


def _in_a_square(values: np.ndarray, scale: Scale, heading: list[str]) -> np.ndarray:
    """Planes [count, height, width], as many side by side as below each other, with their numbers."""
    count, height, width = values.shape
    columns = math.isqrt(count - 1) + 1
    zoom = _zoom(height, width, columns, _MAX_CELL)
    picture = tiles(scale.paint(values), columns, zoom)
    rows = numbered(-(-count // columns), height * zoom + GAP, step=columns) if count > 1 else ()
    return framed(picture, heading, scale, rows, _across(columns, width * zoom + GAP))


def _first(drawn: int, count: int) -> str:
    return f"the first {drawn} of {count}" if drawn < count else str(count)


def _mean_of(pooled: int) -> str:
    return f"; a pixel is the mean of {pooled} x {pooled}" if pooled > 1 else ""


def _ordinal(step: int) -> str:
    tail = {1: "st", 2: "nd", 3: "rd"}.get(step % 10, "th") if step % 100 not in (11, 12, 13) else "th"
    return f"{step}{tail}"


def _zoom(height: int, width: int, columns: int, most: int) -> int:
    """By how much planes in so many columns are enlarged: what fits, and at most to ``most`` pixels."""
    return max(1, min(most // max(height, width), (_WIDTH // columns - GAP) // width))


def _across(columns: int, cell: float) -> list[tuple[float, str]]:
    """What is added to the number of a row, above each column."""
    return numbered(columns, cell, apart=_APART, sign="+") if columns > 1 else []
