"""One name for every module and parameter of a model, whatever the model is wrapped in.

A name is the dotted path from the model's root through ``_modules``. Wrappers that only change how a module runs
(``DataParallel``, ``DistributedDataParallel``, ``torch.compile``, FSDP1, ``checkpoint_wrapper``) are transparent: they
are not listed and add nothing to a name, so the names of a model and of the same model wrapped are equal. A module or
parameter that sits in several places is listed once, under the first name met. Nothing runs and nothing is attached;
the cost is one walk over the modules.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import chain
from operator import attrgetter

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_Held = tuple[list[int], list[str], list[int]]
"""What modules hold: how many things each, under which keys, and the ``id`` of each thing."""
_WRAPPED_CHILD = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside all transparent wrappers around ``module``; ``module`` itself where there is none."""
    while (child := _wrapped_child(module)) is not None:
        module = child
    return module


def module_names(root: nn.Module) -> dict[nn.Module, str]:
    """Module -> dotted name of every module in ``root``, wrappers left out, parents before children.

    The root, or what it wraps, has the empty name.
    """
    names: dict[nn.Module, str] = {}
    waiting = [(root, "")]
    while waiting:
        module, name = waiting.pop()
        if len(module._modules) == 1:
            module = unwrapped(module)
        if module not in names:
            names[module] = name
            children = [(child, join(name, key)) for key, child in module._modules.items() if child is not None]
            waiting += reversed(children)
    return names


def parameter_names(root: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """``(dotted name, parameter)`` of every parameter in ``root``, in the order of its modules, each parameter once."""
    return [(name, module._parameters[key]) for name, module, key in _parameter_places(root)]


def _parameter_places(root: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Dotted name, module and key of every parameter in ``root``, each parameter once."""
    seen: set[int] = set()
    for module, name in module_names(root).items():
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield join(name, key), module, key


class KnownNames:
    """The names of one model, walked anew where a module has come, gone, or holds other children or parameters.

    One look at all modules tells, a tenth of a walk. Nothing is kept alive.

    Attributes:
        version: how often the names were found to be others.
    """

    def __init__(self, root: nn.Module) -> None:
        self.version = 0
        self._root = weakref.ref(root)
        self._modules: list[weakref.ref[nn.Module]] = []
        self._held: _Held | None = None
        self._places: list[tuple[str, weakref.ref[nn.Module], str]] = []

    def look(self) -> int:
        """Looks at the modules; gives the version."""
        modules = [reference() for reference in self._modules]
        if None in modules or self._held != _held_by(modules):
            self._walk()
        return self.version

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """``parameter_names`` of the model."""
        self.look()
        return [(name, reference()._parameters[key]) for name, reference, key in self._places]

    def _walk(self) -> None:
        self.version += 1
        root = self._root()
        modules = [] if root is None else [*root.modules()]  # wrappers too
        self._modules = [weakref.ref(module) for module in modules]
        self._held = _held_by(modules)
        places = () if root is None else _parameter_places(root)
        self._places = [(name, weakref.ref(module), key) for name, module, key in places]


def _held_by(modules: list[nn.Module]) -> _Held:
    held = [*map(_children, modules), *map(_weights, modules)]
    some = [things for things in held if things]
    keys, values = [things.keys() for things in some], [things.values() for things in some]
    return [*map(len, held)], [*chain.from_iterable(keys)], [*map(id, chain.from_iterable(values))]


_children, _weights = attrgetter("_modules"), attrgetter("_parameters")


def class_name(module: nn.Module) -> str:
    """The name of the class that the user wrote: ``fully_shard`` puts ``FSDP`` before it, which is taken off here."""
    kind = type(module)
    for base in kind.__bases__[1:]:
        if kind.__name__ == f"FSDP{base.__name__}":
            return base.__name__
    return kind.__name__


def join(name: str, key: str) -> str:
    """The dotted name of ``key`` inside ``name``."""
    return f"{name}.{key}" if name else key


def _wrapped_child(module: nn.Module) -> nn.Module | None:
    """What a transparent wrapper wraps, its only child; None for any other module."""
    if len(module._modules) != 1:
        return None
    if isinstance(module, (DataParallel, DistributedDataParallel)):
        return module.module
    return next((child for key, child in module._modules.items() if key in _WRAPPED_CHILD), None)
