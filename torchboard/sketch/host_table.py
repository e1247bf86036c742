"""Saves work where many tensors are folded one after another in the host's memory: a tensor that comes twice, as the output
of a layer and of the one around it, is looked at once, and where there is no compiled code small ones wait for company.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch

from torchboard.sketch import host, host_compiled, host_many
from torchboard.sketch.host_compiled import Buffers
from torchboard.sketch.host_row import HostRow

_MOST_WAITING = 256
"""Tensors."""
_LARGE = 1 << 14
"""Elements of a tensor that is compared with the one before."""


class _Seen(NamedTuple):
    """A tensor as it was when it was folded; its memory is held weakly."""

    storage: weakref.ref
    version: int
    place: tuple
    folded: host.Folded

    def is_still(self, tensor: torch.Tensor) -> bool:
        return self.storage() is tensor.untyped_storage() and self[1:3] == (tensor._version, _place(tensor))


class HostFolds:
    """Folds tensors into the rows of one table.

    A large tensor is folded at once; if it is the one that was folded before, which its memory and the version that autograd
    counts tell, the counts are taken from there. What writes to memory behind autograd's back (through ``.data``, say)
    between the two is not noticed. Compiled code does that by itself, and folds small ones at once, too. Without it one of up
    to ``host_many.SMALL`` elements is copied, and folded with others when there are 256 of them, or ``host_many.MANY``
    elements, or when ``settle_`` is called.

    Attributes:
        rows: where compiled code folds into; None without it.
    """

    def __init__(self, buffers: Buffers) -> None:
        self.rows = host_compiled.rows_of(buffers)
        self._waiting: tuple[list[int], list[torch.Tensor]] = [], []
        self._elements = 0
        self._last: _Seen | None = None
        self._buffers = buffers

    def use_(self, buffers: Buffers) -> None:
        """The rows lie here from now on; nothing may be waiting."""
        self._buffers = buffers
        if self.rows is not None:
            self.rows.use(*buffers)

    def observe_(self, row: int, tensor: torch.Tensor) -> None:
        """Adds every element of a plain tensor to a row, now or later."""
        number = tensor.numel()
        if self.rows is not None:
            if not host_compiled.read_(self.rows, row, tensor):
                self._fold(row, tensor)
        elif number <= host_many.SMALL and tensor.dtype in host_many.DTYPES:
            self._wait(row, tensor)
        elif number <= _LARGE or tensor.is_inference():  # the latter has no version
            self._fold(row, tensor)
        elif self._last is None or not self._last.is_still(tensor) or not self._again(row, self._last.folded):
            folded = self._fold(row, tensor)
            seen = _Seen(weakref.ref(tensor.untyped_storage()), tensor._version, _place(tensor), folded)
            self._last = seen if folded else None

    def _wait(self, row: int, tensor: torch.Tensor) -> None:
        rows, tensors = self._waiting
        rows.append(row)
        tensors.append(tensor.detach().clone())
        self._elements += tensor.numel()
        if len(rows) >= _MOST_WAITING or self._elements >= host_many.MANY:
            self.settle_()

    def settle_(self) -> None:
        """Folds all that waits."""
        (rows, tensors), self._waiting, self._elements = self._waiting, ([], []), 0
        if rows:
            host_many.observe_many_(*self._buffers, rows, tensors)

    def forget(self) -> None:
        """Drops all that waits, and what is known of the last tensor."""
        self._waiting, self._elements, self._last = ([], []), 0, None

    def _fold(self, row: int, tensor: torch.Tensor) -> host.Folded | None:
        return host.fold_(HostRow(*self._buffers, row), tensor)

    def _again(self, row: int, folded: host.Folded) -> bool:
        return host.again_(HostRow(*self._buffers, row), folded)


def _place(tensor: torch.Tensor) -> tuple:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.is_neg()
