"""The weights as pictures: blue below zero, white at zero, red above, on a scale that the picture tells.

Whatever the number of axes or channels, every parameter with at least one axis is drawn. Of kernels the first 64 x 64 are
shown, of a matrix 512 x 512 numbers evenly spaced over all of it (256 x 256 where there are more than 100 pictures): they
are picked on the device, so that this bounds the copy too. The training thread launches one small copy a parameter;
scaling and colouring happen when the snapshot settles. Parameters that are sharded over ranks are left out and named.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from torchboard.capture.figures import Figures
from torchboard.capture.left_out import left_out
from torchboard.capture.pictures.pending import PictureSnapshot
from torchboard.capture.select import spread, tag
from torchboard.capture.tensors import measurable
from torchboard.drawing.sheets import Kernels, Planes, Sheet, Table, Vector
from torchboard.graph.module_names import module_names, parameter_names
from torchboard.graph.tensors import is_sharded

_MAX_PICTURES = 300
"""Where there are more parameters, vectors are left out first, and then others, evenly."""
_FEW_PICTURES = 100
"""Where there are more pictures, matrices are drawn at half the size."""
_MAX_SIDE = 512
"""Numbers shown of a matrix along one axis."""
_MAX_VECTOR = 1 << 16
_MAX_KERNELS = 64
"""Kernels shown along one axis, and rows or columns of each."""


class WeightImages:
    """Draws every parameter of a model as it is when collected.

    Args:
        model: its parameters are looked up anew each time.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._told = ""

    def collect(self) -> list[PictureSnapshot | Figures]:
        """One snapshot for all parameters, on its way to the host; and once, what is left out."""
        named = parameter_names(self._model)
        layers = _layers_of(self._model)
        whole = [(name, local, layers[weight]) for name, weight in named if (local := _drawable(weight)) is not None]
        drawn = whole
        if len(drawn) > _MAX_PICTURES:
            drawn = spread([one for one in whole if one[1].ndim > 1], _MAX_PICTURES)
        side = _MAX_SIDE if len(drawn) <= _FEW_PICTURES else _MAX_SIDE // 2
        views = {tag("weights", name): shown(local, side, layer) for name, local, layer in drawn}
        snapshots: list[PictureSnapshot | Figures] = [PictureSnapshot.of(views)] if views else []
        return snapshots + self._tell(len(drawn), len(whole), [name for name, weight in named if is_sharded(weight)])

    def _tell(self, drawn: int, count: int, sharded: list[str]) -> list[Figures]:
        reasons = [f"{drawn} of {count} are drawn: vectors are left out first"] if drawn < count else []
        if sharded:
            reasons.append("sharded over ranks: " + ", ".join(f"`{name}`" for name in sharded))
        told, self._told = self._told, "; ".join(reasons)
        return left_out("weights", self._told) if self._told not in ("", told) else []


def shown(weight: Tensor, side: int = _MAX_SIDE, layer: nn.Module | None = None) -> tuple[Sheet, Tensor]:
    """How a weight is drawn, and what of it, a copy.

    A vector is [1, n], a matrix [r, c], planes are [n, r, c] and kernels [out, in, h, w]. A single plane counts as a matrix.
    With more axes than four, all between the first and the last two count as ``in``. The kernels of a transposed convolution
    are turned, so that the outputs come first as in others.

    Args:
        weight: at least one axis.
        side: rows and columns of a matrix, at most.
        layer: whose weight it is.
    """
    if weight.ndim == 1:
        return Vector(len(weight)), weight[None, :_MAX_VECTOR].clone()
    what, planes, groups = "inputs", "outputs", 1
    if isinstance(layer, _ConvNd) and weight.ndim == len(layer.kernel_size) + 2:
        groups = layer.groups
        if layer.transposed:
            weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    if weight.ndim > 4:
        what = f"slices ({' x '.join(map(str, weight.shape[2:-2]))} of an input)"
        weight = weight.flatten(1, -3)
    if groups > 1:
        what += f" each, of {layer.in_channels}" + " inputs" * (what != "inputs")
    while weight.ndim > 2 and (len(weight) == 1 or weight.ndim == 4 and weight.shape[1] == 1):
        planes = what if len(weight) == 1 else "outputs"
        weight = weight.squeeze(0 if len(weight) == 1 else 1)
    if weight.ndim == 2:
        steps = -(-weight.shape[0] // side), -(-weight.shape[1] // side)
        return Table(tuple(weight.shape), "rows", "columns", steps), weight[:: steps[0], :: steps[1]].clone()
    kept = weight[(slice(_MAX_KERNELS),) * weight.ndim].clone()
    if weight.ndim == 3:
        return Planes(tuple(weight.shape), len(kept), what=planes), kept
    return Kernels(tuple(weight.shape), tuple(kept.shape[:2]), what), kept


def _layers_of(model: nn.Module) -> dict[Tensor, nn.Module]:
    """Parameter -> the layer that it is of; what a parametrization has is of the layer that is parametrized."""
    layers: dict[Tensor, nn.Module] = {}
    for module in module_names(model):
        held = [*module._parameters.values()]
        if isinstance(parametrized := module._modules.get("parametrizations"), nn.ModuleDict):
            held += parametrized.parameters()
        for parameter in held:
            layers.setdefault(parameter, module)
    return layers


def _drawable(parameter: Tensor) -> Tensor | None:
    local = None if is_sharded(parameter) else measurable(parameter)
    return local if local is not None and local.ndim and local.numel() else None
