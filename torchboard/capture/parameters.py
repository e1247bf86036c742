"""Parameters, their gradients and their updates, read around the optimizer's step.

Just before the step a gradient is what the optimizer will use: reduced over ranks, unscaled and clipped.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchboard.capture.figures import Figures
from torchboard.capture.options import Capture
from torchboard.capture.select import tag
from torchboard.capture.sketches import Sketches
from torchboard.capture.tensors import measurable
from torchboard.graph.module_names import parameter_names
from torchboard.values import Pending, Text

WITHOUT_GRADIENT = "monitor/parameters_without_gradient"


class Parameters:
    """Sketches gradients and updates of captured steps, and the parameters as they are when collected.

    Args:
        model: its parameters are looked up anew at each captured step, since sharding and ``.to()`` replace them.
        options: which of the three are wanted.

    Attributes:
        armed: whether the next optimizer step is a captured one.
    """

    def __init__(self, model: nn.Module, options: Capture) -> None:
        self.armed = False
        self._model = model
        self._options = options
        self._sketches = Sketches()
        self._before: list[tuple[str, Tensor, Tensor]] = []
        self._without: dict[str, None] = {}
        self._with: set[str] = set()

    def arm(self, on: bool) -> None:
        """Whether the next optimizer step is a captured one."""
        self.armed = on
        if not on:
            self._before.clear()

    def before_step(self, optimizer: Optimizer) -> None:
        """Reads the gradients of the parameters that this optimizer is about to change."""
        if not self.armed:
            return
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer takes a loss scaler's factor off by itself
        gradients = []
        for name, parameter in parameter_names(self._model):
            if id(parameter) not in owned:
                continue
            if parameter.grad is None:
                if parameter.requires_grad:
                    self._without[name] = None
                continue
            self._with.add(name)
            if self._options.gradients and scale is None:
                gradients.append((name, parameter.grad))
            elif self._options.gradients:
                self._observe("gradients", [(name, parameter.grad / scale)])
            local = measurable(parameter)
            if self._options.updates and local is not None:
                self._before.append((name, local, local.clone()))
        self._observe("gradients", gradients)

    def after_step(self, optimizer: Optimizer) -> None:
        """Reads by how much the step changed each parameter."""
        with torch.no_grad():
            updates = [(name, torch.sub(parameter, before, out=before)) for name, parameter, before in self._before]
        self._before.clear()
        self._observe("updates", updates)

    def collect(self) -> list[Pending]:
        """Gradients and updates since the last call, and the parameters as they are now, on their way to the host.

        Parameters that an optimizer holds and that had no gradient at any of its captured steps are named in a text.
        """
        if self._options.parameters:
            self._observe("parameters", parameter_names(self._model))
        silent = [f"`{name}`" for name in self._without if name not in self._with]
        self._without, self._with = {}, set()
        named = (WITHOUT_GRADIENT, Text("No gradient in this epoch's captured steps: " + ", ".join(silent)))
        return [*self._sketches.collect(), *([Figures((named,))] if silent and self._options.gradients else [])]

    @torch.no_grad()
    def _observe(self, kind: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
        local = ((tag(kind, name), measurable(tensor)) for name, tensor in tensors)
        self._sketches.observe_((name, tensor) for name, tensor in local if tensor is not None)
