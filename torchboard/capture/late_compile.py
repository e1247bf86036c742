"""Modules that are compiled while hooks wait on a model and that stay compiled: found before they meet the hooks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from torchboard.capture.models import models_in
from torchboard.graph.eager import compiled_modules
from torchboard.graph.hooks import GuardedHook
from torchboard.graph.module_names import unwrapped


class LateCompile:
    """Looks at the beginning of a pass whether modules have been compiled since the last look, under ``compiled="skip"``.

    A model that is compiled itself gets no hook for that.

    Args:
        model: whose passes, and whose modules.
        compiled: what a captured step does with compiled code, as in ``Capture``.
        found: called where there are others than before.
        failed: called with what ``found`` raises.
    """

    def __init__(
        self, model: nn.Module, compiled: str, found: Callable[[], None], failed: Callable[[Exception], object]
    ) -> None:
        self._applies = compiled == "skip"
        self._model = model
        self._found = found
        self._failed = failed
        self._compiled = compiled_modules(model) if self._applies else set()
        self._handles: list[RemovableHandle] = []

    def listen(self, on: bool) -> None:
        """Whether the beginning of each pass is looked at, by a walk over the modules."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for root in map(unwrapped, models_in(self._model).values()) if on and self._applies else ():
            if root not in self._compiled and not isinstance(root, torch.jit.ScriptModule):
                hook = GuardedHook(partial(self._begins, root), self._failed)
                self._handles.append(root.register_forward_pre_hook(hook, prepend=True))

    def look(self) -> None:
        """Calls ``found`` if there are others."""
        if not self._applies:
            return
        compiled = compiled_modules(self._model)
        if compiled != self._compiled:
            self._compiled = compiled
            self._found()

    def _begins(self, root: nn.Module, module: nn.Module, args: Any) -> None:
        if module is root:  # no replica of it
            self.look()
