"""Where attention looks, in a pass of our own: whatever a model's attention is called, and though it returns no weights.

A dispatch mode sees the operators of the pass. Attention written out ends in a softmax over the last axis, and its result
is taken; the fused kernels never make the weights, so for them softmax(QK) is computed once more, for a sample of the
queries. Nothing of the pass changes. At most 16 heads and 128 x 128 numbers of each are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from torchboard.drawing.sheets import Heads

_MAX_HEADS = 16
_MAX_SIDE = 128
_SOFTMAX = ("aten::_softmax", "aten::_safe_softmax", "aten::softmax")
_FUSED = "scaled_dot_product"

Keep = Callable[[Heads, Tensor, bool], None]
"""Takes a drawing, its numbers, and whether they can be nothing but attention."""


class AttentionMode(TorchDispatchMode):
    """Hands the weights of every attention that runs inside it to ``keep``.

    Attributes:
        error: the first fault of ours, after which it stays silent; the pass goes on.
    """

    def __init__(self, keep: Keep) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._keep = keep

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: it would import the compiler, which takes seconds; the pass runs eagerly."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().split(".")[0] if isinstance(func, torch._ops.OpOverload) else ""
        if self.error is None and (name in _SOFTMAX or _FUSED in name):
            try:
                self._see(name, _named(func, args, kwargs or {}), result)
            except Exception as error:
                self.error = error
        return result

    def _see(self, name: str, given: Mapping[str, Any], result: Any) -> None:
        if _FUSED in name:
            if not given["query"].is_nested and given["query"].ndim == 4:
                self._keep(*_recomputed(given), True)
        elif result.ndim > 2 and given["dim"] in (-1, result.ndim - 1):
            self._keep(*_taken(result), result.ndim > 3)


class WholeFunctions(TorchFunctionMode):
    """Changes nothing; while it is on, ``nn.MultiheadAttention`` and encoder layers take the way that shows attention."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def _named(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """An operator's arguments by name; ``None`` for those that are left out."""
    names = [argument.name for argument in func._schema.arguments]
    return {**dict.fromkeys(names), **dict(zip(names, args)), **kwargs}


def _taken(weights: Tensor) -> tuple[Heads, Tensor]:
    """Weights [(batch or windows,) heads, queries, keys]."""
    is_window = False
    while weights.ndim > 3:
        is_window = is_window or len(weights) > 1
        weights = weights[0]
    step, heads = _steps(weights.shape), min(len(weights), _MAX_HEADS)
    kept = _summed(weights[:heads, :: step[0]].float(), step[1])
    return Heads(tuple(weights.shape), step, heads, is_window), kept.clone()


def _recomputed(given: Mapping[str, Any]) -> tuple[Heads, Tensor]:
    """The weights that a fused kernel was about to use, from its arguments."""
    query, key = given["query"].detach(), given["key"].detach()
    shape = query.shape[1], query.shape[2], key.shape[2]
    step, heads = _steps(shape), min(shape[0], _MAX_HEADS)
    rows = torch.arange(0, shape[1], step[0], device=query.device)
    repeats = shape[0] // key.shape[1]
    keys = key[0].repeat_interleave(repeats, 0)[:heads] if repeats > 1 else key[0, :heads]
    scale = given.get("scale")
    scores = query[0, :heads, rows].float() @ keys.float().mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    mask = given.get("attn_mask")
    mask = given.get("attn_bias") if mask is None else mask
    if mask is not None:
        part = mask.detach().expand(len(query), *shape)[0, :heads, rows]
        scores = scores.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else scores + part
    if given.get("is_causal"):
        scores = scores.masked_fill(rows[:, None] < torch.arange(shape[2], device=query.device), -torch.inf)
    weights = scores.softmax(-1).nan_to_num()
    return Heads(shape, step, heads, len(query) > 1), _summed(weights, step[1])


def _steps(shape: tuple[int, ...]) -> tuple[int, int]:
    return -(-shape[1] // _MAX_SIDE), -(-shape[2] // _MAX_SIDE)


def _summed(weights: Tensor, step: int) -> Tensor:
    """Sums over so many keys each, so that a row still adds up to 1."""
    if step == 1:
        return weights
    padded = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % step))
    return padded.unflatten(-1, (-1, step)).sum(-1)
