"""The rows of one device: what hooks fold tensors into, and what is handed over when it is time to look.

A row takes 32 KiB on the device. Nothing here waits for it: ``observe_`` launches, and ``read`` gives away the
buffers themselves and goes on with fresh ones, so that whoever reads may copy them at leisure while the next tensors
are folded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from torchboard.errors import InvalidValueError
from torchboard.sketch import host_compiled, layout, merging, ops, reference, sampling
from torchboard.sketch.host_table import HostFolds
from torchboard.sketch.rows import TableRows

_PLAIN = {torch.Tensor, torch.nn.Parameter}
_REAL = {
    kind
    for kind in vars(torch).values()
    if isinstance(kind, torch.dtype) and not kind.is_complex and not str(kind).startswith("torch.q")
}
"""Element types that are numbers."""


class SketchTable:
    """Rows of sketches on one device, each of them filled by ``observe_`` and all of them taken by ``read``.

    Args:
        device: where the tensors to observe are.
        max_elements: how much ``observe_`` reads of a tensor, see ``sampling``; None for all of it.

    Attributes:
        sampled: row -> how many elements were read of a tensor of how many, of the last that was sampled.
    """

    def __init__(self, device: torch.device | str = "cpu", max_elements: int | None = None) -> None:
        self.sampled: dict[int, tuple[int, int]] = {}
        self._most = max_elements
        self._rows = 0
        self._buffers = blank_rows(0, torch.device(device))
        self.device = self._buffers.counts.device
        """Where the rows are, with the index that torch gave it."""
        self._host = HostFolds(self._buffers.buffers) if self.device.type == "cpu" else None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._rows

    @property
    def nbytes(self) -> int:
        """Bytes held on the device, rows in reserve included."""
        return self._buffers.nbytes

    def add_row(self) -> int:
        """One more row, empty; gives its number. Copies the table on the device at every power of two."""
        if self._rows == self._buffers.rows:
            if self._host is not None:
                self._host.settle_()
            grown = blank_rows(max(4, 2 * self._rows), self.device)
            for new, old in zip(grown.buffers, self._buffers.buffers):
                new[: self._rows].copy_(old)
            if self._host is not None:
                self._host.use_(grown.buffers)
            self._buffers = grown
        self._rows += 1
        return self._rows - 1

    def observe_(self, row: int, tensor: torch.Tensor) -> None:
        """Adds every element of a tensor to a row; an empty tensor adds nothing.

        The first tensor with a finite element decides the row's pivot and scale until the next ``clear_`` or ``read``.
        One pass over the data, or a few of them within the cache; no wait for the device, and nothing for autograd.

        Args:
            row: a number that ``add_row`` gave.
            tensor: real and strided, of any shape, element type and memory layout, on the table's device.

        Raises:
            InvalidValueError: a complex, sparse, quantised or meta tensor, or one on another device.
        """
        direct = self._host is not None and not torch.compiler.is_compiling() and _is_plain(tensor)
        if direct and (read := self.reader(row)) is not None and read(tensor):
            return
        _check(tensor, self.device)
        tensor = tensor.detach()
        if self._most is not None and tensor.numel() > self._most:
            whole, tensor = tensor.numel(), sampling.blocks_of(tensor, self._most)
            if tensor.numel() < whole:
                self.sampled[row] = tensor.numel(), whole
        if not direct:
            ops.observe_(*self._buffers.buffers, row, tensor)
        elif not 0 <= row < self._rows:
            raise IndexError(f"there is no row {row} in {self._rows} rows")
        else:
            self._host.observe_(row, tensor)

    def observe_many_(self, rows: Sequence[int], tensors: Sequence[torch.Tensor]) -> None:
        """``observe_`` for each of the rows with the tensor beside it, in a few launches for all of them together."""
        for _, tensor in zip(rows, tensors, strict=True):
            _check(tensor, self.device)
        if self._host is not None and not torch.compiler.is_compiling() and not torch._C._len_torch_dispatch_stack():
            left = self.read_many_([*rows], [*tensors])
            rows, tensors = [rows[place] for place in left], [tensors[place].detach() for place in left]
        if rows:
            ops.observe_many_(*self._buffers.buffers, rows, tensors)

    def reader(self, row: int) -> Callable[[torch.Tensor], bool] | None:
        """What folds one tensor after another into a row in as few steps as can be, outside of modes and of code that is being
        compiled. It gives False, and does nothing, where that takes ``observe_``. None where it would always be so."""
        compiled = self._host is not None and self._host.rows is not None and self._most is None
        return partial(self._host.rows.read, row) if compiled and row < self._rows else None

    def read_many_(self, rows: list[int], tensors: list[torch.Tensor]) -> list[int]:
        """Folds those of the tensors that compiled code can read where they lie into the row beside them, outside of modes and
        of code that is being compiled; gives the places of the others."""
        if self._host is None or self._host.rows is None:
            return [*range(len(tensors))]
        if rows and not 0 <= min(rows) <= max(rows) < self._rows:
            raise IndexError(f"there are {self._rows} rows, and not all of {rows}")
        return self._host.rows.read_many(rows, tensors)

    def read_changes_(self, rows: list[int], changes: host_compiled.Changes) -> list[int]:
        """Folds by how much tensors have changed into the row beside each, -1 for none; gives the places of those for which
        that takes ``observe_``. The table is the host's."""
        return changes.read(self._host.rows, rows)

    def read(self) -> TableRows:
        """Hands over all rows and goes on with empty ones. Copies nothing; the caller owns what it gets."""
        self._settle_()
        taken = TableRows(*(buffer[: self._rows] for buffer in self._buffers.buffers))
        self._buffers = blank_rows(self._buffers.rows, self.device)
        if self._host is not None:
            self._host.use_(self._buffers.buffers)
        return taken

    def clear_(self) -> None:
        """Empties all rows, in place."""
        if self._host is not None:
            self._host.forget()
        _clear_(self._buffers)

    def agree_(self, rows: Sequence[int], tensors: Sequence[torch.Tensor], group: Any = None) -> None:
        """Gives empty rows the pivots and scales that the ranks' tensors together call for, so that they merge exactly.

        For shards of one tensor, before they are observed. Collective: every rank of the group calls it with its parts
        of the same tensors, empty ones too; two all-reduces of a few numbers a row. Never from a hook.

        Args:
            rows: numbers that ``add_row`` gave, of rows that are empty.
            tensors: one a row, as for ``observe_``.
            group: a process group of ``torch.distributed``; the default one if None.
        """
        for _, tensor in zip(rows, tensors, strict=True):
            _check(tensor, self.device)
        self._settle_()
        with torch.no_grad():
            agreed = merging.agreed_parameters(tensors, group)
            index = torch.tensor(rows, device=self.device)
            self._buffers.parameters.index_copy_(0, index, agreed)

    def all_merge_(self, group: Any = None) -> None:
        """Replaces every row by what all ranks of a group have in that row together.

        Exact where ranks have the same pivot, as after ``agree_``; ``merging`` says what else may happen. Collective:
        every rank calls it, at the same step, with the same rows in the same order; four all-reduces, 32 KiB a row in
        all. Never from a hook. Rows that are merged have to be read or cleared before they are merged again.

        Args:
            group: a process group of ``torch.distributed``; the default one if None.
        """
        self._settle_()
        mine = TableRows(*(buffer[: self._rows] for buffer in self._buffers.buffers))
        merged = merging.all_merge(mine, group)
        for buffer, new in zip(mine.buffers, merged.buffers):
            buffer.copy_(new)

    def _settle_(self) -> None:
        """Everything observed is in the rows."""
        if self._host is not None:
            self._host.settle_()
            self._host.forget()


def sketch_of(tensor: torch.Tensor) -> TableRows:
    """One tensor as one row on its own device.

    Raises:
        InvalidValueError: as ``SketchTable.observe_``.
    """
    _check(tensor, tensor.device)
    rows = blank_rows(1, tensor.device)
    ops.observe_(*rows.buffers, 0, tensor)
    return rows


def blank_rows(rows: int, device: torch.device) -> TableRows:
    """Empty rows in ordinary tensors, whatever mode the caller is in; rows without a pivot."""
    wide = reference.wide_dtype(device)
    with torch.inference_mode(False):
        blank = TableRows(
            torch.empty(rows, layout.BINS, dtype=torch.int64, device=device),
            torch.empty(rows, layout.SLOTS, dtype=wide, device=device),
            torch.empty(rows, layout.PARAMETERS, dtype=wide, device=device),
        )
        _clear_(blank)
    return blank


def _clear_(rows: TableRows) -> None:
    for buffer in rows.buffers:
        buffer.zero_()
    rows.moments[:, layout.ADDITIVE :].fill_(-torch.inf)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether no mode and no subclass wants to see what is done with a tensor."""
    return type(tensor) in _PLAIN and not torch._C._len_torch_dispatch_stack()


def _check(tensor: torch.Tensor, device: torch.device) -> None:
    if tensor.dtype in _REAL and tensor.layout is torch.strided and tensor.device == device and not tensor.is_meta:
        return
    if tensor.is_complex():
        _refuse(tensor, "complex numbers have no order", "observe its real and imaginary parts, or its magnitude")
    if tensor.layout != torch.strided:
        _refuse(tensor, "only strided tensors can be read in place", "observe its values()")
    if tensor.is_quantized:
        _refuse(tensor, "quantised numbers are codes, not values", "observe its dequantize()")
    if tensor.device.type == "meta":
        _refuse(tensor, "a meta tensor has no data", "materialise it first")
    if tensor.device != device:
        _refuse(tensor, f"the table is on {device}", "use a table of the tensor's own device")


def _refuse(tensor: torch.Tensor, wrong: str, remedy: str) -> None:
    came = f"a {tensor.dtype} tensor, {tensor.layout}, of shape {list(tensor.shape)} on {tensor.device}"
    raise InvalidValueError(came, wrong, remedy)
