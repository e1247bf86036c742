"""Which backward passes add to the gradients of parameters, told by hooks on these in armed windows: 1 us a parameter.

The hook on a layer's output tells of passes that add to no gradient, too (``torch.autograd.grad``), and of none that meets no
layer, as that of a penalty on the weights.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from torchboard.capture.gradient_tap import BackwardEnd
from torchboard.graph.hooks import InertWhenCopied


class Accumulations:
    """Hooks on parameters, which hear of backward passes that add to them, and have the end of these told.

    ``register_post_accumulate_grad_hook`` makes a handle for each, which takes four times as long.

    Args:
        end: of the backward passes.

    Attributes:
        are_on: whether trainable parameters have hooks, but for those of a kind of its own, as shards: their gradients are not
            added to them, but put there.
        heard: whether there was such a pass since this was set to False.
        end: as given.
    """

    def __init__(self, end: BackwardEnd) -> None:
        self.are_on = self.heard = False
        self.end = end
        self._hook = _Accumulates(weakref.ref(self))
        self._key = RemovableHandle(OrderedDict()).id
        self._hooked: list[nn.Parameter] = []

    def put_on(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Of these parameters each has a hook, and no other has."""
        self.take_off()
        self.are_on = True
        self._hooked = [weight for _, weight in named if type(weight) is nn.Parameter and weight.requires_grad]
        for weight in self._hooked:
            hooks = weight._post_accumulate_grad_hooks
            if hooks is None:
                weight._post_accumulate_grad_hooks = hooks = OrderedDict()
            hooks[self._key] = self._hook

    def take_off(self) -> None:
        """None has; an empty dictionary of hooks, too, would be looked at in every backward pass."""
        hooked, self._hooked = self._hooked, []
        self.are_on = False
        for weight in hooked:
            hooks = weight._post_accumulate_grad_hooks
            if hooks is not None and hooks.pop(self._key, None) is not None and not hooks:
                weight._post_accumulate_grad_hooks = None


class _Accumulates(InertWhenCopied):
    """What sits on a parameter. It keeps nothing alive: what hooks of parameters refer to, the garbage collector does not see."""

    __slots__ = ("_accumulations",)

    def __init__(self, accumulations: weakref.ref[Accumulations]) -> None:
        self._accumulations = accumulations

    def __call__(self, weight: Tensor) -> None:
        accumulations = self._accumulations()
        if accumulations is not None:
            accumulations.heard = True
            accumulations.end.expect()
