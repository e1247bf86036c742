"""Rows cut down, on their device, to what a histogram of 64 buckets is made of: 1.4 KB a row instead of 32.

Neighbouring bins are put together into **groups**, where the mean of the two fractions, of the range and of the mass,
crosses a multiple of 1/128: twice as finely as ``Histogram.from_bins`` cuts, which makes of the groups what it makes of
the bins, to the last bit. Only where its first cut gives too many buckets, and it cuts again, may an edge be moved, by
1/128 of the range and mass at most. A row that would give more groups than there is room for, one with many spikes or
holes, is grouped by multiples of 1/64, which always fit. Edges are edges of bins and counts are whole either way.

A packed row is ``int64[WORDS]``: the bits of the moments and of the parameters, a word that says how many groups there
are and which is the first bin that holds something, and a word for each group: the elements up to its end without the
spike, its last bin, and the first bin of the next group, all in ascending order of the bins. A row holds up to 2**39
elements.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from torchboard.sketch import layout
from torchboard.values.histogram import MAX_BUCKETS

BUDGETS = (2 * MAX_BUCKETS, MAX_BUCKETS)
"""How finely rows are grouped: the first if that fits, else the second."""
HEAD = layout.SLOTS + layout.PARAMETERS
"""The word that says how many groups there are."""
GROUPS = MAX_BUCKETS + MAX_BUCKETS // 2 + MAX_BUCKETS + 1
"""Most groups: ended by a crossing, before a bin that takes a crossing by itself, before a hole, before the spike."""
WORDS = HEAD + 1 + GROUPS
BIN_BITS = 12
"""Bits of a bin's number in a word."""


def shrunk(budget: int) -> float:
    """What the sum of the two fractions is multiplied by; cut is where it then crosses a whole number."""
    return budget / 2 * (1 - 1e-12)


class Packed(NamedTuple):
    """One row as ``Histogram.from_bins`` takes it."""

    edges: np.ndarray  # float64[k + 1], ascending
    counts: np.ndarray  # int64[k]
    moments: np.ndarray  # float64[layout.SLOTS]
    parameters: np.ndarray  # float64[layout.PARAMETERS]


def unpack(words: np.ndarray) -> Packed:
    """One packed row, int64[WORDS]."""
    moments, parameters = np.split(words[:HEAD].view(np.float64), [layout.SLOTS])
    mask = (1 << BIN_BITS) - 1
    number, first = words[HEAD] & mask, words[HEAD] >> BIN_BITS
    groups = words[HEAD + 1 : HEAD + 1 + number]
    last, upto = (groups >> BIN_BITS) & mask, groups >> (2 * BIN_BITS)
    bins = np.stack([np.append(first, groups & mask)[:number], last + 1], axis=1)
    edges = layout.edges(parameters[layout.PIVOT], parameters[layout.SCALE])[bins.ravel()]
    counts = np.zeros(max(2 * int(number) - 1, 0), np.int64)
    counts[::2] = np.diff(upto, prepend=0)
    return Packed(edges, counts, moments, parameters)


def pack(counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """Rows of the kind ``FLOATS``, packed: int64[rows, WORDS] on their device. Waits for nothing.

    About 80 launches for all rows together, and some 20 times the memory of the counts meanwhile.

    Args:
        counts, moments, parameters: as of ``TableRows``, in float64.
    """
    cells = _Cells(counts, moments, parameters)
    fine, coarse = (cells.ends(budget) for budget in BUDGETS)
    end = torch.where(fine.sum(1, keepdim=True) <= GROUPS, fine, coarse)
    words = (cells.count.cumsum(1) << BIN_BITS | cells.position) << BIN_BITS | cells.next
    place = torch.where(end, HEAD + end.cumsum(1), WORDS)
    packed = torch.zeros(len(counts), WORDS + 1, dtype=torch.int64, device=counts.device).scatter_(1, place, words)
    packed[:, : layout.SLOTS] = moments.view(torch.int64)
    packed[:, layout.SLOTS : HEAD] = parameters.view(torch.int64)
    first = torch.where(cells.held, cells.position, layout.BINS).amin(1)
    packed[:, HEAD] = first << BIN_BITS | end.sum(1)
    return packed[:, :WORDS].contiguous()


class _Cells:
    """The bins of rows in ascending order, [rows, BINS] each; what a whole row has in common is [rows, 1].

    Positions are halved, so that no difference overflows, and lie within the extremes.
    """

    def __init__(self, counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor) -> None:
        self.position = torch.arange(layout.BINS, device=counts.device)
        self.count = torch.cat([counts[:, layout.SIDE :].flip(1), counts[:, : layout.SIDE]], dim=1)
        self.held = self.count > 0
        self.previous, self.next = _neighbours(self.held, self.position)
        spike = moments[:, layout.SPIKE, None].long()
        self.spike = torch.where(self.position >= layout.SIDE, spike, 0)
        """How many elements of the spike lie below: all or none."""
        self.spiked = spike > 0
        self.total = self.count.sum(1, keepdim=True) + spike
        low, high = -moments[:, layout.NEGATED_MIN, None], moments[:, layout.MAX, None]
        pivot, scale = parameters[:, layout.PIVOT, None], parameters[:, layout.SCALE, None]
        edges = _unit_edges(moments.device) / torch.where(scale == 0, 1.0, scale) + pivot
        edges = edges.maximum(low).minimum(high)
        self.left, self.right, self.middle = edges[:, :-1] / 2, edges[:, 1:] / 2, edges[:, layout.SIDE, None] / 2
        self.low, self.half = low / 2, high / 2 - low / 2

    def ends(self, budget: int) -> torch.Tensor:
        """Where groups end, bool[rows, BINS]: where ``from_bins`` cuts with this budget, and beside the spike."""
        following = self.next.clamp(max=layout.BINS - 1)
        upto = self.count.cumsum(1) + self.spike
        behind_spike = self.spiked & (self.position >= layout.SIDE) & (self.previous < layout.SIDE)
        before = torch.where(behind_spike, self.middle, self.right.gather(1, self.previous.clamp(min=0)))
        crossed_before = torch.where(
            behind_spike | (self.previous >= 0), self._crossed(before, upto - self.count, budget), 0.0
        )
        crossing = self._crossed(self.right, upto, budget) != crossed_before
        heavy = self.count >= 2 * self.total / budget
        hole = self.left.gather(1, following) - self.right > self.half / budget
        before_spike = self.spiked & (self.position < layout.SIDE) & (self.next >= layout.SIDE)
        ends = crossing | heavy | heavy.gather(1, following) | hole | before_spike | (self.next == layout.BINS)
        return self.held & ends

    def _crossed(self, right: torch.Tensor, upto: torch.Tensor, budget: int) -> torch.Tensor:
        return (((right - self.low) / self.half + upto / self.total.double()) * shrunk(budget)).floor()


def _neighbours(held: torch.Tensor, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each bin the next one that holds something on the left, or -1, and on the right, or BINS."""
    before = torch.where(held, position, -1).cummax(1).values
    after = torch.where(held, position, layout.BINS).flip(1).cummin(1).values.flip(1)
    first, last = torch.full_like(before[:, :1], -1), torch.full_like(after[:, :1], layout.BINS)
    return torch.cat([first, before[:, :-1]], dim=1), torch.cat([after[:, 1:], last], dim=1)


def _unit_edges(device: torch.device) -> torch.Tensor:
    """``layout.edges(0, 1)`` made on a device: float64[BINS + 1]."""
    number = torch.arange(-layout.SIDE, layout.SIDE + 1, device=device)
    distance, bits = number.abs(), layout.MANTISSA_BITS
    exponent = (distance >> bits) + 1023 + layout.BINADES_ABOVE - layout.BINADES
    mantissa = (distance & ((1 << bits) - 1)) << (52 - bits)
    unit = (exponent << 52 | mantissa).view(torch.float64)
    unit = torch.where(distance == 0, 0.0, torch.where(distance == layout.SIDE, torch.inf, unit))
    return torch.where(number < 0, -unit, unit)
