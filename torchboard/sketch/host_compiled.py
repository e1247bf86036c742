"""Folds tensors that lie in the host's memory by compiled code, the folder ``host_fold``, where that was built with the package.

It is two to seven times as fast as ``host`` and ``host_many``, which take over where there was no compiler, for element
types other than the four below, and for rows and magnitudes that need more care. Rows are the same whoever folds. Large
tensors are shared out among torch's own threads. About 1 us a call, and half of that for each of many tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from torchboard.sketch import host, host_many, layout, reference

_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_VERSION = 5_000_000 + 100 * layout.BINS + layout.SLOTS
"""Of the code that fits this file."""

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
Rows = Any
"""The compiled code's own view of these buffers. What it does without a look from Python:

* ``use(counts, moments, parameters)``: they lie there from now on;
* ``read(row, tensor)``: ``observe_`` of a plain dense tensor of floats without gaps; False, and nothing done, of another.
  The counts of a large tensor that is the one that was read before, which its memory and the version that autograd counts tell,
  are taken from there. What writes to memory behind autograd's back (through ``.data``, say) between the two is not noticed;
* ``read_times(row, tensor, times)``: the same, each element so many times;
* ``read_many(rows, tensors)``: the same of many, none of which is compared; gives the places of those that it did not read.
"""
Changes = Any
"""By how much tensors change. Made of them and of a step for each, it keeps every n-th element of those that can be read;

* ``left()`` gives the places of the others;
* ``read(rows, numbers)`` folds the change of each since into its row, -1 for none, and gives the places of those
  that need more care; a tensor that has other data since, of another size or type, is left out;
* ``values(place)`` then has one of these, as the bytes of floats, or of doubles if the tensor has doubles.
"""


def _load() -> Any:
    """The compiled code; None if it was not built, or was built from another version of the source."""
    try:
        library = import_module("torchboard.sketch._host_fold")
    except ImportError:
        return None
    if library.VERSION != _VERSION:
        return None
    lender = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # of newer versions of torch
    library.setup(torch.Tensor, torch.nn.Parameter, _TYPES, _keys, _DENSE, torch.get_num_threads, lender)
    return library


_library = _load()


def available() -> bool:
    """Whether there is compiled code."""
    return _library is not None


def rows_of(buffers: Buffers) -> Rows | None:
    """Rows that compiled code can add to; None without it."""
    return None if _library is None else _library.Rows(*buffers)


def changes_of(tensors: list[torch.Tensor], steps: list[int]) -> Changes | None:
    """Samples of tensors as they are, every n-th element of each in the order of its memory; None without compiled code."""
    return None if _library is None else _library.Changes(tensors, steps)


def squares_of(tensors: list[torch.Tensor]) -> list[float] | None:
    """The sum of the squares of each tensor's elements, in double precision; None if one of them is no plain dense tensor of
    floats without gaps in the host's memory, or there is no compiled code."""
    return None if _library is None else _library.squares(tensors)


def widen_(low: torch.Tensor, high: torch.Tensor, tensor: torch.Tensor, inner: int) -> bool:
    """Widens ranges, float32[units] both, by the values of a tensor; False, and nothing done, unless all three are plain dense
    tensors of float32 without gaps in the host's memory, and there is compiled code. NaN remains.

    Args:
        low: the least value of each unit so far, +inf at first.
        high: the greatest, -inf at first.
        tensor: whose units are ``inner`` elements each, one after another, again and again.
        inner: how many.
    """
    return _library is not None and _library.widen(tensor, inner, low, high)


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements of a tensor lie in the host's memory as they are, whatever its strides."""
    return _keys(tensor).raw_repr() in _DENSE


def observe_(
    counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor, row: int, tensor: torch.Tensor
) -> None:
    """Adds every element of a tensor to one row; arguments as in ``reference.observe_``, the buffers contiguous."""
    rows = rows_of((counts, moments, parameters))
    if rows is None or not read_(rows, row, tensor):
        host.observe_(counts, moments, parameters, row, tensor)


def observe_many_(
    counts: torch.Tensor,
    moments: torch.Tensor,
    parameters: torch.Tensor,
    rows: Sequence[int],
    tensors: Sequence[torch.Tensor],
) -> None:
    """``observe_`` for each of the rows with the tensor beside it, in one call.

    Raises:
        IndexError: one of the rows is not there.
    """
    mine = rows_of((counts, moments, parameters))
    if mine is None:
        return host_many.observe_many_(counts, moments, parameters, rows, tensors)
    for place in mine.read_many(list(rows), list(tensors)):
        observe_(counts, moments, parameters, rows[place], tensors[place].detach())


def read_(rows: Rows, row: int, tensor: torch.Tensor) -> bool:
    """``rows.read``, of tensors with gaps too, and of such whose elements take part several times.

    Raises:
        IndexError: there is no such row.
    """
    if rows.read(row, tensor):
        return True
    if tensor.dtype not in _TYPES or tensor.is_contiguous() and not tensor.is_neg():
        return False
    kept, times = reference.storage_order(tensor)
    return rows.read_times(row, kept.contiguous(), times)
