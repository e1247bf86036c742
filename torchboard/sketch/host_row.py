"""A row of a sketch in the host's own memory: its figures and parameters are read and written as Python numbers.

No tensor operation is launched for them, which for a small tensor would be most of the work.
"""

from __future__ import annotations

import ctypes
import math

import torch

from torchboard.sketch import layout, reference

_Figures, _Parameters = ctypes.c_double * layout.SLOTS, ctypes.c_double * layout.PARAMETERS


class HostRow:
    """One row of a table.

    Args:
        counts, moments, parameters: contiguous buffers on the CPU, as ``reference.observe_`` takes them.
        row: which row.

    Raises:
        IndexError: there is no such row.

    Attributes:
        counts: int64[layout.BINS], the row's own memory.
        pivot, scale, kind: its parameters; ``settle`` changes them.
    """

    __slots__ = ("counts", "pivot", "scale", "kind", "_figures", "_parameters", "_buffers")

    def __init__(self, counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor, row: int) -> None:
        if not 0 <= row < counts.shape[0] or not counts.shape[0] == moments.shape[0] == parameters.shape[0]:
            raise IndexError(f"there is no row {row} in {counts.shape[0]} rows")
        self._buffers = counts, moments, parameters, row
        self.counts = counts[row]
        self._figures = _Figures.from_address(moments.data_ptr() + row * ctypes.sizeof(_Figures))
        self._parameters = _Parameters.from_address(parameters.data_ptr() + row * ctypes.sizeof(_Parameters))
        self.pivot, self.scale, self.kind = self._parameters

    def is_all_spike(self) -> bool:
        """Whether all that it met is finite and equals its pivot, or nothing: then any scale fits what is in it."""
        low, high = -self._figures[layout.NEGATED_MIN], self._figures[layout.MAX]
        return low == high == self.pivot or low > high

    def innermost(self) -> tuple[int, int]:
        """Counts of the innermost bins, right and left."""
        right, left = (
            ctypes.c_int64.from_address(self.counts.data_ptr() + 8 * place).value for place in (0, layout.SIDE)
        )
        return right, left

    def take_spike(self, right: int, left: int) -> None:
        """Takes what belongs to the spike out of the innermost bins."""
        self.counts[0] -= right
        self.counts[layout.SIDE] -= left

    def settle(self, pivot: float, scale: float, kind: int) -> None:
        """Gives the row its parameters."""
        self._parameters[:] = self.pivot, self.scale, self.kind = pivot, scale, kind

    def add(self, figures: list[float], low: float, high: float) -> None:
        """Adds figures in the order of the slots before ``layout.ADDITIVE``, and widens the extremes."""
        mine = self._figures
        for slot, figure in enumerate(figures):
            mine[slot] += figure
        mine[layout.NEGATED_MIN] = max(mine[layout.NEGATED_MIN], -low)
        mine[layout.MAX] = max(mine[layout.MAX], high)

    def become_floats(self) -> None:
        """Makes an exact row one of the kind ``FLOATS``; every count goes to the bin of its value."""
        if self.kind == layout.INTEGERS:
            bins = _float_bins_of_integers(int(math.log2(self.scale)))
            self.counts.copy_(torch.zeros_like(self.counts).index_add_(0, bins, self.counts))
        self.settle(self.pivot, self.scale, layout.FLOATS)

    def observe_by_reference(self, flat: torch.Tensor, times: int) -> None:
        """Adds a tensor the slow way, which is right for any float64."""
        counts, moments, parameters, row = self._buffers
        reference.observe_(counts, moments, parameters, row, flat.expand(times, -1) if times > 1 else flat)


def _float_bins_of_integers(exponent: int) -> torch.Tensor:
    """The bin of ``FLOATS`` of each bin of ``INTEGERS``, int64[layout.BINS], at the scale ``2**exponent``."""
    distance = torch.arange(layout.SIDE, dtype=torch.float64, device="cpu") * 2.0**exponent
    side = reference.code(distance.clamp_(layout.LOWEST, layout.HIGHEST))
    return torch.cat([side, side + layout.SIDE])
