"""``torch.ops.torchboard.observe_`` and ``observe_many_``: the fold of tensors into rows, as operators of torch.

Their schemas say what they change, so a compiled graph keeps them in place and in order. Autograd does not record them,
and under fake tensors they do nothing. About 2 us a call on top of the fold.

Which implementation folds: on the CPU ``host_compiled``; on CUDA and ROCm the kernels of ``triton_launch``, where Triton is at
hand and counts a histogram in shared memory, for the element types that they read; for all else, and inside the
capture of a CUDA graph, ``reference``. The first tensor of an element type on a device tries the kernels out on rows
of its own, which takes Triton some seconds the first time ever. If that fails there is one warning, and ``reference``
folds from then on: no exception leaves an operator that ``reference`` would not raise.

Importing this module declares the operators and does nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from torchboard.errors import TorchboardWarning
from torchboard.sketch import compact, host_compiled, reference

NEEDED_TRITON = (3, 8)
"""Before this version ``tl.histogram`` votes bit by bit instead of adding in shared memory: ten times the instructions
an element, and more than the registers hold."""

_library = torch.library.Library("torchboard", "FRAGMENT")
_ROWS = "Tensor(a!) counts, Tensor(b!) moments, Tensor(c!) parameters"
_library.define(f"observe_({_ROWS}, int row, Tensor tensor) -> ()")
_library.define(f"observe_many_({_ROWS}, int[] rows, Tensor[] tensors) -> ()")


def _observe_nothing(counts: Tensor, moments: Tensor, parameters: Tensor, row: int, tensor: Tensor) -> None:
    """Tensors without data: nothing to fold, and nothing to give."""


def _observe_nothings(
    counts: Tensor, moments: Tensor, parameters: Tensor, rows: Sequence[int], tensors: Sequence[Tensor]
) -> None:
    """Likewise."""


def _observe_many_anywhere(
    counts: Tensor, moments: Tensor, parameters: Tensor, rows: Sequence[int], tensors: Sequence[Tensor]
) -> None:
    for row, tensor in zip(rows, tensors, strict=True):
        reference.observe_(counts, moments, parameters, row, tensor)


def _observe_many_fast(
    counts: Tensor, moments: Tensor, parameters: Tensor, rows: Sequence[int], tensors: Sequence[Tensor]
) -> None:
    """By the kernels what they can read here, and the rest by ``reference``."""
    device, buffers = counts.device, (counts, moments, parameters)
    usable = all(buffer.is_contiguous() for buffer in buffers) and not _capturing(device)
    quick, slow = ([], []), ([], [])
    for row, tensor in zip(rows, tensors, strict=True):
        chosen = quick if usable and _trials.passed(device, tensor.dtype) else slow
        chosen[0].append(row)
        chosen[1].append(tensor)
    if quick[0]:
        _kernels().observe_many_(buffers, *quick)
    _observe_many_anywhere(*buffers, *slow)


def _observe_fast(counts: Tensor, moments: Tensor, parameters: Tensor, row: int, tensor: Tensor) -> None:
    _observe_many_fast(counts, moments, parameters, [row], [tensor])


def pack(counts: Tensor, moments: Tensor, parameters: Tensor) -> Tensor:
    """Rows that a device folded, cut down to what a histogram needs: int64[rows, compact.WORDS], see ``compact``.

    One launch where the kernels run, some 80 elsewhere; waits for nothing.
    """
    buffers = (counts, moments, parameters)
    usable = counts.is_cuda and all(buffer.is_contiguous() for buffer in buffers) and not _capturing(counts.device)
    if usable and _trials.passed(counts.device, None):
        return _kernels().pack(*buffers)
    return compact.pack(*buffers)


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@lru_cache(maxsize=1)
def _kernels() -> ModuleType:
    """The launcher of the kernels; imported, and Triton with it, when a device first asks."""
    from torchboard.sketch import triton_launch

    return triton_launch


class _Trials:
    """Which kernels have been tried on which device, and whether they passed."""

    def __init__(self) -> None:
        self._results: dict[tuple[torch.device, torch.dtype | None], bool] = {}
        self._warned = False

    def passed(self, device: torch.device, dtype: torch.dtype | None) -> bool:
        """The result of the trial of the kernels that fold this element type, or of the one that packs rows where that
        is None. It is made now if it has not been."""
        result = self._results.get((device, dtype))
        if result is None:
            result = self._results[device, dtype] = self._try(device, dtype)
        return result

    def _try(self, device: torch.device, dtype: torch.dtype | None) -> bool:
        try:
            kernels = _kernels()
            if kernels.TRITON < NEEDED_TRITON:
                return False
            if dtype is None:
                kernels.probe_packing(device)
            elif not kernels.supports(dtype):
                return False
            else:
                kernels.probe(device, dtype)
        except Exception as error:  # a compiler may fail with anything; training goes on
            self._warn(device, error)
            return False
        return True

    def _warn(self, device: torch.device, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            message = (
                f"sketches on {device} are made by torch's own operations, which are slower, because Triton failed"
            )
            warnings.warn(f"{message} ({reason})", TorchboardWarning, stacklevel=2)


_trials = _Trials()

_library.impl("observe_", torch.library.fallthrough_kernel, "Autograd")
_library.impl("observe_", reference.observe_, "CompositeExplicitAutograd")
_library.impl("observe_", host_compiled.observe_, "CPU")
_library.impl("observe_", _observe_fast, "CUDA")
_library.impl("observe_", _observe_nothing, "Meta")

_library.impl("observe_many_", torch.library.fallthrough_kernel, "Autograd")
_library.impl("observe_many_", _observe_many_anywhere, "CompositeExplicitAutograd")
_library.impl("observe_many_", host_compiled.observe_many_, "CPU")
_library.impl("observe_many_", _observe_many_fast, "CUDA")
_library.impl("observe_many_", _observe_nothings, "Meta")

observe_ = torch.ops.torchboard.observe_.default
"""Adds every element of ``tensor`` to one row of three buffers; see ``reference.observe_``."""
observe_many_ = torch.ops.torchboard.observe_many_.default
"""Adds every element of each of ``tensors`` to the row beside it in ``rows``."""
