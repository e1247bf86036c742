"""The tensors inside arguments and results, and what is worth writing down about them and the calls they are in."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from torchboard.graph.job import in_a_job
from torchboard.graph.nodes import TensorSpec

_MAX_DEPTH = 8
_MAX_ITEMS = 8
_MAX_TEXT = 80
_PLAIN = (bool, int, float, str, torch.dtype)
_DULL = frozenset({"memory_format", "layout", "device", "pin_memory", "non_blocking"})
_ARITHMETIC = frozenset(
    {"add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift"}
)


_TENSORS = (torch.Tensor, nn.Parameter)
_NO_TENSORS = frozenset(
    {int, float, bool, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.Size}
)
"""Types of what an operator is given beside tensors, so that most of it is passed over by one look."""


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of torch's own kind, whose numbers lie in one memory."""
    return type(tensor) in _TENSORS and tensor.layout is torch.strided and not tensor.is_nested


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether ranks share a tensor, of which each has a part or a copy: a ``DTensor``, or one of FSDP1's."""
    return hasattr(tensor, "to_local") or is_flat_shard(tensor)


def is_flat_shard(parameter: torch.Tensor) -> bool:
    """Whether ``FullyShardedDataParallel`` (FSDP1) has a parameter: what of it is here does not tell which part that is."""
    return in_a_job() and hasattr(parameter, "_fsdp_flattened")


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors among an operator's arguments or results, in order; lists, tuples and dicts are looked into."""
    if type(value) is torch.Tensor:
        return [value]
    found: list[torch.Tensor] = []
    _collect((value,), found)
    return found


def given_tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The same of a call."""
    found: list[torch.Tensor] = []
    _collect(args, found)
    if kwargs:
        _collect(kwargs.values(), found)
    return found


def _collect(values: Iterable[Any], found: list[torch.Tensor]) -> None:
    for value in values:
        if type(value) in _NO_TENSORS:
            continue
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            _collect(value, found)
        elif isinstance(value, dict):
            _collect(value.values(), found)


def nested_tensors(
    value: Any, path: tuple[Any, ...] = (), within: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], torch.Tensor]]:
    """``(path, tensor)`` of every tensor in a module's argument or result; a lone tensor has the empty path.

    Mappings, sequences, named tuples and dataclasses are looked into, but for one that is ``within`` itself (by ``id``); their
    keys, indices and fields extend the path.
    """
    if isinstance(value, torch.Tensor):
        yield path, value
    elif len(path) < _MAX_DEPTH and id(value) not in within:
        for key, item in _items(value):
            yield from nested_tensors(item, (*path, key), (*within, id(value)))


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
        return _spec(tensor.shape, tensor.dtype, tensor.device)
    except Exception:  # symbols cannot be hashed, and jagged nested tensors have no shape in numbers
        return _spec(_shape_with_symbols(tensor), tensor.dtype, tensor.device)


@functools.lru_cache(maxsize=4096)
def _spec(shape: tuple[int, ...] | None, dtype: torch.dtype, device: torch.device) -> TensorSpec:
    """Tensors of a model have few shapes, and each is told once."""
    sizes = None if shape is None else tuple(size if isinstance(size, int) else -1 for size in shape)
    return TensorSpec(sizes, str(dtype).removeprefix("torch."), str(device))


def _shape_with_symbols(tensor: torch.Tensor) -> tuple[int, ...] | None:
    try:
        return tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
    except Exception:
        return None


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


class _Argument(NamedTuple):
    """An argument of an operator, as its schema has it."""

    name: str
    kwarg_only: bool
    written: bool


class Schema(NamedTuple):
    """What an operator's schema says; none of it depends on a call.

    Attributes:
        name: such as ``aten::convolution`` of the overload ``aten.convolution.default``; the plain name of a higher-order
            operator, which has no schema.
        arguments: in order.
        writes: whether it writes into one of them.
        gives_views: whether it returns views of its first argument and writes nothing.
    """

    name: str
    arguments: tuple[_Argument, ...]
    writes: bool
    gives_views: bool


@functools.cache
def schema_of(operator: Any) -> Schema:
    """Read once an operator, as every look at a schema makes its arguments anew."""
    schema = getattr(operator, "_schema", None)
    if schema is None:
        return Schema(getattr(operator, "__name__", type(operator).__name__), (), False, False)
    arguments = tuple(
        _Argument(argument.name, argument.kwarg_only, argument.alias_info is not None and argument.alias_info.is_write)
        for argument in schema.arguments
    )
    aliases = [result.alias_info for result in schema.returns]
    gives_views = any(alias is not None and not alias.is_write for alias in aliases)
    return Schema(schema.name, arguments, any(argument.written for argument in arguments), gives_views)


def plain_arguments(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """``(name, text)`` of the numbers, flags, strings and short lists an operator was called with."""
    if not kwargs and all([isinstance(value, torch.Tensor) for value in args]):
        return ()
    return _plain((argument.name, value) for argument, value in _by_schema(operator, args, kwargs))


def call_arguments(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[str, str], ...]:
    """The same of a function that is written in Python, as the user called it; nothing for one that is not."""
    names = _positional_names(function)
    if names is None or len(args) > len(names):
        return ()
    return _plain((*zip(names, args), *kwargs.items()))


@functools.lru_cache(maxsize=1024)
def _positional_names(function: Callable[..., Any]) -> tuple[str, ...] | None:
    """The names of the arguments that a function takes by position; None of one that is not written in Python."""
    if not inspect.isfunction(function):
        return None
    return function.__code__.co_varnames[: function.__code__.co_argcount]


def _plain(named: Iterable[tuple[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, _clip(str(value))) for name, value in named if name not in _DULL and _is_plain(value))


def written_arguments(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that the operator's schema says it writes into."""
    if not schema_of(operator).writes:
        return []
    return tensors_in([value for argument, value in _by_schema(operator, args, kwargs) if argument.written])


def _by_schema(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[_Argument, Any]]:
    """The arguments given, each with what the schema says of it."""
    for position, argument in enumerate(schema_of(operator).arguments):
        if position < len(args) and not argument.kwarg_only:
            yield argument, args[position]
        elif argument.name in kwargs:
            yield argument, kwargs[argument.name]


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
    if isinstance(value, _PLAIN):
        return True
    return (
        isinstance(value, (list, tuple))
        and len(value) <= _MAX_ITEMS
        and all([isinstance(item, _PLAIN) for item in value])
    )


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
