"""What stands around a picture of numbers: what it shows, what its colours mean, and which row and column is which.

TensorBoard shows every picture 350 pixels wide unless it is clicked, and leaves out or repeats pixels of others: so no
sheet is narrower, and letters grow with a wider one. They have 16 shades of grey, so that the whole still fits a PNG's
palette. Drawing takes about 2 ms a picture, on the thread that settles it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from torchboard.drawing.tiles import Scale

Ticks = Sequence[tuple[float, str]]
"""``(pixel, label)`` of rows or columns; where labels would touch, the later one is left out."""

CARD = 350
"""The width of a picture in TensorBoard, in pixels."""
_SIZE, _LINE, _PAD = 12, 16, 4
_BAR_WIDTH, _BAR_HEIGHT = 100, 10
_SHADE = 17
"""Greys are multiples of this: 16 of them."""


def framed(
    picture: np.ndarray, heading: Sequence[str], scale: Scale | None = None, rows: Ticks = (), columns: Ticks = ()
) -> np.ndarray:
    """A picture uint8[H, W, 3] with lines of text above, the scale's colours, and labels beside its rows and columns.

    At least 350 pixels wide, uint8[…, …, 3].
    """
    return _Frame(picture, heading, scale, rows, columns).draw()


def numbered(count: int, cell: float, step: float = 1, apart: float = _LINE, sign: str = "") -> list[tuple[float, str]]:
    """Ticks of ``count`` cells of so many pixels, numbered 0, ``step``, twice that, …: round numbers, so far apart at least."""
    least = max(step, apart / cell * step)
    spacing = next(size * 10**power for power in range(10) for size in (1, 2, 5) if size * 10**power >= least)
    if spacing % step and cell > _PAD:  # cells that are told apart are labelled at their middles
        spacing = -(-least // step) * step
    return [((at / step + 0.5) * cell, f"{sign}{round(at)}") for at in np.arange(0, count * step, spacing)]


@dataclass(frozen=True)
class _Frame:
    """A picture and what is written around it; lengths are in pixels, in units of ``unit``."""

    picture: np.ndarray
    heading: Sequence[str]
    scale: Scale | None
    rows: Ticks
    columns: Ticks

    @property
    def unit(self) -> float:
        """How much larger than in a picture that TensorBoard shows as it is."""
        return max(1.0, (self.picture.shape[1] + 2 * _LINE) / CARD)

    def draw(self) -> np.ndarray:
        height, width, _ = self.picture.shape
        top, left = self._corner()
        widths = [CARD - self._px(_PAD), left + width, *(self._px(_PAD) + self._length(line) for line in self.heading)]
        if self.scale:
            low, high = self._ends()
            widths.append(self._length(low) + self._length(high) + self._px(_BAR_WIDTH + 3 * _PAD))
        sheet = self._letters(top + height + self._px(_PAD), max(widths) + self._px(_PAD))
        sheet[top : top + height, left : left + width] = self.picture
        if self.scale:
            bar = self.scale.bar(self._px(_BAR_WIDTH), self._px(_BAR_HEIGHT))
            y = round(self._middle(len(self.heading)) - len(bar) / 2)
            x = 2 * self._px(_PAD) + self._length(self._ends()[0])
            sheet[y : y + bar.shape[0], x : x + bar.shape[1]] = bar
        return sheet

    def _corner(self) -> tuple[int, int]:
        """Where the picture begins, from the top and from the left."""
        lines = len(self.heading) + (self.scale is not None) + bool(self.columns)
        labels = max((self._length(label) for _, label in self.rows), default=0)
        return self._px(_PAD + _LINE * lines), self._px(_PAD * (1 + bool(labels))) + labels

    def _ends(self) -> tuple[str, str]:
        assert self.scale is not None
        return f"{self.scale.low + 0.0:.3g}", f"{self.scale.limit:.3g}"

    def _middle(self, line: int) -> float:
        return self.unit * (_PAD + _LINE * (line + 0.5))

    def _texts(self) -> Iterator[tuple[float, float, str]]:
        """``(x, y, text)``: where it begins, and the middle of its line."""
        for place, line in enumerate(self.heading):
            yield self._px(_PAD), self._middle(place), line
        if self.scale:
            low, high = self._ends()
            y = self._middle(len(self.heading))
            yield self._px(_PAD), y, low
            yield 3 * self._px(_PAD) + self._length(low) + self._px(_BAR_WIDTH), y, high
        yield from self._labels()

    def _labels(self) -> Iterator[tuple[float, float, str]]:
        top, left = self._corner()
        last = -np.inf
        for y, label in self.rows:
            if y - last >= self.unit * (_LINE - 2):
                yield left - self._px(_PAD) - self._length(label), top + y, label
                last = y
        last = -np.inf
        for x, label in self.columns:
            half = self._length(label) / 2
            if left + x - half >= last:
                yield left + x - half, top - self.unit * _LINE / 2, label
                last = left + x + half + self._px(_PAD)

    def _letters(self, height: int, width: int) -> np.ndarray:
        """A white sheet with the texts on it: uint8[height, width, 3]."""
        import PIL.Image
        import PIL.ImageDraw

        sheet = PIL.Image.new("L", (width, height), 255)
        pen = PIL.ImageDraw.Draw(sheet)
        font = _font(self._px(_SIZE))
        box = font.getbbox("0")
        for x, y, text in self._texts():
            pen.text((round(x), round(y - (box[1] + box[3]) / 2)), text, fill=0, font=font)
        grey = (np.asarray(sheet, np.uint16) + _SHADE // 2) // _SHADE * _SHADE
        return grey.astype(np.uint8)[:, :, None].repeat(3, axis=2)

    def _length(self, text: str) -> int:
        return int(_font(self._px(_SIZE)).getlength(text) + 0.999)

    def _px(self, length: float) -> int:
        return round(length * self.unit)


@cache
def _font(size: int) -> Any:
    import PIL.ImageFont

    try:
        return PIL.ImageFont.load_default(size)
    except TypeError:  # an older Pillow, whose font has one size
        return PIL.ImageFont.load_default()
