"""The tensors in what a module returns, and what of a tensor there is to measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_MAX_DEPTH = 5


def tensors_in(output: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """``(suffix, tensor)`` of every tensor in a nested output; a lone tensor has an empty suffix.

    Tuples, lists, named tuples, mappings and dataclasses are walked: ``.0``, ``.logits``, ``.past.1``. As layers are
    nested with ``/`` in tags, a suffix never collides with a layer's name.
    """
    if isinstance(output, Tensor):
        yield prefix, output
        return
    if depth == _MAX_DEPTH:
        return
    for name, item in _items(output):
        yield from tensors_in(item, f"{prefix}.{name}", depth + 1)


def measurable(tensor: Tensor) -> Tensor | None:
    """The plain, dense, real tensor behind ``tensor``, detached; None where there is nothing to measure.

    A ``DTensor`` gives its local shard, a sparse tensor its values. Meta and fake tensors, complex and nested ones, and
    tensors inside a functorch transform have nothing that could be measured here.
    """
    tensor = tensor.detach()
    if type(tensor) is not Tensor:
        tensor = _unwrap(tensor)
    if tensor.device.type == "meta" or tensor.is_complex() or tensor.is_nested:
        return None
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return None
    if tensor.is_quantized:
        return tensor.dequantize()
    if tensor.layout is torch.sparse_coo:
        return tensor._values()
    return tensor if tensor.layout is torch.strided else None


def _unwrap(tensor: Tensor) -> Tensor:
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    if hasattr(tensor, "wait") and hasattr(tensor, "elem"):  # a collective's result that has not been waited for
        tensor = tensor.wait()
    return torch.empty(0, device="meta") if hasattr(tensor, "fake_mode") else tensor


def _items(output: Any) -> Iterator[tuple[object, Any]]:
    if isinstance(output, Mapping):
        return iter(output.items())
    if isinstance(output, (list, tuple)):
        return iter(zip(getattr(output, "_fields", range(len(output))), output))
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return ((field.name, getattr(output, field.name, None)) for field in dataclasses.fields(output))
    return iter(())
