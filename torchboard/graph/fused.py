"""The fused path of torch's transformer modules in evaluation mode, which hooks and modes of ours must not close.

``nn.TransformerEncoder``, its layers and ``nn.MultiheadAttention`` run as one kernel each in evaluation mode, an encoder on
nested tensors: other last bits, and zeros where the input is padding. They do not where a function mode is on, and an encoder
layer does not where it finds a hook on a module in ``layer.modules()``. Where all hooks are ours, it is shown no such module.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from torchboard.graph.hooks import InertWhenCopied

_FUSED = nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention


def may_run_fused(module: nn.Module) -> bool:
    """Whether a call of the module, which begins, may take the fused path."""
    if not isinstance(module, _FUSED) or all([part.training for part in module.modules()]):
        return False
    return not (torch.is_grad_enabled() and all([weight.requires_grad for weight in module.parameters()]))


class FusedLayers:
    """Two hooks on each encoder layer, to be on while others of ours are on it or on modules in it.

    They cost a microsecond a call in training, in evaluation another for each module in the layer.

    Args:
        modules: the encoder layers are among these.
        ran: takes the layers that ran fused, as far as hooks go: no module in them was called.
    """

    def __init__(self, modules: Iterable[nn.Module], ran: WeakSet[nn.Module] | None = None) -> None:
        begins = _Begins(WeakSet() if ran is None else ran)
        number = RemovableHandle(OrderedDict()).id
        layers = (module for module in modules if isinstance(module, nn.TransformerEncoderLayer))
        self._layers: WeakSet[nn.Module] = WeakSet(layers)
        self._begins, self._ends, self._key = begins, _Ends(), number

    def put_on(self) -> None:
        """They are on."""
        for layer in self._layers:
            layer._forward_pre_hooks[self._key] = self._begins
            layer._forward_hooks[self._key] = self._ends
            layer._forward_hooks_always_called[self._key] = True

    def remove(self) -> None:
        """They are off; named as the same of a handle."""
        for layer in self._layers:
            layer._forward_pre_hooks.pop(self._key, None)
            layer._forward_hooks.pop(self._key, None)
            layer._forward_hooks_always_called.pop(self._key, None)


class _Begins(InertWhenCopied):
    """In front of a layer's call."""

    __slots__ = ("_ran",)

    def __init__(self, ran: WeakSet[nn.Module]) -> None:
        self._ran = ran

    def __call__(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or module.training:
            return
        shown = module.__dict__.get("modules")
        if isinstance(shown, _Hookless):
            shown.tell(self._ran)
        elif shown is None and all(isinstance(hook, InertWhenCopied) for hook in _hooks(module)):
            module.__dict__["modules"] = _Hookless(module, self._ran)


class _Ends(InertWhenCopied):
    """Behind a layer's call."""

    __slots__ = ()

    def __call__(self, module: nn.Module, args: Any, result: Any) -> None:
        if not torch.compiler.is_compiling() and isinstance(module.__dict__.get("modules"), _Hookless):
            del module.__dict__["modules"]


class _Hookless(InertWhenCopied):
    """In place of ``layer.modules``, once: gives those that have no hooks, and with them the layer leave to run fused."""

    __slots__ = ("_layer", "_told")

    def __init__(self, layer: nn.Module, ran: WeakSet[nn.Module]) -> None:
        self._layer = layer
        self._told = [ran]

    def tell(self, ran: WeakSet[nn.Module]) -> None:
        """One more that is told of it."""
        self._told.append(ran)

    def __call__(self, *args: Any, **kwargs: Any) -> Iterator[nn.Module]:
        self._layer.__dict__.pop("modules", None)
        for ran in self._told:
            ran.add(self._layer)
        modules = self._layer.modules(*args, **kwargs)
        return (module for module in modules if not (module._forward_hooks or module._forward_pre_hooks))


def _hooks(layer: nn.Module) -> Iterator[Any]:
    parts = [*layer.modules()]
    return chain.from_iterable(
        hooks.values() for part in parts for hooks in (part._forward_hooks, part._forward_pre_hooks)
    )
