"""When the next forward pass of a model, or of each of several, has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from math import inf
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel
from torch.utils.hooks import RemovableHandle

from torchboard.graph.eager import compiled_modules
from torchboard.graph.fused import FusedLayers
from torchboard.graph.hooks import GuardedHook, in_backward
from torchboard.graph.job import is_probe
from torchboard.graph.module_names import unwrapped

_PATIENCE = 8
"""Passes of one model, all of which run eagerly, in which others have to run."""


class NextPasses:
    """Tells when each of some models has run, whether it is called through its wrapper or past it.

    A model of which its children alone are called has run before one of them is called for the second time. What this leaves
    until ``close`` is hooks on each model and its children. Where one of the models is compiled, which runs eagerly meanwhile,
    it is over, too, when one has run some times before others have at all: those may never be called.

    Args:
        models: key -> model.
        awaited: the keys of those that are waited for.
        passed: called with the key when the first pass of one of these has ended, and with None when all of them have run, or are
            waited for no longer.
        failed: called with what ``passed`` raises.
        left_out: modules that get no hooks: compiled ones that run compiled.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        awaited: Iterable[str],
        passed: Callable[[str | None], object],
        failed: Callable[[Exception], object],
        left_out: Collection[nn.Module] = (),
    ) -> None:
        self._awaited = set(awaited)
        self._passed = passed
        self._failed = failed
        self._left_out = left_out
        self._runs: Counter[str] = Counter()
        self._calls: Counter[nn.Module] = Counter()
        self._called: set[str] = set()
        is_compiled = any(not compiled_modules(model) <= set(left_out) for model in models.values())
        self._most_runs = _PATIENCE if is_compiled else inf
        self._first: dict[str, list[RemovableHandle]] = {key: [] for key in models}
        self._all: list[RemovableHandle | FusedLayers] = []
        parts = chain.from_iterable(model.modules() for model in models.values())
        fused = FusedLayers(part for part in parts if part not in left_out)
        fused.put_on()
        self._all.append(fused)
        for key, model in models.items():
            self._watch(key, model)

    def close(self) -> None:
        """Takes the hooks away."""
        for handle in chain(self._all, *self._first.values()):
            handle.remove()

    def _watch(self, key: str, model: nn.Module) -> None:
        first = self._first[key]
        for place in self._hookable(_ends(model)):
            first.append(place.register_forward_pre_hook(self._guarded(self._begins, key)))
            self._all.append(place.register_forward_hook(self._guarded(self._passes, key, place)))
        for child in self._hookable(_children(unwrapped(model))):
            first.append(child.register_forward_pre_hook(self._guarded(self._child_begins, key, child)))

    def _guarded(self, report: Callable[..., None], *arguments: Any) -> GuardedHook:
        return GuardedHook(partial(report, *arguments), self._failed)

    def _hookable(self, modules: Iterable[nn.Module]) -> list[nn.Module]:
        return [one for one in modules if not isinstance(one, torch.jit.ScriptModule) and one not in self._left_out]

    def _begins(self, key: str, *_: Any) -> None:
        self._called.add(key)

    def _child_begins(self, key: str, child: nn.Module, module: nn.Module, *_: Any) -> None:
        if module is not child or key in self._called or in_backward() or is_probe():
            return
        self._calls[child] += 1
        if self._calls[child] > 1:
            self._has_run(key)

    def _passes(self, key: str, place: nn.Module, module: nn.Module, *_: Any) -> None:
        if (
            module is place and not in_backward() and not is_probe()
        ):  # no replica of it, nor what a checkpoint runs again
            self._has_run(key)

    def _has_run(self, key: str) -> None:
        self._runs[key] += 1
        for handle in self._first.pop(key, ()):
            handle.remove()
        if key in self._awaited:
            self._awaited.discard(key)
            self._passed(key)
        if not self._awaited or self._runs[key] >= self._most_runs:
            self._passed(None)


def _ends(model: nn.Module) -> list[nn.Module]:
    """The modules one of which a pass of the model ends with: the innermost, or what lets replicas of it run."""
    innermost, found, module = unwrapped(model), [], model
    while module is not innermost:
        if isinstance(module, DataParallel) and len(module.device_ids) > 1:
            found.append(module)
        (module,) = module._modules.values()
    return [*found, innermost]


def _children(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that a model is made of; in place of a list or dict of some, those."""
    for child in model._modules.values() if not isinstance(model, torch.jit.ScriptModule) else ():
        if child is None or isinstance(child, torch.jit.ScriptModule):
            continue
        if type(child).forward is nn.Module.forward:
            yield from _children(child)
        else:
            yield unwrapped(child)
