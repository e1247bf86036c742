"""Merges rows of sketches: of tensors, of steps, of ranks. Bins add; what may differ is where they lie.

Rows are first brought to one kind, pivot and scale, then counts and sums are added and extremes compared. The result is
that of folding all the tensors into one row of that pivot and scale:

* equal pivots: exactly. Scales are powers of two and bins are binades cut in equal parts, so another scale is a shift by
  whole binades. (Overflow bins hold what is 2**24 times farther out than the tensor that chose the scale; where a merge
  brings it within reach, all of it goes to the bin of that side's extreme.)
* rows of integers: exactly, whatever their pivots, as long as they lie within reach of one; else as floats.
* different pivots: an element moves by no more than the width of one bin, since the middle of its bin stands for it.
  Zeros, extremes, counts and sums stay exact. The new pivot keeps the guarantee of ``layout`` for all the data.

Nothing waits for the device. Across ranks it takes four all-reduces: of 7 numbers a row, and of the rows themselves,
32 KiB each. Every rank must hold the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from torchboard.sketch import layout, reference
from torchboard.sketch.rows import TableRows

_FINEST = 2.0**1022
"""No scale is larger."""


def merge(parts: Sequence[TableRows]) -> TableRows:
    """All parts as one, row by row; each has the same number of rows, on the same device. The parts stay as they are."""
    target = _target(torch.stack([_ends(part) for part in parts]).amin(0))
    parts = [_rebinned(part, target) for part in parts]
    moments = torch.stack([part.moments for part in parts])
    ends = moments[..., layout.ADDITIVE :].amax(0)
    sums = moments[..., : layout.ADDITIVE].sum(0)
    counts = torch.stack([part.counts for part in parts]).sum(0)
    return TableRows(counts, torch.cat([sums, ends], 1), target)


def all_merge(rows: TableRows, group: Any = None) -> TableRows:
    """The same rows of every rank of a process group as one, on every rank. Collective; see ``SketchTable.all_merge_``."""
    from torch.distributed import ReduceOp, all_reduce

    ends = _ends(rows)
    all_reduce(ends, ReduceOp.MIN, group)
    target = _target(ends)
    moved = _rebinned(rows, target)
    sums, extremes = (part.contiguous() for part in moved.moments.tensor_split([layout.ADDITIVE], 1))
    all_reduce(moved.counts, ReduceOp.SUM, group)
    all_reduce(sums, ReduceOp.SUM, group)
    all_reduce(extremes, ReduceOp.MAX, group)
    return TableRows(moved.counts, torch.cat([sums, extremes], 1), target)


def agreed_parameters(tensors: Sequence[torch.Tensor], group: Any = None) -> torch.Tensor:
    """Pivots and scales for the parts that every rank holds of some tensors, float64[tensors, layout.PARAMETERS].

    Those that the whole tensors would get by the rules of ``layout``, from a sample of at most ``reference.SAMPLE``
    elements a rank. Collective, two all-reduces of [tensors, 3] numbers.
    """
    from torch.distributed import ReduceOp, all_reduce

    samples = [_sample(tensor) for tensor in tensors]
    ends = torch.stack([torch.stack([low, -high]) for _, low, high in samples])
    all_reduce(ends, ReduceOp.MIN, group)
    low, high = ends[:, 0], -ends[:, 1]
    sums = torch.stack([_sums(values - start) for (values, _, _), start in zip(samples, low)])
    all_reduce(sums, ReduceOp.SUM, group)
    number, total, squares = sums.unbind(1)
    mean = total / number
    std = (squares / number - mean.square()).clamp(min=0).sqrt()
    chosen = reference.choose(low, high, low + mean, std)
    return torch.nn.functional.pad(torch.where((low <= high).unsqueeze(1), chosen, 0.0), (0, 1))


def _sample(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Some elements as float64, all of them finite or NaN, and the least and the greatest; infinities for none."""
    flat, _ = reference.storage_order(tensor)
    values = reference.sample(flat).to(reference.wide_dtype(tensor.device))
    values = torch.where(values.abs() < torch.inf, values, torch.nan)
    nothing = values.new_tensor([torch.inf, -torch.inf])
    low = torch.cat([values.nan_to_num(torch.inf), nothing[:1]]).amin()
    high = torch.cat([values.nan_to_num(-torch.inf), nothing[1:]]).amax()
    return values, low, high


def _sums(offsets: torch.Tensor) -> torch.Tensor:
    """How many there are that are not NaN, their sum and that of their squares."""
    met = ~offsets.isnan()
    offsets = torch.where(met, offsets, 0.0)
    return torch.stack([met.sum().to(offsets.dtype), offsets.sum(), offsets.square().sum()])


def _ends(rows: TableRows) -> torch.Tensor:
    """What ranks take the minimum of, [rows, 7]: pivot and kind both ways, the scale, and the extremes.

    A row that met nothing finite leaves everything to the others, one that met nothing but its pivot the scale.
    """
    pivot, scale, kind = rows.parameters.unbind(1)
    negated_low, high = rows.moments[:, layout.ADDITIVE :].unbind(1)
    scale = torch.where((-negated_low == pivot) & (high == pivot), _FINEST, scale)
    ends = torch.stack([pivot, -pivot, kind, -kind, scale, -negated_low, -high], dim=1)
    return torch.where((rows.parameters[:, layout.SCALE :][:, :1] == 0), torch.inf, ends)


def _target(ends: torch.Tensor) -> torch.Tensor:
    """The kind, pivot and scale that fit all, [rows, layout.PARAMETERS]; zeros where nobody met a finite element."""
    least, negated_most, kind, negated_kind, scale, low, negated_high = ends.unbind(1)
    met, high = scale < torch.inf, -negated_high
    one_kind = kind == -negated_kind
    whole = one_kind & (kind == layout.INTEGERS)
    within = torch.maximum((low - least).abs(), (high - least).abs()) <= layout.REACH
    stays = (least == -negated_most) & (within | ~whole)
    pivot = torch.where(stays, least, _new_pivot(ends, whole))
    scale = torch.where(stays & (scale < _FINEST), scale, reference.scale_for(low, high, pivot))
    within = torch.maximum((low - pivot).abs(), (high - pivot).abs()) <= layout.REACH
    exact = one_kind & torch.where(whole, within, pivot == 0)
    target = torch.stack([pivot, scale, torch.where(exact, kind, float(layout.FLOATS))], dim=1)
    return torch.where(met.unsqueeze(1), target, 0.0)


def _new_pivot(ends: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """A pivot for rows whose pivots differ, by the rules of ``layout``: inside narrow data of one sign, else zero."""
    least, negated_most, _, _, _, low, negated_high = ends.unbind(1)
    high = -negated_high
    middle = torch.floor((low + high) / 2)
    whole = whole & (high - middle <= layout.REACH)
    inside = torch.minimum(torch.maximum(torch.where(low > 0, least, -negated_most), low), high)
    pivot = torch.where(reference.narrow(low, high), torch.where(whole, middle, inside), 0.0)
    return torch.where(whole & (torch.maximum(-low, high) > layout.REACH), middle, pivot)


def _rebinned(rows: TableRows, target: torch.Tensor) -> TableRows:
    """The rows with other parameters, in new buffers."""
    pivot, scale, kind = (column.unsqueeze(1) for column in rows.parameters.unbind(1))
    to, finer, to_kind = (column.unsqueeze(1) for column in target.unbind(1))
    scale, finer = (torch.where(column == 0, 1.0, column) for column in (scale, finer))
    offset = pivot - to
    counts, spike, figures = _without_spikes(rows, pivot, scale, to)
    value = _representatives(rows, scale, kind, pivot)  # as distances from the pivot
    moved = torch.where(offset == 0, value * finer, (value + offset) * finer)
    apart = (kind != layout.FLOATS) & (moved == 0)
    figures[:, layout.SPIKE] += torch.where(apart, counts, 0).sum(1)
    bins = _bins(moved, finer, to_kind)
    result = torch.zeros_like(counts).scatter_add_(1, bins, torch.where(apart, 0, counts))
    result.scatter_add_(1, _bins(offset * finer, finer, to_kind), spike)
    _move_sums_(figures, (finer / scale)[:, 0], (offset * finer)[:, 0])
    return TableRows(result, figures, target)


def _move_sums_(figures: torch.Tensor, ratio: torch.Tensor, offset: torch.Tensor) -> None:
    """Sums over y become sums over ``ratio * y + offset``."""
    number, total = layout.finite(figures), figures[:, layout.SUM] * ratio
    figures[:, layout.SUM] = total + number * offset
    squares = figures[:, layout.SUM_SQUARES] * ratio * ratio
    figures[:, layout.SUM_SQUARES] = squares + offset * (2 * total + number * offset)


def _without_spikes(
    rows: TableRows, pivot: torch.Tensor, scale: torch.Tensor, to: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Counts of bins, the old spike if it is one no more, [rows, 1], and moments with the new one.

    Where the new pivot is zero, the zeros are taken out of the bin that they are in.
    """
    figures, kind = rows.moments.clone(), rows.parameters[:, layout.KIND :]
    spike, zeros = (figures[:, slot].unsqueeze(1) for slot in (layout.SPIKE, layout.ZEROS))
    leaving = torch.where(pivot == to, 0.0, spike).to(rows.counts.dtype)
    arriving = torch.where((to == 0) & (pivot != 0) & (kind == layout.FLOATS), zeros, 0.0).to(rows.counts.dtype)
    place = _bins(-pivot * scale, scale, torch.zeros_like(kind))
    counts = rows.counts.scatter_add(1, place, -arriving)
    figures[:, layout.SPIKE] = (spike - leaving + arriving)[:, 0]
    return counts, leaving, figures


def _representatives(rows: TableRows, scale: torch.Tensor, kind: torch.Tensor, pivot: torch.Tensor) -> torch.Tensor:
    """One value for each bin, as its distance from the pivot, float64[rows, BINS]: of exact rows the value, of others the
    middle, and of overflow bins the extreme of that side."""
    step = torch.arange(layout.SIDE, dtype=scale.dtype, device=scale.device)
    fraction = 1 + (step % 32) / 32
    inner = torch.ldexp(fraction, step.div(32, rounding_mode="floor") + (layout.BINADES_ABOVE - layout.BINADES))
    inner = torch.where(step == 0, 0.0, inner)
    outer = torch.cat([inner[1:], inner[-1:]])
    side = torch.where(kind == layout.FLOATS, (inner + outer) / 2, inner) / scale
    side = torch.where(kind == layout.INTEGERS, step, side)
    negated_low, high = rows.moments[:, layout.ADDITIVE :].unsqueeze(2).unbind(1)
    far = torch.cat([high - pivot, negated_low + pivot], dim=1)  # [rows, 2]: right, left
    far = torch.where(kind == layout.FLOATS, far.clamp(min=layout.HIGHEST / scale), side[:, -1:])
    right, left = side.clone(), side.clone()
    right[:, -1:], left[:, -1:] = far[:, :1], far[:, 1:]
    return torch.cat([right, -left], dim=1)


def _bins(y: torch.Tensor, scale: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    """The bins, int64, of normalised distances from the pivot in rows of some kind."""
    floats = reference.code(y.abs().clamp(layout.LOWEST, layout.HIGHEST)).long()
    integers = (y / scale).abs().clamp(max=layout.SIDE - 1).long()
    return torch.where(kind == layout.INTEGERS, integers, floats) + torch.where(y < 0, layout.SIDE, 0)
