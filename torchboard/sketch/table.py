"""The rows of one device: what hooks fold tensors into, and what is handed over when it is time to look.

A row takes 32 KiB on the device. Nothing here waits for it: ``observe_`` launches, and ``read`` gives away the
buffers themselves and goes on with fresh ones, so that whoever reads may copy them at leisure while the next tensors
are folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from torchboard.errors import InvalidValueError
from torchboard.sketch import layout, ops, reference


@dataclass(frozen=True, eq=False)
class TableRows:
    """Rows as they lie on a device; ``layout`` says what is in them.

    Attributes:
        counts: int64[rows, layout.BINS].
        moments: float64[rows, layout.SLOTS]; float32 on a device without float64.
        parameters: like ``moments``, [rows, layout.PARAMETERS].
    """

    counts: torch.Tensor
    moments: torch.Tensor
    parameters: torch.Tensor

    @property
    def rows(self) -> int:
        return self.counts.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.counts.nbytes + self.moments.nbytes + self.parameters.nbytes


class SketchTable:
    """Rows of sketches on one device, each of them filled by ``observe_`` and all of them taken by ``read``.

    Args:
        device: where the tensors to observe are.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._rows = 0
        self._buffers = _blank(0, torch.device(device))
        self.device = self._buffers.counts.device
        """Where the rows are, with the index that torch gave it."""

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
            grown = _blank(max(4, 2 * self._rows), self.device)
            for new, old in zip(_tensors(grown), _tensors(self._buffers)):
                new[: self._rows].copy_(old)
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
        _check(tensor, self.device)
        ops.observe_(*_tensors(self._buffers), row, tensor)

    def observe_many_(self, rows: Sequence[int], tensors: Sequence[torch.Tensor]) -> None:
        """``observe_`` for each of the rows with the tensor beside it."""
        for row, tensor in zip(rows, tensors, strict=True):
            self.observe_(row, tensor)

    def read(self) -> TableRows:
        """Hands over all rows and goes on with empty ones. Copies nothing; the caller owns what it gets."""
        taken = TableRows(*(buffer[: self._rows] for buffer in _tensors(self._buffers)))
        self._buffers = _blank(self._buffers.rows, self.device)
        return taken

    def clear_(self) -> None:
        """Empties all rows, in place."""
        _clear_(self._buffers)


def sketch_of(tensor: torch.Tensor) -> TableRows:
    """One tensor as one row on its own device.

    Raises:
        InvalidValueError: as ``SketchTable.observe_``.
    """
    table = SketchTable(tensor.device)
    table.observe_(table.add_row(), tensor)
    return TableRows(*(buffer[:1] for buffer in _tensors(table.read())))


def _tensors(rows: TableRows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return rows.counts, rows.moments, rows.parameters


def _blank(rows: int, device: torch.device) -> TableRows:
    """Empty rows in ordinary tensors, whatever mode the caller is in."""
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
    for buffer in _tensors(rows):
        buffer.zero_()
    rows.moments[:, layout.ADDITIVE :].fill_(-torch.inf)


def _check(tensor: torch.Tensor, device: torch.device) -> None:
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
