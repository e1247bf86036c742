"""What a layer makes of many examples: one row of numbers each, from passes that leave no trace in the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchboard.arrays import to_array
from torchboard.capture.models import Models
from torchboard.capture.select import nearest_names
from torchboard.errors import InvalidValueError
from torchboard.graph.module_names import class_name, module_names
from torchboard.graph.quiet_pass import quiet_pass


def named_layer(model: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    """The layer of a dotted name, and the model that has to be called for it: of several the one that it is part of.

    Raises:
        InvalidValueError: there is no such layer.
    """
    layers = {known or class_name(module): module for module, known in module_names(model).items()}
    if name not in layers or isinstance(layers[name], Models):
        raise InvalidValueError(
            f"layer {name!r:.100}",
            f"{class_name(model)} has none of that name",
            f"give one of its layers: {nearest_names(name, layers)}",
        )
    return layers[name], model._modules[name.partition(".")[0]] if isinstance(model, Models) else model


def layer_outputs(model: nn.Module, layer: nn.Module, inputs: Any, batch_size: int) -> np.ndarray:
    """What the layer puts out in its first call for each example, flat: float32[N, D].

    Args:
        model: is run in evaluation mode, without gradients, and left as it was.
        layer: one of its modules.
        inputs: a tensor [N, …], a tuple of such, or a mapping of keyword -> tensor, on any device.
        batch_size: examples in a pass.

    Raises:
        InvalidValueError: the inputs do not fit together, or the layer gives no row an example.
        Exception: what the model raises.
    """
    args, kwargs, count = _checked_inputs(inputs, batch_size)
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    found: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, output: _keep(found, output))
    rows = []
    try:
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            quiet_pass(
                model,
                tuple(tensor[part].to(device) for tensor in args),
                {name: tensor[part].to(device) for name, tensor in kwargs.items()},
            )
            rows.append(_rows(layer, found, min(batch_size, count - start)))
            found.clear()
    finally:
        handle.remove()
    return _joined(rows)


def _keep(found: list[Tensor], output: Any) -> None:
    """Takes the first tensor of the first call."""
    if not found:
        found += [leaf.detach() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)][:1]


def _checked_inputs(inputs: Any, batch_size: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor], int]:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidValueError(f"batch_size={batch_size!r}", "it counts the examples of a pass", "give 256, say")
    kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
    args = () if kwargs else tuple(inputs) if isinstance(inputs, tuple) else (inputs,)
    tensors = [*args, *kwargs.values()]
    if not tensors or not all(isinstance(tensor, Tensor) and tensor.ndim for tensor in tensors):
        raise InvalidValueError(
            f"inputs of type {type(inputs).__name__}",
            "they are tensors with a row an example",
            "give a tensor [N, …], a tuple of such, or a dict of keyword -> tensor",
        )
    counts = {len(tensor) for tensor in tensors}
    if len(counts) > 1 or counts == {0}:
        raise InvalidValueError(
            f"inputs of {sorted(counts)} rows",
            "each has a row an example, and there is one at least",
            "give as many of each",
        )
    return args, kwargs, counts.pop()


def _rows(layer: nn.Module, found: list[Tensor], count: int) -> np.ndarray:
    if not found or not found[0].ndim or len(found[0]) != count:
        given = f"an output of shape {list(found[0].shape)}" if found else "no output"
        raise InvalidValueError(
            f"{given} of {class_name(layer)} for {count} examples",
            "a point of each example is needed",
            "give a layer that runs in a pass and has a row an example",
        )
    array = to_array(found[0])
    return array.reshape(count, -1)


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    widths = {part.shape[1] for part in rows}
    if len(widths) > 1:
        raise InvalidValueError(
            f"outputs of {sorted(widths)} numbers an example",
            "all points have as many",
            "give inputs of one length, or another layer",
        )
    return np.concatenate(rows)
