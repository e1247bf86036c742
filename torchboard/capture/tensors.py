"""The tensors in what a module returns, and what of a tensor there is to measure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from torchboard.graph.tensors import is_sharded, nested_tensors
from torchboard.sketch.host_compiled import is_dense

PLAIN = (Tensor, nn.Parameter)
"""Types of tensors that are no more than they seem."""
_NO_NUMBERS = {
    kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype) and name.startswith(("bits", "float4"))
}
"""Element types that are bits, or several numbers in one."""


def tensors_in(output: Any) -> Iterable[tuple[str, Tensor]]:
    """``(suffix, tensor)`` of every tensor in a layer's output: ``.0``, ``.logits``, ``.past.1``; a lone one has none.

    As layers are nested with ``/`` in tags, a suffix never collides with a layer's name.
    """
    if type(output) is Tensor:
        return (("", output),)
    return (("".join(f".{key}" for key in path), tensor) for path, tensor in nested_tensors(output))


def observable(tensor: Tensor) -> Tensor | None:
    """``measurable``, but for an ordinary tensor in the host's memory itself, which may require a gradient: for sketches."""
    ordinary = (
        type(tensor) in PLAIN and is_dense(tensor) and not tensor.is_complex() and tensor.dtype not in _NO_NUMBERS
    )
    return tensor if ordinary else measurable(tensor)


def measurable(tensor: Tensor) -> Tensor | None:
    """The plain, dense, real tensor behind ``tensor``, detached; None where there is nothing to measure.

    A ``DTensor`` gives its local shard, a sparse tensor its values, those of one place added up (for which CUDA waits), a
    nested one those of its parts, and a tensor inside a function transform the one that is transformed: of ``vmap`` that is
    the whole batch, so within ``modes.unseen``. Meta and fake tensors, complex ones, bits, nested ones with gaps, a ``DTensor``
    whose ranks hold the terms of a sum, and wrappers of any other class, have nothing that could be measured here. What a class
    does in ``__torch_function__`` is not asked.
    """
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    if type(tensor) in PLAIN:
        tensor = tensor.detach() if tensor.requires_grad else tensor
    elif (tensor := _unwrapped(tensor)) is None:
        return None
    if tensor.is_meta or tensor.is_complex() or tensor.dtype in _NO_NUMBERS:
        return None
    if tensor.is_nested:
        return tensor.values() if tensor.is_contiguous() else None
    if tensor.is_quantized:
        return tensor.dequantize()
    if tensor.layout is torch.sparse_coo:
        return tensor.coalesce()._values()
    return tensor if tensor.layout is torch.strided else None


def described(tensor: Tensor) -> str:
    """What kind of tensor it is: the name of its class, or its element type and layout."""
    return type(tensor).__name__ if type(tensor) not in PLAIN else f"{tensor.dtype}, {tensor.layout}"


def _unwrapped(tensor: Tensor) -> Tensor | None:
    """The plain tensor that one of another class is, or wraps; None where only the class knows of its numbers."""
    with torch._C.DisableTorchFunctionSubclass():
        tensor = tensor.detach()
        if hasattr(tensor, "placements") and any(placement.is_partial() for placement in tensor.placements):
            return None
        if is_sharded(tensor):
            tensor = tensor.to_local()
        if hasattr(tensor, "wait") and hasattr(tensor, "elem"):  # a collective's result that has not been waited for
            tensor = tensor.wait()
        if tensor.layout is torch.jagged:
            tensor = tensor.values() if tensor.lengths() is None else None
        return tensor if type(tensor) in PLAIN else None
