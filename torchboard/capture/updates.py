"""By how much an optimizer's step changes parameters, from a sample of each and no copy of all.

A parameter of at most ``SAMPLE`` elements is read whole. Of a larger one every n-th element is read, in the order of its
memory, n the least number that keeps the sample within ``SAMPLE`` and has no divisor in common with the number of
elements: so the sample walks over all rows and columns alike, is the same at every step, and needs neither random numbers
nor indices. Both readings are strided copies; in the host's memory compiled code makes them, one call for all. Held during
a step are 65,536 elements of a parameter at most: 256 KiB in float32, 16 MB for the 161 parameters of a ResNet-50, which
are 102 MB.

The root mean square of a sample is that of the whole within 0.2 % in the median, within 1 % in 19 of 20 and within 3 % in
all (the large parameters of a ResNet-50 and a small GPT, under SGD and AdamW); that of an embedding of which a step changes
one row in 400, within 8 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchboard.capture.sketches import Sketches
from torchboard.capture.tensors import observable
from torchboard.sketch.host_compiled import Changes, changes_of
from torchboard.sketch.reference import storage_order

_TagsOf = Callable[[tuple[str, ...]], tuple[str | None, ...]]
SAMPLE = 65_536
"""Most elements that are read of one parameter."""


class _Noted(NamedTuple):
    """A parameter before the step."""

    name: str
    parameter: nn.Parameter
    values: Tensor
    address: int | None  # of the parameter, if the values are its own memory
    negated: Tensor  # what the values were, with the other sign

    def now(self) -> Tensor | None:
        """The same values after the step; None if the parameter has other data since, of another size, type or device."""
        if self.address is not None and self.parameter.data_ptr() == self.address:
            return self.values
        after, before = sample(self.parameter), self.negated
        alike = after is not None and (after.shape, after.dtype, after.device) == (
            before.shape,
            before.dtype,
            before.device,
        )
        return after if alike else None


class Updates:
    """The samples of one optimizer's parameters, from before its step to after it."""

    def __init__(self) -> None:
        self._before: list[_Noted] = []
        self._on_host: tuple[list[tuple[str, nn.Parameter]], Changes] | None = None

    def note(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
        """Reads named parameters before the step; nothing of one that has nothing to measure. One launch for all.

        Gives those that are no plain tensors in the host's memory.
        """
        self.clear()
        weights = [weight for _, weight in parameters]
        changes = changes_of(weights, [_stride(weight.numel()) for weight in weights])
        others = [*parameters] if changes is None else [parameters[place] for place in changes.left()]
        if changes is not None and len(others) < len(parameters):
            self._on_host = [*parameters], changes
        read = [(name, parameter, sample(parameter)) for name, parameter in others]
        read = [entry for entry in read if entry[2] is not None]
        negated = torch._foreach_neg([values for *_, values in read]) if read else ()
        self._before = [_Noted(*entry, _address(*entry[1:]), before) for entry, before in zip(read, negated)]
        return others

    def take(self, sketches: Sketches, tags_of: _TagsOf) -> list[tuple[str, Tensor]]:
        """Folds the change of every parameter noted into its sketch, after the step, or gives its name and its change where
        compiled code cannot; begins anew. One launch for all.

        A parameter that has been given other data in the meantime, of another size, type or device, is left out.

        Args:
            sketches: where changes are folded into.
            tags_of: names -> tags of the sketches; None for a parameter that is not wanted.
        """
        on_host, noted = self._on_host, self._before
        self.clear()
        wanted = zip(noted, tags_of(tuple([entry.name for entry in noted])))
        after = [(entry, values) for entry, tag in wanted if tag is not None and (values := entry.now()) is not None]
        changes = [entry.negated for entry, _ in after]
        if changes:
            torch._foreach_add_(changes, [values for _, values in after])
        found = [(entry.name, change) for (entry, _), change in zip(after, changes)]
        if on_host is not None:
            parameters, changed = on_host
            for place in sketches.read_changes_(tags_of(tuple([name for name, _ in parameters])), changed):
                name, parameter = parameters[place]
                kind = torch.float64 if parameter.dtype is torch.float64 else torch.float32
                found.append((name, torch.frombuffer(bytearray(changed.values(place)), dtype=kind)))
        return found

    def clear(self) -> None:
        """Forgets what was noted."""
        self._before, self._on_host = [], None


def _address(parameter: nn.Parameter, values: Tensor) -> int | None:
    address = values.data_ptr()
    return address if type(parameter) is nn.Parameter and parameter.data_ptr() == address else None


def sample(parameter: Tensor) -> Tensor | None:
    """At most ``SAMPLE`` of a parameter's elements, or all of a smaller one; None where there is nothing to measure.

    A view, where the parameter's memory has no holes. The local part of a sharded parameter is sampled as finely as the
    whole calls for, so that every rank's sample weighs what its part does.
    """
    values = observable(parameter)
    if values is None:
        return None
    stride = _stride(parameter.numel())
    return values if stride == 1 else storage_order(values)[0][::stride]


@lru_cache(maxsize=1024)
def _stride(elements: int) -> int:
    stride = -(-elements // SAMPLE)
    while stride > 1 and math.gcd(stride, elements) > 1:
        stride += 1
    return max(stride, 1)
