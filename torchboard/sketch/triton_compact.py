"""The kernel that packs rows on their device: what ``compact.pack`` does, in one launch for all rows.

One program a row. It reads the row's 32 KiB of counts once and writes the bins that hold something one behind another
into scratch memory of the same size, most of which the caches keep. Then it goes twice through those *cells*, to see
whether the finer budget fits and to write the groups, 1.4 KB. The arithmetic that decides where groups end is float64,
operation for operation that of ``compact``, so that the words are the same.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from torchboard.sketch import compact, layout

WARPS = 8
CHUNK = tl.constexpr(1024)
"""Cells looked at together: 4 a thread."""

_BINS, _SIDE, _MANTISSA_BITS = map(tl.constexpr, (layout.BINS, layout.SIDE, layout.MANTISSA_BITS))
_MANTISSA_MASK = tl.constexpr((1 << layout.MANTISSA_BITS) - 1)
_LANES = tl.constexpr(1 << (layout.BINS - 1).bit_length())
_LOWEST_EXPONENT = tl.constexpr(1023 + layout.BINADES_ABOVE - layout.BINADES)
_SPIKE, _NEGATED_MIN, _MAX, _SLOTS = map(tl.constexpr, (layout.SPIKE, layout.NEGATED_MIN, layout.MAX, layout.SLOTS))
_PIVOT, _SCALE, _PARAMETERS = map(tl.constexpr, (layout.PIVOT, layout.SCALE, layout.PARAMETERS))
_HEAD, _GROUPS, _WORDS, _BIN_BITS = map(tl.constexpr, (compact.HEAD, compact.GROUPS, compact.WORDS, compact.BIN_BITS))
_BIN_MASK = tl.constexpr((1 << compact.BIN_BITS) - 1)
_FINE, _COARSE = map(tl.constexpr, map(float, compact.BUDGETS))
_SHRINK = tl.constexpr(compact.shrunk(1))


def pack(counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """``compact.pack`` of contiguous rows by the kernel; to be called with the rows' device as the current one."""
    packed = torch.zeros(len(counts), compact.WORDS, dtype=torch.int64, device=counts.device)
    if len(counts):
        cells = torch.empty_like(counts)
        pack_kernel[(len(counts),)](counts, moments, parameters, cells, packed, num_warps=WARPS, enable_fp_fusion=False)
    return packed


@triton.jit
def pack_kernel(counts, moments, parameters, cells, packed):
    """Packs one row a program."""
    row = tl.program_id(0).to(tl.int64)
    counts, cells, packed = counts + row * _BINS, cells + row * _BINS, packed + row * _WORDS
    moments, parameters = moments + row * _SLOTS, parameters + row * _PARAMETERS
    _copy(moments, packed, _SLOTS)
    _copy(parameters, packed + _SLOTS, _PARAMETERS)
    number = _gather(counts, cells)
    tl.debug_barrier()  # the cells are read by other threads than wrote them
    budget = tl.full([], _FINE, tl.float64)
    groups = tl.full([], 0, tl.int32)
    for start in range(0, number, CHUNK):
        groups += tl.sum(_ends(cells, start, number, moments, parameters, budget))
    budget = tl.where(groups <= _GROUPS, budget, _COARSE)
    groups = tl.full([], 0, tl.int32)
    lane = tl.arange(0, CHUNK)
    for start in range(0, number, CHUNK):
        ends = _ends(cells, start, number, moments, parameters, budget)
        cell = tl.load(cells + start + lane, mask=ends != 0, other=0)
        following = tl.load(cells + start + lane + 1, mask=start + lane + 1 < number, other=_BINS)
        word = (cell << _BIN_BITS) | (following & _BIN_MASK)
        tl.store(packed + _HEAD + groups + tl.cumsum(ends, 0), word, mask=ends != 0)
        groups += tl.sum(ends)
    first = tl.load(cells, mask=number > 0, other=_BINS) & _BIN_MASK
    tl.store(packed + _HEAD, (first << _BIN_BITS) | groups)


@triton.jit
def _gather(counts, cells):
    """Writes the cells in ascending order, the elements up to a bin's end before the bin's number, and counts them."""
    position = tl.arange(0, _LANES)
    place = tl.where(position < _SIDE, _BINS - 1 - position, position - _SIDE)
    count = tl.load(counts + place, mask=position < _BINS, other=0)
    held = (count > 0).to(tl.int32)
    cell = (tl.cumsum(count, 0) << _BIN_BITS) | position
    tl.store(cells + tl.cumsum(held, 0) - 1, cell, mask=count > 0)
    return tl.sum(held)


@triton.jit
def _ends(cells, start, number, moments, parameters, budget):
    """1 for those of ``CHUNK`` cells that end a group, else 0: where ``Histogram.from_bins`` cuts with this budget, and
    beside the spike."""
    index = start + tl.arange(0, CHUNK)
    none, last = index == 0, index == number - 1
    cell = tl.load(cells + index, mask=index < number, other=0)
    before = tl.load(cells + index - 1, mask=(index > 0) & (index < number), other=0)
    after = tl.load(cells + index + 1, mask=index + 1 < number, other=0)
    total = tl.load(cells + number - 1) >> _BIN_BITS
    position, previous = (cell & _BIN_MASK).to(tl.int32), (before & _BIN_MASK).to(tl.int32)
    following = (after & _BIN_MASK).to(tl.int32)
    spike = tl.load(moments + _SPIKE).to(tl.int64)
    behind, after_spike = position >= _SIDE, (spike > 0) & (position >= _SIDE) & (none | (previous < _SIDE))
    below, upto, beyond = before >> _BIN_BITS, cell >> _BIN_BITS, after >> _BIN_BITS
    many = 2 * (total + spike).to(tl.float64) / budget
    heavy = ((upto - below).to(tl.float64) >= many) | ((beyond - upto).to(tl.float64) >= many)
    low, high = -tl.load(moments + _NEGATED_MIN), tl.load(moments + _MAX)
    half = high / 2 - low / 2
    right = _half_edge(position + 1, low, high, parameters)
    hole = _half_edge(following, low, high, parameters) - right > half / budget
    origin = _half_edge(tl.where(after_spike, _SIDE, previous + 1), low, high, parameters)
    more = tl.where(behind, spike, 0)
    whole, shrunk = (total + spike).to(tl.float64), budget * _SHRINK
    crossed = tl.floor(((right - low / 2) / half + (upto + more).to(tl.float64) / whole) * shrunk)
    earlier = tl.floor(((origin - low / 2) / half + (below + more).to(tl.float64) / whole) * shrunk)
    crossing = crossed != tl.where(after_spike | (index > 0), earlier, 0.0)
    before_spike = (spike > 0) & (position < _SIDE) & (following >= _SIDE)
    return ((index < number) & (crossing | heavy | hole | before_spike | last)).to(tl.int32)


@triton.jit
def _half_edge(number, low, high, parameters):
    """Half of the edge left of the bin of this number, in ascending order, within the extremes."""
    pivot, scale = tl.load(parameters + _PIVOT), tl.load(parameters + _SCALE)
    distance = tl.abs(number - _SIDE)
    exponent = (distance >> _MANTISSA_BITS) + _LOWEST_EXPONENT
    mantissa = distance & _MANTISSA_MASK
    bits = (exponent.to(tl.int64) << 52) | (mantissa.to(tl.int64) << (52 - _MANTISSA_BITS))
    unit = tl.where(distance == 0, 0.0, bits.to(tl.float64, bitcast=True))
    unit = tl.where(distance >= _SIDE, float("inf"), unit)
    edge = tl.where(number < _SIDE, -unit, unit) / tl.where(scale == 0, 1.0, scale) + pivot
    return tl.minimum(tl.maximum(edge, low), high) / 2


@triton.jit
def _copy(source, target, WIDTH: tl.constexpr):
    """Up to 16 float64 as the words they are."""
    lane = tl.arange(0, 16)
    value = tl.load(source + lane, mask=lane < WIDTH, other=0.0)
    tl.store(target + lane, value.to(tl.int64, bitcast=True), mask=lane < WIDTH)
