"""Which layers of a model are captured, and under which tag."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import nn

from torchboard.capture.models import Models
from torchboard.capture.options import Capture, Selector, selectors
from torchboard.errors import InvalidValueError
from torchboard.graph.module_names import module_names

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Modules whose output is their last child's, or that have none."""
_SHOWN = 5
"""Names that an error message offers."""


def layers(model: nn.Module, options: Capture) -> list[tuple[str, nn.Module]]:
    """``(canonical name, module)`` of every layer to capture, in the model's order.

    All modules count but containers, which only repeat their last child's output, and TorchScript modules, which take no
    hooks. The root is named after its class.
    """
    include, exclude = selectors(options.include), selectors(options.exclude)
    found = []
    for name, module in _candidates(model):
        if include and not any(_matches(selector, name, module) for selector in include):
            continue
        if not any(_matches(selector, name, module) for selector in exclude):
            found.append((name, module))
    return found[: options.max_layers]


def check_include(model: nn.Module, options: Capture) -> None:
    """Each selector of ``include`` finds a layer.

    Raises:
        InvalidValueError: one finds none.
    """
    candidates = list(_candidates(model))
    for selector in selectors(options.include):
        if any(_matches(selector, name, module) for name, module in candidates):
            continue
        if isinstance(selector, str):
            near = _nearest(selector, [name for name, _ in candidates])
        else:
            near = ", ".join(sorted({type(module).__name__ for _, module in candidates})[:_SHOWN])
        raise InvalidValueError(
            f"include={selector!r}",
            f"it matches no layer of {type(model).__name__}",
            f"give one that does; there are {near}" if near else "leave it out: the model has no layers",
        )


def _candidates(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    for module, name in module_names(model).items():
        is_container = isinstance(module, _CONTAINERS) and module is not model
        if not is_container and not isinstance(module, (torch.jit.ScriptModule, Models)):
            yield name or type(module).__name__, module


def _nearest(pattern: str, names: list[str]) -> str:
    plain = pattern.strip("*.")
    near = get_close_matches(plain, names, _SHOWN, 0.4) or [name for name in names if plain in name] or names
    return ", ".join(near[:_SHOWN])


def tag(kind: str, name: str) -> str:
    """``activations/layer1/0/conv1`` for ``activations`` and ``layer1.0.conv1``."""
    return f"{kind}/{name.replace('.', '/')}"


def _matches(selector: Selector, name: str, module: nn.Module) -> bool:
    if isinstance(selector, str):
        return fnmatchcase(name, selector)
    if isinstance(selector, type):
        return isinstance(module, selector)
    return bool(selector(name, module))
