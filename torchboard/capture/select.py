"""Which layers of a model are captured, and under which tag."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch
from torch import nn

from torchboard.capture.options import Capture, Selector, selectors
from torchboard.graph.module_names import module_names

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Modules whose output is their last child's, or that have none."""


def layers(model: nn.Module, options: Capture) -> list[tuple[str, nn.Module]]:
    """``(canonical name, module)`` of every layer to capture, in the model's order.

    All modules count but containers, which only repeat their last child's output, and TorchScript modules, which take no
    hooks. The root is named after its class.
    """
    include, exclude = selectors(options.include), selectors(options.exclude)
    found = []
    for module, name in module_names(model).items():
        is_container = isinstance(module, _CONTAINERS) and module is not model
        if is_container or isinstance(module, torch.jit.ScriptModule):
            continue
        name = name or type(module).__name__
        if include and not any(_matches(selector, name, module) for selector in include):
            continue
        if not any(_matches(selector, name, module) for selector in exclude):
            found.append((name, module))
    return found[: options.max_layers]


def tag(kind: str, name: str) -> str:
    """``activations/layer1/0/conv1`` for ``activations`` and ``layer1.0.conv1``."""
    return f"{kind}/{name.replace('.', '/')}"


def _matches(selector: Selector, name: str, module: nn.Module) -> bool:
    if isinstance(selector, str):
        return fnmatchcase(name, selector)
    if isinstance(selector, type):
        return isinstance(module, selector)
    return bool(selector(name, module))
