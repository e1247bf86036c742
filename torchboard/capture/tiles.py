"""Many small planes of numbers as one picture: how feature maps and weights are drawn."""

from __future__ import annotations

import math

import numpy as np

from torchboard.values.image import grid

_MIN_SIDE = 32
"""Smaller planes are enlarged, element by element, to at least about this many pixels along their longer side."""


def palette(name: str, colors: int = 256) -> np.ndarray:
    """``colors`` steps of one of matplotlib's colormaps: uint8[colors, 3]."""
    import matplotlib

    return matplotlib.colormaps[name](np.linspace(0.0, 1.0, colors), bytes=True)[:, :3]


def tiles(
    levels: np.ndarray,
    colors: np.ndarray,
    columns: int | None = None,
    *,
    min_side: int = _MIN_SIDE,
    gap: int = 1,
    ground: int = 255,
) -> np.ndarray:
    """Planes side by side, with a line between: uint8[H, W, 3].

    Args:
        levels: uint8[count, height, width], places in ``colors``.
        colors: uint8[256, 3].
        columns: planes in a row; None for about as many as there are rows.
        min_side: to how many pixels the longer side of a plane is enlarged at least, by a whole factor.
        gap: how wide the line is, in pixels.
        ground: how light the line is.
    """
    zoom = max(1, round(min_side / max(levels.shape[1:])))
    levels = levels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    return grid(colors[levels], columns=columns or math.isqrt(len(levels) - 1) + 1, gap=gap, fill=ground)
