"""Forward hooks on the chosen layers of a model, put on for a window and taken off after it: 0.3 us a layer.

``Module.register_forward_hook`` makes a handle for each, which takes several times as long. Here the handles of the first
window keep their numbers, under which the same hooks go into the layers' dictionaries again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from weakref import WeakSet

from torch import nn
from torch.utils.hooks import RemovableHandle

from torchboard.capture.models import key_of
from torchboard.capture.options import Capture, selectors
from torchboard.capture.select import layers
from torchboard.graph.eager import compiled_modules
from torchboard.graph.fused import FusedLayers
from torchboard.graph.module_names import KnownNames, module_names

Hook = Callable[[nn.Module, tuple, Any], None]


class _Site(NamedTuple):
    """Where a hook goes: a layer, and the number of the hook in the layer's dictionary."""

    name: str
    layer: weakref.ref[nn.Module]
    key: int
    hook: Hook


class LayerHooks:
    """One hook on each layer that the options choose.

    Layers are chosen anew where the model has other modules than before, or where the choice may be another: under a
    predicate of the user's, or where compiled layers are skipped. A layer of the same name then keeps its hook.

    Args:
        model: whose layers; of several models, the hooks of each can be taken off by themselves.
        options: which of them.
        make: gives the hook for the layer of a name.

    Attributes:
        are_on: whether hooks sit on the layers.
        taken: the layers whose hook somebody else has taken away within a window.
        ran_fused: the encoder layers that ran as one kernel in a window, so that no layer in them was called.
    """

    def __init__(self, model: nn.Module, options: Capture, make: Callable[[str], Hook]) -> None:
        self.are_on = False
        self.taken: dict[str, None] = {}
        self.ran_fused: WeakSet[nn.Module] = WeakSet()
        self._fused = FusedLayers(())
        self._model = model
        self._options = options
        self._make = make
        self._names = KnownNames(model)
        self._version = 0
        chosen_by = selectors(options.include) + selectors(options.exclude)
        self._varies = (
            any(not isinstance(selector, (str, type)) for selector in chosen_by) or options.compiled == "skip"
        )
        self._hooks: dict[str, Hook] = {}
        self._sites: dict[str, list[_Site]] = {}
        self._off: set[str] = set()

    def __iter__(self) -> Iterator[Hook]:
        """The hooks, whether they are on or not."""
        return iter(self._hooks.values())

    @property
    def keys(self) -> list[str]:
        """The models that have layers chosen."""
        return [*self._sites]

    def choose(self) -> bool:
        """Looks at which layers there are; whether there are any. Hooks must be off."""
        version = self._names.look()
        if version != self._version or self._varies:
            self._version = version
            left_out = compiled_modules(self._model) if self._options.compiled == "skip" else ()
            chosen = [(name, layer) for name, layer in layers(self._model, self._options) if layer not in left_out]
            self._hooks = {name: self._hooks.get(name) or self._make(name) for name, _ in chosen}
            self._sites = {}
            parts = (part for part in module_names(self._model) if chosen and part not in left_out)
            self._fused = FusedLayers(parts, self.ran_fused)
            for name, layer in chosen:
                site = _Site(name, weakref.ref(layer), RemovableHandle(layer._forward_hooks).id, self._hooks[name])
                self._sites.setdefault(key_of(self._model, name), []).append(site)
        return bool(self._sites)

    def are_others(self) -> bool:
        """Whether the model has other modules than when its layers were chosen, or somebody took a hook away."""
        if self._varies or self._names.look() != self._version:
            return True
        sites = (site for sites in self._sites.values() for site in sites)
        return any((layer := site.layer()) is None or site.key not in layer._forward_hooks for site in sites)

    def put_on(self) -> None:
        """Each layer chosen has its hook, behind those that it has already."""
        self.are_on = True
        self._fused.put_on()
        for sites in self._sites.values():
            for _, reference, key, hook in sites:
                layer = reference()
                if layer is not None:
                    layer._forward_hooks[key] = hook

    def take_off(self, model: str | None = None) -> None:
        """No layer has, or none of one of the models; whoever took one away before has done no harm, and is noted."""
        models = self._sites.keys() - self._off if model is None else {model} - self._off
        for one in models:
            for name, reference, key, _ in self._sites[one]:
                layer = reference()
                if layer is not None and layer._forward_hooks.pop(key, None) is None:
                    self.taken[name] = None
        if model is None:
            self._fused.remove()
        self._off = set() if model is None else self._off | models
        self.are_on = model is not None
