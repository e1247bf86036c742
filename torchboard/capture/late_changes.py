"""What is done to a model while hooks wait on it for a pass: found when the pass begins, before it meets them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from torchboard.capture.models import models_in
from torchboard.graph.eager import compiled_modules, eagerly
from torchboard.graph.hooks import GuardedHook
from torchboard.graph.module_names import unwrapped


class LateChanges:
    """Looks at the beginning of a pass at what has become of the model since hooks were put on.

    Under ``compiled="skip"`` modules may have been compiled, which stay so; a model that is compiled itself gets no hook for
    that. In the first window of an epoch, which opens before the user's code goes on, layers may have come, gone or changed
    places. Where captured steps stay compiled nothing is looked at.

    Args:
        model: whose passes, and whose modules.
        compiled: what a captured step does with compiled code, as in ``Capture``.
        found: called where other modules are compiled than before.
        choose: called at the beginning of the next pass where it ``looks_for_layers``.
        failed: called with what these two raise.

    Attributes:
        looks_for_layers: whether layers may have changed since hooks were put on.
    """

    def __init__(
        self,
        model: nn.Module,
        compiled: str,
        found: Callable[[], None],
        choose: Callable[[], None],
        failed: Callable[[Exception], object],
    ) -> None:
        self.looks_for_layers = False
        self._skips, self._is_idle = compiled == "skip", compiled == "graph"
        self._model = model
        self._found = found
        self._choose = choose
        self._failed = failed
        self._compiled = compiled_modules(model) if self._skips else set()
        self._handles: list[RemovableHandle] = []

    def listen(self, on: bool) -> None:
        """Whether the beginning of each pass is looked at, by a walk over the modules."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        looks = on and not self._is_idle and (self._skips or self.looks_for_layers)
        for root in map(unwrapped, models_in(self._model).values()) if looks else ():
            if root not in self._compiled and not isinstance(root, torch.jit.ScriptModule):
                hook = GuardedHook(partial(self._begins, root), self._failed)
                self._handles.append(root.register_forward_pre_hook(hook, prepend=True))

    def look(self) -> None:
        """Calls ``found`` if there are others."""
        if not self._skips:
            return
        compiled = compiled_modules(self._model)
        if compiled != self._compiled:
            self._compiled = compiled
            self._found()

    def _begins(self, root: nn.Module, module: nn.Module, args: Any) -> None:
        if module is root:  # no replica of it
            self.look()
            if self.looks_for_layers:
                self.looks_for_layers = False
                with eagerly():  # so that the window in which this pass runs stays open while another one is opened
                    self._choose()
