"""Folds tensors that lie in the host's memory by compiled code, the folder ``host_fold``, where that was built with the package.

It is two to seven times as fast as ``host`` and ``host_many``, which take over where there was no compiler, for element
types other than the four below, and for rows and magnitudes that need more care. Rows are the same whoever folds. Large
tensors are shared out among torch's own threads. About 2 us a call.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

from torchboard.sketch import host, host_many, layout, reference

NOT_DONE = -1
"""What ``fold`` gives where ``host`` has to do it."""
SMALL = 1 << 14
"""Most elements of a tensor that ``again`` does not know: to fold it takes no longer than to ask."""
_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_VERSION = 2_000_000 + 100 * layout.BINS + layout.SLOTS
"""Of the code that fits this file."""

_NUMBERS = 5
"""That describe a tensor of many: its row, its address, its elements, their type, and how many times each counts."""

Buffers = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Counts, moments and parameters, contiguous; see ``reference.observe_``."""


def _load() -> ctypes.PyDLL | None:
    """The compiled code; None if it was not built, or was built from another version of the source.

    Calls keep the interpreter's lock: to give it away and fight for it again would take longer than most folds.
    """
    here = Path(__file__).parent
    for path in (here / f"_host_fold{suffix}" for suffix in EXTENSION_SUFFIXES):
        try:
            library = ctypes.PyDLL(str(path))
            library.torchboard_fold_version.restype = ctypes.c_int64
            if library.torchboard_fold_version() == _VERSION:
                return _declared(library)
        except (OSError, AttributeError):
            continue
    return None


def _declared(library: ctypes.PyDLL) -> ctypes.PyDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    row = [pointer, pointer, pointer, number]
    library.torchboard_fold.restype = library.torchboard_fold_again.restype = number
    library.torchboard_fold.argtypes = [*row, pointer, number, ctypes.c_int, number, ctypes.c_int]
    library.torchboard_fold_again.argtypes = [*row, number]
    library.torchboard_fold_many.restype = number
    library.torchboard_fold_many.argtypes = [*row[:3], pointer, number, ctypes.c_int]
    return library


_library = _load()


def available() -> bool:
    """Whether there is compiled code."""
    return _library is not None


def observe_(
    counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor, row: int, tensor: torch.Tensor
) -> None:
    """Adds every element of a tensor to one row; arguments as in ``reference.observe_``, the buffers contiguous."""
    if fold((counts, moments, parameters), row, tensor) == NOT_DONE:
        host.observe_(counts, moments, parameters, row, tensor)


def observe_many_(
    counts: torch.Tensor,
    moments: torch.Tensor,
    parameters: torch.Tensor,
    rows: Sequence[int],
    tensors: Sequence[torch.Tensor],
) -> None:
    """``observe_`` for each of the rows with the tensor beside it, in one call."""
    if _library is None:
        return host_many.observe_many_(counts, moments, parameters, rows, tensors)
    folds, read, left = array("q"), [], []
    for row, tensor in zip(rows, tensors, strict=True):
        what = _described(counts, row, tensor)
        if what is None:
            left.append((row, tensor))
        else:
            read.append((row, what[0]))  # a copy, if it is one, lives until it has been read
            folds.extend((row, what[0].data_ptr(), *what[1:]))
    addresses = counts.data_ptr(), moments.data_ptr(), parameters.data_ptr(), folds.buffer_info()[0]
    if _library.torchboard_fold_many(*addresses, len(read), torch.get_num_threads()):
        left += (pair for pair, row in zip(read, folds[::_NUMBERS]) if row < 0)
    for row, tensor in left:
        host.observe_(counts, moments, parameters, row, tensor)


def fold(buffers: Buffers, row: int, tensor: torch.Tensor) -> int:
    """Adds every element of a tensor to a row.

    Returns:
        A number for ``again``, 0 if the tensor is not worth it, and ``NOT_DONE``, where nothing was done.

    Raises:
        IndexError: there is no such row.
    """
    counts, moments, parameters = buffers
    what = _described(counts, row, tensor) if _library is not None else None
    if what is None:
        return NOT_DONE
    rows = counts.data_ptr(), moments.data_ptr(), parameters.data_ptr(), row
    return _library.torchboard_fold(*rows, what[0].data_ptr(), *what[1:], torch.get_num_threads())


def _described(counts: torch.Tensor, row: int, tensor: torch.Tensor) -> tuple[torch.Tensor, int, int, int] | None:
    """A tensor without gaps, its elements, their type, and how often each of them counts; None where ``host`` has to fold."""
    kind = _TYPES.get(tensor.dtype)
    if kind is None:
        return None
    if not 0 <= row < counts.shape[0]:
        raise IndexError(f"there is no row {row} in {counts.shape[0]} rows")
    times = 1
    if not tensor.is_contiguous() or tensor.is_neg():
        tensor, times = reference.storage_order(tensor)
        tensor = tensor.contiguous()
    return tensor, tensor.numel() if times else 0, kind, times


def again(buffers: Buffers, row: int, folded: int) -> bool:
    """Adds to a row what ``fold`` has added to another one, if that was this thread's last large tensor and the row looks at
    numbers in the same way; False, and nothing done, if not."""
    counts, moments, parameters = buffers
    rows = counts.data_ptr(), moments.data_ptr(), parameters.data_ptr(), row
    return _library is not None and bool(_library.torchboard_fold_again(*rows, folded))
