"""Floating point operations of one operator call, by the formulas of ``torch.utils.flop_counter``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from torchboard.graph.modes import OperatorCall


def flops_of(call: OperatorCall) -> int:
    """Two for a multiplication and an addition in products of matrices, convolutions and attention; 0 for all else.

    0 too where the formula knows no answer: for sizes that are symbols, or tensors without a shape.
    """
    formula = _formula_of(call.operator)
    if formula is None or any(map(_is_symbolic, call.given)):
        return 0
    try:
        flops = formula(*call.args, **call.kwargs, out_val=call.result)
    except Exception:  # a formula is torch's or a library's own, and this is only a number beside a node
        return 0
    return flops if isinstance(flops, int) else 0


def _is_symbolic(tensor: torch.Tensor) -> bool:
    """Whether a size of it is a symbol; a formula that compares it would fix its value for the user."""
    return not all(isinstance(size, int) for size in tensor.shape)


def _formula_of(operator: Any) -> Callable[..., Any] | None:
    formula = _formulas().get(getattr(operator, "_overloadpacket", operator))
    return None if formula is None else _unwrapped(formula)


@functools.cache
def _formulas() -> dict[Any, Any]:
    """Operator -> formula. Importing it imports Triton where there is one, so it waits for the first operator."""
    from torch.utils.flop_counter import flop_registry

    return flop_registry


@functools.cache
def _unwrapped(formula: Callable[..., Any]) -> Callable[..., Any]:
    """A formula of shapes without the wrapper that torch puts around it."""
    of_shapes = getattr(formula, "__wrapped__", None)
    if of_shapes is None or "out_shape" not in inspect.signature(of_shapes).parameters:
        return formula
    return functools.partial(_on_shapes, of_shapes)


def _on_shapes(formula: Callable[..., Any], *args: Any, out_val: Any, **kwargs: Any) -> Any:
    """What torch's wrapper around a formula does, for arguments and results that are tensors or hold none: 20 us less."""
    named = {name: _shape(value) for name, value in kwargs.items()}
    result = tuple(map(_shape, out_val)) if isinstance(out_val, tuple) else _shape(out_val)
    return formula(*map(_shape, args), out_shape=result, **named)


def _shape(value: Any) -> Any:
    return value.shape if isinstance(value, torch.Tensor) else value
