"""What of a layer's output is shown, and how: cut, sampled and averaged where it lies, so that little has to be copied.

| output | of | is drawn as |
| --- | --- | --- |
| ``[1, channels, height, width]`` | a 2-d convolution | a plane a channel |
| ``[1, channels, length]`` | a 1-d convolution | a row a channel |
| ``[1, channels, depth, height, width]`` | a 3-d convolution | a row of slices a channel |
| ``[1, tokens, features]``, ``[tokens, 1, features]`` | a block of a transformer, a recurrent layer | a row a token |
| the same, with a token a patch | a block of a vision transformer | a plane a feature |
| ``[1, height, width, features]`` | a block that works on channels last | a plane a feature |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchboard.capture.tensors import measurable, tensors_in
from torchboard.drawing.sheets import Planes, Sheet, Table, Volumes

_MAX_PLANES = 64
"""Channels or features shown as planes: the first ones."""
_MAX_VOLUMES, _MAX_SLICES = 12, 8
"""Channels and slices shown of volumes."""
_MAX_SIDE = 80
"""A plane with a longer side is averaged down to at most this many pixels."""
_MAX_TABLE = 512
"""Rows and columns shown of a table."""
_MAX_PREFIX = 16
"""Tokens before those of the patches: one for the class, registers."""

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks_of(model: nn.Module) -> set[nn.Module]:
    """The recurrent layers, and what a model repeats: entries of containers that have parts, with no convolution in them."""
    blocks = {module for module in model.modules() if isinstance(module, nn.RNNBase)}
    for container in model.modules():
        if isinstance(container, _CONTAINERS):
            blocks.update(entry for entry in container._modules.values() if entry is not None and _is_block(entry))
    return blocks


def view_of(module: nn.Module, output: Any, patches: tuple[int, int] | None) -> tuple[Sheet, Tensor] | None:
    """How the output of a pass with one example is drawn, and the numbers, a small float tensor; None where it is not.

    Args:
        module: whose output it is.
        output: the first tensor in it counts.
        patches: height and width of the patches that the tokens may stand for.
    """
    tensor = next((tensor for _, tensor in tensors_in(output)), None)
    local = measurable(tensor) if tensor is not None else None
    if local is None or not local.numel() or not local.is_floating_point():
        return None
    if isinstance(module, CONVOLUTIONS):
        spatial = len(module.kernel_size)
        example = local[0] if local.ndim == spatial + 2 else local
        return (_lines, _planes, _volumes)[spatial - 1](example) if example.ndim == spatial + 1 else None
    if local.ndim == 4:
        return _planes(local[0].permute(2, 0, 1), "features")
    if local.ndim == 2 and isinstance(module, nn.RNNBase):  # of a packed sequence
        return _tokens(local, patches)
    if local.ndim != 3:
        return None
    is_sequence_first = not module.batch_first if isinstance(module, nn.RNNBase) else local.shape[1] == 1
    return _tokens(local[:, 0] if is_sequence_first else local[0], patches)


def _is_block(module: nn.Module) -> bool:
    if not module._modules or isinstance(module, _CONTAINERS):
        return False
    return not any(isinstance(part, CONVOLUTIONS) for part in module.modules())


def _planes(example: Tensor, what: str = "channels") -> tuple[Sheet, Tensor]:
    pooled = -(-max(example.shape[1:]) // _MAX_SIDE)
    kept = _averaged(example[:_MAX_PLANES], pooled)
    return Planes(tuple(example.shape), len(kept), pooled, what), kept


def _volumes(example: Tensor) -> tuple[Sheet, Tensor]:
    depth = example.shape[1]
    if depth == 1:
        return _planes(example[:, 0])
    count = min(depth, _MAX_SLICES)
    slices = tuple((2 * place + 1) * depth // (2 * count) for place in range(count))
    pooled = -(-max(example.shape[2:]) // _MAX_SIDE)
    kept = torch.stack([example[:_MAX_VOLUMES, at] for at in slices], 1)
    return Volumes(tuple(example.shape), slices, len(kept), pooled), _averaged(kept, pooled)


def _lines(example: Tensor) -> tuple[Sheet, Tensor]:
    channels, length = example.shape
    step, pooled = -(-channels // _MAX_TABLE), -(-length // _MAX_TABLE)
    kept = example[::step].float()
    if pooled > 1:
        kept = functional.avg_pool1d(kept, pooled, ceil_mode=True)
    return Table((channels, length), "channels", "places", (step, 1), pooled), kept.clone()


def _tokens(example: Tensor, patches: tuple[int, int] | None) -> tuple[Sheet, Tensor] | None:
    tokens, features = example.shape
    if patches is not None:
        height, width = patches
        if 1 < height * width <= tokens <= height * width + _MAX_PREFIX:
            kept = example[tokens - height * width :].T
            return _planes(kept.reshape(features, height, width), "features")
    if tokens < 2:
        return None
    steps = -(-tokens // _MAX_TABLE), -(-features // _MAX_TABLE)
    return Table((tokens, features), "tokens", "features", steps), example[:: steps[0], :: steps[1]].float().clone()


def _averaged(planes: Tensor, pooled: int) -> Tensor:
    """Means over squares of so many elements a side; a copy in any case."""
    if pooled == 1:
        return planes.float().clone()
    return functional.avg_pool2d(planes.float(), pooled, ceil_mode=True)
