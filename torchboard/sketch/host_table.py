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


class _Seen(NamedTuple):
    """A tensor as it was when it was folded; its memory is held weakly."""

    address: int
    version: int
    facts: tuple
    storage: weakref.ref
    folded: host.Folded | int

    def is_still(self, tensor: torch.Tensor) -> bool:
        """Whether that is the tensor."""
        return (
            self.address == tensor.data_ptr()
            and self.version == tensor._version
            and self.facts == _facts(tensor)
            and self.storage() is tensor.untyped_storage()
        )


class HostFolds:
    """Folds tensors into the rows of one table.

    A large tensor is folded at once; if it is the one that was folded before, which its memory and the version that autograd
    counts tell, the counts are taken from there. What writes to memory behind autograd's back (through ``.data``, say)
    between the two is not noticed. Compiled code folds small ones at once, too. Without it one of up to ``host_many.SMALL``
    elements is copied, and folded with others when there are 256 of them, or ``host_many.MANY`` elements, or when
    ``settle_`` is called.

    Attributes:
        rows: where compiled code folds into; None without it.
    """

    def __init__(self, buffers: Buffers) -> None:
        self.rows = host_compiled.rows_of(buffers)
        self._waiting: tuple[list[int], list[torch.Tensor]] = [], []
        self._elements = 0
        self._last: _Seen | None = None
        self.use_(buffers)

    def use_(self, buffers: Buffers) -> None:
        """The rows lie here from now on; nothing may be waiting."""
        self._buffers = buffers
        if self.rows is not None:
            self.rows.use(*buffers)

    def read_(self, row: int, tensor: torch.Tensor) -> bool:
        """Adds every element of a tensor to a row, if compiled code, which there must be, can read it where it lies; False,
        and nothing done, if that takes ``observe_``."""
        done = self.rows.read(row, tensor)
        return self._observe_large_(row, tensor) if done == host_compiled.LARGE else bool(done)

    def observe_(self, row: int, tensor: torch.Tensor) -> None:
        """Adds every element of a plain tensor to a row, now or later."""
        number = tensor.numel()
        if self.rows is None and number <= host_many.SMALL and tensor.dtype in host_many.DTYPES:
            self._wait(row, tensor)
        elif number <= host_compiled.SMALL:
            self._fold(row, tensor)
        else:
            self._observe_large_(row, tensor)

    def _observe_large_(self, row: int, tensor: torch.Tensor) -> bool:
        if tensor.is_inference():  # it has no version
            self._fold(row, tensor)
        elif self._last is None or not self._last.is_still(tensor) or not self._again(row, self._last.folded):
            folded, self._last = self._fold(row, tensor), None
            if folded:
                storage = weakref.ref(tensor.untyped_storage())
                self._last = _Seen(tensor.data_ptr(), tensor._version, _facts(tensor), storage, folded)
        return True

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

    def _fold(self, row: int, tensor: torch.Tensor) -> host.Folded | int | None:
        """Folds a tensor, and gives what ``_again`` takes, if anything."""
        folded = host_compiled.NOT_DONE if self.rows is None else host_compiled.fold(self.rows, row, tensor)
        return host.fold_(HostRow(*self._buffers, row), tensor.detach()) if folded == host_compiled.NOT_DONE else folded

    def _again(self, row: int, folded: host.Folded | int) -> bool:
        if isinstance(folded, int):
            return self.rows.again(row, folded)
        return host.again_(HostRow(*self._buffers, row), folded)


def _facts(tensor: torch.Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.is_neg()
