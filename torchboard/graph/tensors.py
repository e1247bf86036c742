"""The tensors inside arguments and results, and what is worth writing down about them and the calls they are in."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from torchboard.graph.nodes import TensorSpec

_MAX_DEPTH = 8
_MAX_ITEMS = 8
_MAX_TEXT = 80
_PLAIN = (bool, int, float, str, torch.dtype)
_DULL = frozenset({"memory_format", "layout", "device", "pin_memory", "non_blocking"})
_ARITHMETIC = frozenset(
    {"add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift"}
)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors among an operator's arguments or results, in order; lists, tuples and dicts are looked into."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    return []


def nested_tensors(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], torch.Tensor]]:
    """``(path, tensor)`` of every tensor in a module's argument or result; a lone tensor has the empty path.

    Mappings, sequences, named tuples and dataclasses are looked into; their keys, indices and fields extend the path.
    """
    if isinstance(value, torch.Tensor):
        yield path, value
    elif len(path) < _MAX_DEPTH:
        for key, item in _items(value):
            yield from nested_tensors(item, (*path, key))


def named_tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """``(name, tensor)`` of every tensor in a module's argument or result: ``output``, or ``output_0``, ``output_logits``…"""
    for path, tensor in nested_tensors(value):
        yield "_".join(map(str, (name, *path) if name else path)), tensor


def named_arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """``(name, tensor)`` of every tensor in a call of ``module``, named as its ``forward`` names its parameters."""
    try:
        arguments = dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        arguments = {"input": args if len(args) != 1 else args[0], **kwargs}
    return named_tensors(arguments, "")


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Shape, element type and device, without looking at the values; -1 for a size that is a symbol."""
    try:
        shape = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
    except Exception:  # jagged nested tensors and sizes that are not known yet have no shape in numbers
        shape = None
    return TensorSpec(shape, str(tensor.dtype).removeprefix("torch."), str(tensor.device))


def function_name(function: Callable[..., Any]) -> str:
    """The name a user knows a torch function by: ``add`` for ``__radd__``, ``add_`` for ``+=``, ``T`` for ``x.T``."""
    name = getattr(function, "__name__", None) or type(function).__name__
    if name == "__get__":
        return getattr(getattr(function, "__self__", None), "__name__", "get")
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        if name[1:] in _ARITHMETIC and name[0] in "ir":
            return name[1:] + ("_" if name[0] == "i" else "")
    return name.lstrip("_") or name


def operator_name(operator: Any) -> str:
    """``aten::convolution`` of the overload ``aten.convolution.default``; the plain name of a higher-order operator."""
    schema = getattr(operator, "_schema", None)
    return schema.name if schema is not None else getattr(operator, "__name__", type(operator).__name__)


def plain_arguments(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """``(name, text)`` of the numbers, flags, strings and short lists an operator was called with."""
    return _plain((argument.name, value) for argument, value, _ in _by_schema(operator, args, kwargs))


def call_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[str, str], ...]:
    """The same of a function that is written in Python, as the user called it; nothing for one that is not."""
    if not inspect.isfunction(function):
        return ()
    try:
        called = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return ()
    return _plain(called.arguments.items())


def _plain(named: Iterable[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, _clip(str(value))) for name, value in named if name not in _DULL and _is_plain(value))


def is_view(operator: Any) -> bool:
    """Whether the operator's schema says that it returns views of its first argument and writes nothing."""
    schema = getattr(operator, "_schema", None)
    aliases = [result.alias_info for result in schema.returns] if schema is not None else []
    return any(alias is not None and not alias.is_write for alias in aliases)


def written_arguments(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that the operator's schema says it writes into."""
    return [tensor for _, value, writes in _by_schema(operator, args, kwargs) if writes for tensor in tensors_in(value)]


def _by_schema(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any, bool]]:
    """``(schema argument, value, whether it is written)`` of the arguments given."""
    schema = getattr(operator, "_schema", None)
    for position, argument in enumerate(schema.arguments if schema is not None else ()):
        if position < len(args) and not argument.kwarg_only:
            value = args[position]
        elif argument.name in kwargs:
            value = kwargs[argument.name]
        else:
            continue
        yield argument, value, argument.alias_info is not None and argument.alias_info.is_write


def _items(value: Any) -> list[tuple[Any, Any]]:
    """Keys and values of a container; nothing for anything else."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return list(zip(getattr(value, "_fields", range(len(value))), value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    return []


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= _MAX_ITEMS and all(isinstance(item, _PLAIN) for item in value)
    return isinstance(value, _PLAIN)


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
