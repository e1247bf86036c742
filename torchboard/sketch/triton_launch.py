"""Folds many tensors into rows with the kernels: what each launch reads, and how many launches that takes.

For the tensors of one element type there is one upload of records, 32 bytes a segment, out of pinned memory, one launch
for all tensors of at most ``triton_kernels.SMALL`` elements, and two for all larger ones: the choice of pivots and
scales, and the fold. A third one is for tensors, usually none, whose first element does not lie at a multiple of
``ALIGNMENT`` bytes. Nothing waits for the device, and nothing is allocated there but the records, and copies of tensors
that are neither dense nor expanded from dense ones.

A tensor of more than 2**31 elements is as many segments as it takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from torchboard.sketch import layout, reference, triton_compact, triton_elements
from torchboard.sketch import triton_kernels as kernels

TRITON = kernels.VERSION
"""Major and minor number of the Triton at hand."""

ALIGNMENT = 16
"""Bytes that one load instruction brings at most."""
SEGMENT, LONG_SEGMENT = 1 << 16, 1 << 18
"""Elements of a segment, where there is little to read and where there is much. A long one spreads the cost of adding
its table to the row over more of them; a short one leaves work for every processor."""
MUCH = 1 << 26
"""Elements in all from which on segments are long: that is 256 long ones."""

_ADDRESS, _NUMBER, _ROW, _TIMES = range(4)
_SMALL = kernels.SMALL.value

Buffers = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Counts, moments and parameters, contiguous; see ``reference.observe_``."""


def supports(dtype: torch.dtype) -> bool:
    """Whether the kernels read this element type."""
    return _name(dtype) in triton_elements.ELEMENTS


def observe_many_(buffers: Buffers, rows: Sequence[int], tensors: Sequence[torch.Tensor]) -> None:
    """Adds every element of each tensor to the row beside it, as ``reference.observe_`` does one by one.

    Args:
        buffers: the rows, on the device of the tensors.
        rows: one a tensor; a row that is named again waits for its turn in further launches.
        tensors: strided, of any layout, of element types that ``supports`` names.
    """
    with _current(buffers[0].device):
        for dtype, flats, records in _batches(rows, tensors):
            _fold(buffers, dtype, records)
            del flats  # the device may use their memory again once the launches above are through


def pack(counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """``compact.pack`` by its kernel, for contiguous rows."""
    with _current(counts.device):
        return triton_compact.pack(counts, moments, parameters)


def probe(device: torch.device, dtype: torch.dtype) -> None:
    """Compiles the kernels for an element type and runs each of them once, on rows of its own.

    Takes a second or two where nothing is in Triton's cache.

    Raises:
        Exception: whatever goes wrong in Triton, its compilers or the driver.
    """
    with torch.inference_mode(False):
        elements = torch.zeros((_SMALL + 2) * dtype.itemsize, dtype=torch.uint8, device=device).view(dtype)
        observe_many_(_scrap_rows(device), [0, 1, 2], [elements[:1], elements[:-1], elements[1:]])


def probe_packing(device: torch.device) -> None:
    """Likewise for the kernel that packs rows."""
    with torch.inference_mode(False):
        pack(*_scrap_rows(device))


def _scrap_rows(device: torch.device) -> Buffers:
    widths = (layout.BINS, torch.int64), (layout.SLOTS, torch.float64), (layout.PARAMETERS, torch.float64)
    return tuple(torch.zeros(3, width, dtype=dtype, device=device) for width, dtype in widths)


def _current(device: torch.device) -> contextlib.AbstractContextManager:
    """Makes a device the one that Triton launches on."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _batches(
    rows: Sequence[int], tensors: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.dtype, list[torch.Tensor], np.ndarray]]:
    """The tensors by element type, with their records int64[n, FIELDS]; no row twice in one batch."""
    turns: dict[int, int] = {}
    batches: dict[tuple[int, torch.dtype], tuple[list[torch.Tensor], list[tuple[int, int, int, int]]]] = {}
    for row, tensor in zip(rows, tensors, strict=True):
        flat, times = reference.storage_order(tensor)
        flat = flat.contiguous()
        if flat.numel() and times:
            turns[row] = turn = turns.get(row, -1) + 1
            flats, records = batches.setdefault((turn, flat.dtype), ([], []))
            flats.append(flat)
            records.append((flat.data_ptr(), flat.numel(), row, times))
    for (_, dtype), (flats, records) in sorted(batches.items(), key=lambda batch: batch[0][0]):
        yield dtype, flats, np.array(records, np.int64)


def _fold(buffers: Buffers, dtype: torch.dtype, records: np.ndarray) -> None:
    small = records[:, _NUMBER] <= _SMALL
    large = records[~small]
    segments = segments_of(large, dtype.itemsize)
    aligned = segments[:, _ADDRESS] % ALIGNMENT == 0
    parts = [records[small], large, segments[aligned], segments[~aligned]]
    few, wholes, straight, askew = _upload(parts, buffers[0].device)
    element = triton_elements.ELEMENTS[_name(dtype)]
    _launch(kernels.fold_small_kernel, few, buffers, element, num_warps=kernels.SMALL_WARPS)
    _launch(kernels.choose_kernel, wholes, buffers[2:], element, num_warps=kernels.SMALL_WARPS)
    for table, alignment in ((straight, ALIGNMENT), (askew, dtype.itemsize)):
        _launch(kernels.fold_kernel, table, buffers, element, ALIGNMENT=alignment, num_warps=kernels.WARPS)


def segments_of(records: np.ndarray, item_bytes: int) -> np.ndarray:
    """Records int64[n, FIELDS] of tensors cut into records of segments, in order."""
    size = LONG_SEGMENT if records[:, _NUMBER].sum() >= MUCH else SEGMENT
    pieces = -(-records[:, _NUMBER] // size)
    segments = np.repeat(records, pieces, axis=0)
    start = (np.arange(len(segments)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * size
    segments[:, _ADDRESS] += start * item_bytes
    segments[:, _NUMBER] = np.minimum(segments[:, _NUMBER] - start, size)
    return segments


def _upload(parts: list[np.ndarray], device: torch.device) -> tuple[torch.Tensor, ...]:
    """Tables of records on the device, as views of one copy."""
    table = torch.from_numpy(np.concatenate(parts))
    if device.type == "cuda":
        table = table.pin_memory().to(device, non_blocking=True)
    return table.split([len(part) for part in parts])


def _launch(kernel, records: torch.Tensor, buffers: Sequence[torch.Tensor], element, **options: int) -> None:
    """One program a record. Products and sums stay two roundings, as they are in ``reference``."""
    if len(records):
        kernel[(len(records),)](records, *buffers, ELEMENT=element, enable_fp_fusion=False, **options)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
