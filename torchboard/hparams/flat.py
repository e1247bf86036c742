"""Hyperparameters as people keep them, nested and of many types, as the flat table of booleans, numbers and texts that
TensorBoard shows.

What has no number stays a text rather than nothing: a null would be legal on the wire, but TensorBoard's server fails to
sort or filter a column that holds one.
"""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Iterator, Mapping
from typing import Any

from torchboard.errors import InvalidValueError
from torchboard.hparams.domains import Domain, HParam

_DEEPEST = 50


def flattened(given: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Domain | None, object]]:
    """``(name, domain, value)`` of every hyperparameter; of one inside another the name is ``outer.inner``.

    Args:
        given: a mapping of ``HParam`` or name -> value, or a dataclass; a value may be either, again. None becomes the text
            ``None``, a path its text, a member of an enum its value where that is a text, else its name.
        prefix: what the names begin with.
        depth: how far inside it is.

    Raises:
        InvalidValueError: a key is no name, or they lie inside each other without an end.
    """
    if depth > _DEEPEST:
        raise InvalidValueError(f"hyperparameter {prefix[:40]!r}…", "it holds itself", "give each value once")
    for key, value in _items(given):
        name = key.name if isinstance(key, HParam) else key
        if not isinstance(name, str) or not name:
            raise InvalidValueError(
                f"hyperparameter name {name!r}", "a name is a text with at least one letter", "use one such as 'lr'"
            )
        if _is_nested(value):
            yield from flattened(value, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}", key.domain if isinstance(key, HParam) else None, _simple(value)


def _is_nested(value: object) -> bool:
    return isinstance(value, Mapping) or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _items(given: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(given, Mapping):
        return iter(given.items())
    if _is_nested(given):
        return ((field.name, getattr(given, field.name)) for field in dataclasses.fields(given))
    raise InvalidValueError(
        f"hyperparameters of type {type(given).__name__}", "they are names and values", "give a dict or a dataclass"
    )


def _simple(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, str) else value.name
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    return "None" if value is None else value
