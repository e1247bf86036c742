"""Numbers as colours, and many small planes of them as one picture: how feature maps and weights are drawn.

White is zero, red above and blue below. A scale ends at a round number that is met again epoch after epoch, so that the
colours of two frames can be compared; it is said in the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from torchboard.values.image import grid

_SHARE = 0.99
"""The share of the numbers that a scale is made for; those beyond have the colour of its end."""
_SAMPLE = 1 << 16
"""A scale is made for about so many of the numbers, evenly spaced."""
_ENDS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
"""A scale ends at one of these, times a power of ten."""
_HALF = 100
"""Colours on each side of white: with the greys of letters beside them, a picture has at most 256."""
_NOT_A_NUMBER = (0, 160, 0)
GAP, GROUND = 2, 96
"""Between planes are lines so wide, in pixels, and grey: white is zero."""


@dataclass(frozen=True)
class Scale:
    """Which number has which colour: white is 0, red ``limit``, and blue ``-limit`` where there are signs.

    Attributes:
        limit: the greatest magnitude that has a colour of its own; at least 0, and 0 only where all numbers are.
        signed: whether there are numbers below 0.
    """

    limit: float
    signed: bool = True

    @classmethod
    def of(cls, values: np.ndarray, signed: bool = True) -> Scale:
        """The least round scale that 99 % of the finite numbers lie in, by an even sample of them."""
        flat = values.reshape(-1)
        flat = flat[:: max(1, flat.size // _SAMPLE)]
        sizes = np.abs(flat[np.isfinite(flat)], dtype=np.float64)
        return cls(_rounded_up(float(np.quantile(sizes, _SHARE, method="higher"))) if sizes.size else 0.0, signed)

    @property
    def low(self) -> float:
        """The number at the lower end."""
        return -self.limit if self.signed else 0.0

    def paint(self, values: np.ndarray) -> np.ndarray:
        """Numbers of any shape as colours uint8[…, 3]; those beyond the ends have the colour of the end, NaN is green."""
        limit = self.limit or 1.0
        bounded = np.clip(values.astype(np.float64), self.low and -limit, limit) / limit
        levels = np.rint(np.nan_to_num(bounded) * _HALF).astype(np.int16) + _HALF
        colors = _colors()[levels]
        colors[np.isnan(values)] = _NOT_A_NUMBER
        return colors

    def bar(self, width: int, height: int) -> np.ndarray:
        """All colours from the lower to the upper end: uint8[height, width, 3]."""
        places = np.linspace(-1.0 if self.signed else 0.0, 1.0, width)
        return Scale(1.0, self.signed).paint(places[None].repeat(height, axis=0))


def _rounded_up(size: float) -> float:
    if size < 1e-300:
        return size
    power = 10.0 ** math.floor(math.log10(size))
    return min((end * power for end in _ENDS if end * power >= size * (1 - 1e-6)), default=size)


@cache
def _colors() -> np.ndarray:
    """Blue over white to red: uint8[201, 3]."""
    import matplotlib

    return matplotlib.colormaps["RdBu_r"](np.linspace(0.0, 1.0, 2 * _HALF + 1), bytes=True)[:, :3]


def enlarged(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture [H, W, …] with each pixel ``height`` x ``width`` times as large."""
    return picture.repeat(height, axis=0).repeat(width, axis=1)


def tiles(planes: np.ndarray, columns: int, zoom: int) -> np.ndarray:
    """Coloured planes uint8[count, height, width, 3] side by side, enlarged, with a grey line between: uint8[H, W, 3].

    The places that are left in the last row are white.
    """
    count, height, width, _ = planes.shape
    sheet = grid(planes.repeat(zoom, axis=1).repeat(zoom, axis=2), columns=columns, gap=GAP, fill=GROUND)
    filled = count % columns
    if filled and count > columns:
        sheet[-height * zoom :, filled * (width * zoom + GAP) :] = 255
    return sheet[:, : min(count, columns) * (width * zoom + GAP) - GAP]
