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
from torchboard.graph.hooks import InertWhenCopied, graph_task


class Accumulations:
    """Hooks on parameters, which hear of backward passes that add to them, and have the end of these told.

    ``register_post_accumulate_grad_hook`` makes a handle for each, which takes four times as long.

    Args:
        end: of the backward passes.

    Attributes:
        are_on: whether trainable parameters have hooks, but for those of a kind of its own, as shards: their gradients are not
            added to them, but put there.
    """

    def __init__(self, end: BackwardEnd) -> None:
        self.are_on = False
        self._hook = _Accumulates(weakref.ref(end))
        self._key = RemovableHandle(OrderedDict()).id
        self._hooked: list[nn.Parameter] = []

    def take_heard(self) -> bool:
        """Whether there was such a pass since the last call."""
        heard, self._hook.heard = self._hook.heard, False
        return heard

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

    __slots__ = ("_end", "_task", "heard")

    def __init__(self, end: weakref.ref[BackwardEnd]) -> None:
        self._end = end
        self._task = -1
        self.heard = False

    def __call__(self, weight: Tensor) -> None:
        task = graph_task()
        if task != self._task:
            self._task, self.heard = task, True
            end = self._end()
            if end is not None:
                end.expect()
