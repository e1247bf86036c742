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
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import _disable_current_modes

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

_keys = torch._C._dispatch_keys
_DENSE = set()
with _disable_current_modes():
    for _mode in (False, True):
        with torch.inference_mode(_mode):
            _DENSE.add(_keys(torch.empty(0, device="cpu")).raw_repr())
"""What torch dispatches on of a tensor whose elements lie in the host's memory as they are: one that is no wrapper, neither
sparse nor nested nor quantised, and not to be negated or conjugated when it is read."""

Buffers = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Counts, moments and parameters, contiguous; see ``reference.observe_``."""
Addresses = tuple[int, int, int]
"""Theirs in memory."""


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


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements of a tensor lie in the host's memory as they are, whatever its strides."""
    return _keys(tensor).raw_repr() in _DENSE


def _kind_as_it_lies(tensor: torch.Tensor) -> int | None:
    """The element type of a tensor that compiled code can read where it lies; None of another."""
    kind = _TYPES.get(tensor.dtype)
    return kind if kind is not None and is_dense(tensor) and tensor.is_contiguous() else None


def read_(rows: Addresses, row: int, tensor: torch.Tensor) -> bool:
    """``observe_`` of a small dense tensor of floats without gaps, in as few steps as can be; False, and nothing done, of
    another. There must be compiled code, and the row."""
    kind = _kind_as_it_lies(tensor)
    if kind is None:
        return False
    number = tensor.numel()
    return number <= SMALL and _library.torchboard_fold(*rows, row, tensor.data_ptr(), number, kind, 1, 1) != NOT_DONE


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
    check_rows(rows, len(counts))
    folds, left = described(rows, tensors)
    left += fold_many_((counts, moments, parameters), folds)
    for place in left:
        observe_(counts, moments, parameters, rows[place], tensors[place].detach())


def check_rows(rows: Sequence[int], present: int) -> None:
    """All of the rows are among those present.

    Raises:
        IndexError: one is not.
    """
    if rows and not (0 <= min(rows) and max(rows) < present):
        raise IndexError(f"there are {present} rows, and not all of {list(rows)}")


class Folds(NamedTuple):
    """Five numbers for each tensor, and which of many it is."""

    numbers: array
    places: list[int]


def described(rows: Sequence[int], tensors: Sequence[torch.Tensor]) -> tuple[Folds, list[int]]:
    """For ``fold_many_``, of those tensors that ``read_`` would read, of any size; and the places of the others."""
    numbers, places, left = array("q"), [], []
    for place, (row, tensor) in enumerate(zip(rows, tensors, strict=True)):
        kind = _kind_as_it_lies(tensor) if _library is not None else None
        if kind is None:
            left.append(place)
        else:
            numbers.extend((row, tensor.data_ptr(), tensor.numel(), kind, 1))
            places.append(place)
    return Folds(numbers, places), left


def fold_many_(buffers: Buffers, folds: Folds) -> list[int]:
    """Adds every element of each tensor to its row, which must be there, in one call; gives the places of those that need
    more care. The tensors must still be there."""
    numbers, places = folds
    if not places:
        return []
    addresses = *(buffer.data_ptr() for buffer in buffers), numbers.buffer_info()[0]
    if not _library.torchboard_fold_many(*addresses, len(places), torch.get_num_threads()):
        return []
    return [place for place, row in zip(places, numbers[::_NUMBERS]) if row < 0]


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
