"""What a layer returns, made again with other tensors in the same places, in code that is being compiled.

No constructor of the user's runs for it, as it has done its part: an object is made bare, and is given what the first one
holds, fields or not. What cannot be made so stays as it is.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from dataclasses import fields, is_dataclass, replace
from typing import Any

_EXACTLY = (tuple, list, dict, OrderedDict)
_HELD_BY_ALL = {"__dict__", "__weakref__"}


def items_of(value: Any) -> list[tuple[Any, Any]]:
    """Keys and values of a container, as ``tensors_in`` names them; nothing for anything else."""
    if isinstance(value, (tuple, list)):
        return list(zip(getattr(value, "_fields", range(len(value))), value))
    if isinstance(value, dict):
        return list(value.items())
    if is_dataclass(type(value)):
        return [(field.name, getattr(value, field.name)) for field in fields(value) if hasattr(value, field.name)]
    return []


def can_change(value: Any) -> bool:
    """Whether ``changed`` gives a container that differs in its items alone."""
    if not can_copy(type(value)):
        return False
    if not isinstance(value, dict) or not is_dataclass(type(value)):
        return True
    names = [field.name for field in fields(value)]
    return all([name in names for name in [*value.keys(), *value.__dict__]])


def changed(value: Any, items: list[tuple[Any, Any]]) -> Any:
    """The container with these items instead of its own."""
    kind, only = type(value), [item for _, item in items]
    if kind is tuple or kind is list or kind.__module__ == "torch.return_types":
        return kind(only)
    if kind is dict:
        return dict(items)
    if kind is OrderedDict:
        return OrderedDict(items)
    if isinstance(value, dict):
        return replace(value, **dict(items))
    new = tuple.__new__(kind, only) if isinstance(value, tuple) else object.__new__(kind)
    if hasattr(value, "__dict__"):
        new.__dict__.update(value.__dict__)
    if not isinstance(value, tuple):
        for name, item in items:
            object.__setattr__(new, name, item)
    return new


def can_copy(kind: type) -> bool:
    """Whether a container of this class can be made again. The compiler is to call this, not to trace it."""
    if kind in _EXACTLY or kind.__module__ == "torch.return_types":
        return True
    if issubclass(kind, tuple):
        return _is_made_bare(kind, tuple) and not _slots(kind)
    if not is_dataclass(kind) or issubclass(kind, list):
        return False
    if issubclass(kind, dict):
        return _is_output_of_a_library(kind)
    names = {field.name for field in fields(kind)}
    held = [inspect.getattr_static(kind, name, None) for name in names]
    computed = [value for value in held if inspect.isdatadescriptor(value) and not inspect.ismemberdescriptor(value)]
    return _is_made_bare(kind, object) and _slots(kind) <= names and not computed


def _is_made_bare(kind: type, base: type) -> bool:
    """Whether Python makes an empty instance of a class without any code of that class."""
    try:
        base.__new__(kind)
    except TypeError:
        return False
    return True


def _slots(kind: type) -> set[str]:
    """What instances hold outside of their ``__dict__``."""
    slots: set[str] = set()
    for base in kind.__mro__:
        own = vars(base).get("__slots__", ())
        slots.update((own,) if isinstance(own, str) else own)
    return slots - _HELD_BY_ALL


def _is_output_of_a_library(kind: type) -> bool:
    """Whether a dictionary with fields is as ``transformers`` has them, whose constructor may run again.

    What it does beside setting the fields is to make the items of them, in a base that is no dataclass.
    """
    owners = [base for base in kind.__mro__ if "__post_init__" in vars(base)]
    is_theirs = all(issubclass(base, dict) and not is_dataclass(base) for base in owners)
    return is_theirs and all(field.init for field in fields(kind))
