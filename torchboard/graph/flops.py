"""Floating point operations of one operator call, by the formulas of ``torch.utils.flop_counter``."""

from __future__ import annotations

import functools
from typing import Any

import torch

from torchboard.graph.modes import OperatorCall
from torchboard.graph.tensors import tensors_in


def flops_of(call: OperatorCall) -> int:
    """Two for a multiplication and an addition in products of matrices, convolutions and attention; 0 for all else.

    0 too where the formula knows no answer: for sizes that are symbols, or tensors without a shape.
    """
    formula = _formulas().get(getattr(call.operator, "_overloadpacket", call.operator))
    if formula is None or any(map(_is_symbolic, tensors_in((call.args, call.kwargs)))):
        return 0
    try:
        flops = formula(*call.args, **call.kwargs, out_val=call.result)
    except Exception:  # a formula is torch's or a library's own, and this is only a number beside a node
        return 0
    return flops if isinstance(flops, int) else 0


def _is_symbolic(tensor: torch.Tensor) -> bool:
    """Whether a size of it is a symbol; a formula that compares it would fix its value for the user."""
    return not all(isinstance(size, int) for size in tensor.shape)


@functools.cache
def _formulas() -> dict[Any, Any]:
    """Operator -> formula. Importing it imports Triton where there is one, so it waits for the first operator."""
    from torch.utils.flop_counter import flop_registry

    return flop_registry
