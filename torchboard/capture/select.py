"""Which layers of a model are captured, and under which tag."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TypeVar

import torch
from torch import nn

from torchboard.capture.models import Models
from torchboard.capture.options import Capture, Selector, selectors
from torchboard.errors import InvalidValueError
from torchboard.graph.module_names import class_name, module_names

_CONTAINER_FORWARDS = (nn.Sequential.forward, nn.Module.forward)
"""Of modules whose output is their last child's, or that have none; a container with a pass of its own has another."""
_Item = TypeVar("_Item")
_SHOWN = 5
"""Names that an error message offers."""


def layers(model: nn.Module, options: Capture) -> list[tuple[str, nn.Module]]:
    """``(canonical name, module)`` of every layer to capture, in the model's order.

    All modules count but containers, which only repeat their last child's output, and TorchScript modules, which take no
    hooks. The root is named after its class. Where there are more than ``max_layers``, ``nearest_root`` picks.
    """
    return nearest_root(chosen_layers(model, options), options.max_layers)


def chosen_layers(model: nn.Module, options: Capture) -> list[tuple[str, nn.Module]]:
    """The layers that the options name, however many they are."""
    include, exclude = selectors(options.include), selectors(options.exclude)
    return [(name, module) for name, module in _candidates(model) if _is_chosen(name, module, include, exclude)]


def scripted_layers(model: nn.Module, options: Capture) -> list[str]:
    """The names of the TorchScript modules that the options would name, without what is inside of them."""
    outermost: dict[str, nn.Module] = {}
    for module, name in module_names(model).items():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in outermost)
        if isinstance(module, torch.jit.ScriptModule) and not inside:
            outermost[name] = module
    named = [(name or class_name(module), module) for name, module in outermost.items()]
    include, exclude = selectors(options.include), selectors(options.exclude)
    return [name for name, module in named if _is_chosen(name, module, include, exclude)]


def _is_chosen(name: str, module: nn.Module, include: Sequence[Selector], exclude: Sequence[Selector]) -> bool:
    if include and not any(matches(selector, name, module) for selector in include):
        return False
    return not (exclude and any(matches(selector, name, module) for selector in exclude))


def nearest_root(found: list[tuple[str, nn.Module]], limit: int | None) -> list[tuple[str, nn.Module]]:
    """At most ``limit`` of the layers, level by level from the root; of the last level, evenly spread ones. Order is kept."""
    if limit is None or len(found) <= limit:
        return found
    by_level = sorted(range(len(found)), key=lambda place: _level(found, place))
    last = _level(found, by_level[limit]) if limit < len(found) else 0
    above = [place for place in by_level if _level(found, place) < last]
    level = [place for place in by_level if _level(found, place) == last]
    return [found[place] for place in sorted(above + spread(level, limit - len(above)))]


def _level(found: list[tuple[str, nn.Module]], place: int) -> int:
    """How many names lead to a layer; the root, which comes first and is named after its class, has level 0."""
    name, module = found[place]
    return 0 if name == type(module).__name__ and not place else 1 + name.count(".")


def spread(found: list[_Item], limit: int) -> list[_Item]:
    """At most ``limit`` of them, evenly spread, the first one among them."""
    count = len(found)
    return found if count <= limit else [found[place * count // limit] for place in range(limit)]


def check_selectors(model: nn.Module, options: Capture) -> None:
    """Each selector of ``include`` and of ``dead_units`` finds a layer.

    Raises:
        InvalidValueError: one finds none, or only some in TorchScript.
    """
    candidates = list(_candidates(model))
    for field in ("include", "dead_units"):
        for selector in selectors(getattr(options, field)):
            if not isinstance(selector, bool) and not any(matches(selector, *layer) for layer in candidates):
                raise _matches_nothing(field, selector, model, candidates)


def _matches_nothing(
    field: str, selector: Selector, model: nn.Module, candidates: list[tuple[str, nn.Module]]
) -> InvalidValueError:
    if scripted := scripted_layers(model, Capture(include=selector)):
        return InvalidValueError(
            f"{field}={selector!r}",
            f"of {type(model).__name__} it matches only what is in TorchScript, {', '.join(scripted[:_SHOWN])}, which "
            "takes no hooks",
            "leave it out, or give a model whose layers are not scripted or traced",
        )
    if isinstance(selector, str):
        near = _nearest(selector, [name for name, _ in candidates])
    else:
        near = ", ".join(sorted({type(module).__name__ for _, module in candidates})[:_SHOWN])
    return InvalidValueError(
        f"{field}={selector!r}",
        f"it matches no layer of {type(model).__name__}",
        f"give one that does; there are {near}" if near else "leave it out: the model has no layers",
    )


def _candidates(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    for module, name in module_names(model).items():
        if isinstance(module, (torch.jit.ScriptModule, Models)):
            continue
        if type(module).forward not in _CONTAINER_FORWARDS or module is model:
            yield name or class_name(module), module


def _nearest(pattern: str, names: list[str]) -> str:
    plain = pattern.strip("*.")
    return nearest_names(plain, names, [name for name in names if plain in name])


def nearest_names(name: object, known: Iterable[str], otherwise: Sequence[str] = ()) -> str:
    """The known names that a wrong one is most like, for its error; where it is like none, ``otherwise`` or the first."""
    known = list(known)
    near = get_close_matches(str(name), known, _SHOWN, 0.4) or otherwise or known
    return ", ".join(near[:_SHOWN])


def first_names(names: Sequence[str], most: int) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@lru_cache(maxsize=1 << 16)
def tag(kind: str, name: str) -> str:
    """``activations/layer1/0/conv1`` for ``activations`` and ``layer1.0.conv1``."""
    return f"{kind}/{tag_path(name)}"


@lru_cache(maxsize=128)
def tags(kind: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The tag of each name; those of the last names are kept."""
    return tuple(tag(kind, name) for name in names)


def tag_path(name: str) -> str:
    """The name of a layer or parameter as it stands in tags: no two have the same, for a slash of its own becomes ``%2F``."""
    return name.replace("/", "%2F").replace(".", "/")


def matches(selector: Selector, name: str, module: nn.Module) -> bool:
    """Whether a selector means this layer."""
    if isinstance(selector, str):
        return fnmatchcase(name, selector)
    if isinstance(selector, type):
        return isinstance(module, selector)
    return bool(selector(name, module))
