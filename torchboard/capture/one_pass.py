"""The next forward pass of a model, or of each of several: hooks for it alone, and when it has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import inf
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel
from torch.utils.hooks import RemovableHandle

from torchboard.graph.eager import compiled_modules
from torchboard.graph.hooks import GuardedHook, in_backward
from torchboard.graph.module_names import unwrapped

Hook = Callable[[nn.Module, tuple, Any], None]
_PATIENCE = 8
"""Passes of one model, all of which run eagerly, in which others have to run."""


class NextPasses:
    """Tells when each of some models has run, whether it is called through its wrapper or past it.

    What it leaves on each model until ``close`` is a forward hook. Where one of them is compiled, which runs eagerly meanwhile,
    it is over, too, when a model has run some times before others have at all: those may never be called.

    Args:
        models: key -> model.
        awaited: the keys of those that are waited for.
        ended: called with the key when the first pass of one of these has ended.
        over: called when all of these have run, or are waited for no longer.
        failed: called with what these two raise.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        awaited: Iterable[str],
        ended: Callable[[str], object],
        over: Callable[[], object],
        failed: Callable[[Exception], object],
    ) -> None:
        self._awaited = set(awaited)
        self._ended = ended
        self._over = over
        self._runs: Counter[str] = Counter()
        self._most_runs = _PATIENCE if any(compiled_modules(model) for model in models.values()) else inf
        self._handles = [
            place.register_forward_hook(GuardedHook(partial(self._passed, key, place), failed))
            for key, model in models.items()
            for place in _ends(model)
        ]

    def close(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _passed(self, key: str, place: nn.Module, module: nn.Module, *_: Any) -> None:
        if module is not place or in_backward():  # a replica of it, or a pass that a checkpoint runs again
            return
        self._runs[key] += 1
        if key in self._awaited:
            self._awaited.discard(key)
            self._ended(key)
        if not self._awaited or self._runs[key] >= self._most_runs:
            self._over()


class PassHooks:
    """Forward hooks for one pass, that come off one model after the other.

    Args:
        hooks: the key of a model, the name of one of its layers, the layer, and what goes on it.

    Attributes:
        taken: the layers whose hook somebody else has taken away.
    """

    def __init__(self, hooks: Iterable[tuple[str, str, nn.Module, Hook]]) -> None:
        self.taken: dict[str, None] = {}
        self._handles: dict[str, list[tuple[str, RemovableHandle]]] = {}
        for key, name, layer, hook in hooks:
            self._handles.setdefault(key, []).append((name, layer.register_forward_hook(hook)))

    @property
    def keys(self) -> list[str]:
        """The models whose layers have hooks."""
        return [*self._handles]

    def take_off(self, key: str) -> None:
        """The layers of a model have none any more."""
        for name, handle in self._handles.pop(key, ()):
            hooks = handle.hooks_dict_ref()  # None of a layer that has gone
            if hooks is not None and handle.id not in hooks:
                self.taken[name] = None
            handle.remove()


def _ends(model: nn.Module) -> list[nn.Module]:
    """The modules one of which a pass of the model ends with: the innermost, or what lets replicas of it run."""
    innermost, found, module = unwrapped(model), [], model
    while module is not innermost:
        if isinstance(module, DataParallel) and len(module.device_ids) > 1:
            found.append(module)
        (module,) = module._modules.values()
    return [*found, innermost]
