"""The weights as pictures: blue below zero, white at zero, red above.

Whatever the number of axes or channels, every parameter with at least one axis is drawn, at most 512 x 512 numbers or
64 x 64 kernels of it: what lies beyond is cut off on the device, so that this bounds the copy too. The training thread
launches one small copy a parameter; scaling and colouring happen when the snapshot settles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from torchboard.capture.select import tag
from torchboard.capture.snapshot import HostCopy, Snapshot
from torchboard.capture.tensors import measurable
from torchboard.capture.tiles import palette, tiles
from torchboard.graph.module_names import parameter_names
from torchboard.values import Image, Value

_MAX_SIDE = 512
"""Numbers shown of a matrix, or of a vector in a row, along one axis."""
_MAX_KERNELS = 64
"""Kernels shown along one axis, and rows or columns of each."""
_STRIP = 8
"""The height of a vector's row, in pixels, about."""
_FEW = 16
"""So many kernels along an axis are drawn twice as large as more of them."""
_GAP, _GROUND = 2, 64
"""Between kernels are lines so wide, in pixels, and dark grey: white is a weight of zero."""
_SHARE = 0.995
"""The share of the numbers that the scale is made for; those beyond have the colour of its end."""
_NOT_A_NUMBER = (0, 160, 0)


class WeightImages:
    """Draws every parameter of a model as it is when collected.

    Args:
        model: its parameters are looked up anew each time.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def collect(self) -> list[WeightSnapshot]:
        """One snapshot for all parameters, on its way to the host; of a sharded one there is this rank's shard."""
        tags, parts, shapes = [], [], []
        for name, parameter in parameter_names(self._model):
            local = measurable(parameter)
            if local is not None and local.ndim and local.numel():
                tags.append(tag("weights", name))
                parts.append(shown(local).clone())
                shapes.append(tuple(local.shape))
        return [WeightSnapshot(tuple(tags), HostCopy(parts), tuple(shapes))] if tags else []


@dataclass(frozen=True)
class WeightSnapshot(Snapshot):
    """One picture a parameter.

    Attributes:
        shapes: of the whole parameters.
    """

    shapes: tuple[tuple[int, ...], ...]

    kind = Image

    def settle(self) -> Iterable[tuple[str, Value]]:
        for tag_, shape, part in zip(self.tags, self.shapes, self.copy.wait()):
            limit = scale_of(part)
            yield tag_, Image(weight_picture(part, limit)[None], _caption(shape, part.shape, limit))


def shown(weight: Tensor) -> Tensor:
    """What of a weight is drawn, a view: a vector as [1, n], a matrix [r, c], planes [n, r, c], kernels [out, in, h, w].

    A single plane counts as a matrix. With more axes than four, all between the first and the last two count as ``in``.
    """
    if weight.ndim == 1:
        return weight[None, : _MAX_SIDE * _MAX_SIDE]
    if weight.ndim > 4:
        weight = weight.flatten(1, -3)
    while weight.ndim > 2 and len(weight) == 1:
        weight = weight[0]
    if weight.ndim == 2:
        return weight[:_MAX_SIDE, :_MAX_SIDE]
    return weight[(slice(_MAX_KERNELS),) * weight.ndim]


def scale_of(part: np.ndarray) -> float:
    """The magnitude that 99.5 % of the finite numbers do not exceed; 0 where there are none."""
    sizes = np.abs(part[np.isfinite(part)], dtype=np.float64)
    return float(np.quantile(sizes, _SHARE, method="higher")) if sizes.size else 0.0


def weight_picture(part: np.ndarray, limit: float) -> np.ndarray:
    """Numbers as ``shown`` gives them as one picture uint8[H, W, 3]: from blue at ``-limit`` to red at ``limit``.

    A vector is a strip, broken into rows where it is long; a matrix is drawn as it is written; planes are laid out in a
    square, and kernels with a row for each output and a column for each input. What is not a number is green.
    """
    levels = _levels(part.astype(np.float64), limit)
    colors = np.concatenate([palette("RdBu_r", 255), np.array([_NOT_A_NUMBER], np.uint8)])
    if part.ndim == 2 and len(part) == 1:
        return _strip(colors[levels[0]])
    if part.ndim == 4 and part.shape[1] > 1:
        side = _STRIP if max(part.shape[:2]) > _FEW else 2 * _STRIP
        return tiles(
            levels.reshape(-1, *part.shape[2:]), colors, part.shape[1], min_side=side, gap=_GAP, ground=_GROUND
        )
    return tiles(levels.reshape(-1, *part.shape[-2:]), colors, gap=_GAP, ground=_GROUND)


def _levels(part: np.ndarray, limit: float) -> np.ndarray:
    """-limit .. limit as 0 .. 254, with zero at 127; NaN as 255."""
    limit = limit or 1.0
    bounded = np.clip(part, -limit, limit) / limit
    return np.where(np.isnan(part), 255, np.rint(np.nan_to_num(bounded) * 127) + 127).astype(np.uint8)


def _strip(colors: np.ndarray) -> np.ndarray:
    """Colours uint8[n, 3] in rows of equal length, the last one filled up with white."""
    count = len(colors)
    rows = -(-count // _MAX_SIDE)
    width = -(-count // rows)
    cells = np.full((rows * width, 3), 255, np.uint8)
    cells[:count] = colors
    zoom = max(1, min(_STRIP, _MAX_SIDE // width))
    return cells.reshape(rows, width, 3).repeat(_STRIP, axis=0).repeat(zoom, axis=1)


def _caption(shape: tuple[int, ...], part: tuple[int, ...], limit: float) -> str:
    size = " x ".join(map(str, shape))
    cut = math.prod(part) < math.prod(shape)
    drawn = f", the first {' x '.join(map(str, part))} of it" if cut else ""
    return f"{size}{drawn}, from {-limit:.3g} (blue) to {limit:.3g} (red)"
