"""Which backward passes add to the gradients of parameters, told by hooks on these in armed windows: 1 us a parameter.

The hook on a layer's output tells of passes that add to no gradient, too (``torch.autograd.grad``), and of none that meets no
layer, as that of a penalty on the weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from torchboard.capture.gradient_tap import BackwardEnd
from torchboard.graph.hooks import InertWhenCopied


class Accumulations:
    """Hooks on parameters that have a backward pass told whose end it adds to them before.

    ``register_post_accumulate_grad_hook`` makes a handle for each, which takes four times as long.

    Args:
        end: told in each such pass that it will end; where a parameter is of a kind of its own, as a shard, whose gradient is
            not added to it but put there, the layers are to tell, too.
    """

    def __init__(self, end: BackwardEnd) -> None:
        self._end = end
        self._hook = _Accumulates(end)
        self._key = RemovableHandle(OrderedDict()).id
        self._hooked: list[nn.Parameter] = []

    def put_on(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Each trainable one of these parameters has a hook, and no other has."""
        self.take_off()
        self._end.by_layers = False
        for _, weight in named:
            if type(weight) is not nn.Parameter:
                self._end.by_layers = True
            elif weight.requires_grad:
                self._hooked.append(weight)
                hooks = weight._post_accumulate_grad_hooks
                if hooks is None:
                    weight._post_accumulate_grad_hooks = hooks = OrderedDict()
                hooks[self._key] = self._hook

    def take_off(self) -> None:
        """None has; an empty dictionary of hooks, too, would be looked at in every backward pass."""
        hooked, self._hooked = self._hooked, []
        for weight in hooked:
            hooks = weight._post_accumulate_grad_hooks
            if hooks is not None and hooks.pop(self._key, None) is not None and not hooks:
                weight._post_accumulate_grad_hooks = None


class _Accumulates(InertWhenCopied):
    """What sits on a parameter."""

    __slots__ = ("_end",)

    def __init__(self, end: BackwardEnd) -> None:
        self._end = end

    def __call__(self, weight: Tensor) -> None:
        self._end.expect()
