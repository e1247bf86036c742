"""Folds a tensor that lies in the host's memory into one row of a sketch, at about a nanosecond an element.

The same bins and figures as ``reference``, and exact where that one samples: the pivot and the scale come from the
true minimum and maximum. A float32 tensor is read in pieces that fit a cache; each piece takes one pass for the
extremes, one for the sum, one for the squares, two for the 14 leading bits of every element and one to count them.
NaN, infinities and zeros show in the results of those passes and cost another one only where there are any. Numbers
are read back as Python floats: the memory is the host's own, and nothing is waited for.
"""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from torchboard.sketch import layout, reference

PIECE = 1 << 18
"""Elements of a piece: 1 MiB of float32."""

_SIGN = 256 << layout.MANTISSA_BITS
"""The sign's bit in a code, and so the number of codes of one sign: float32's exponent and the leading mantissa
bits."""
_LOWEST_UNIT = layout.BINADES - layout.BINADES_ABOVE - 127
"""With |y| = 1 at this exponent the row's lowest binade would be that of float32's denormal numbers, which have no
bins."""
_LARGE = 40
"""Exponents of float32 up to this one, either way, leave room for squares and their sum."""
_EXACT = 1 << 10
"""A float32 sum of this many squares is right to about 1e-7 with any number of threads; several are added in float64."""
_FEW = 1 << 14
"""Up to this many elements it is faster to look up each one's bin than to count codes and then look up theirs."""

_FLOAT64_BORN = {torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64}
_WITH_EXTREMES = {
    torch.float32, torch.float64, torch.bfloat16, torch.float16,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8,
}  # fmt: skip
"""Element types whose extremes torch finds without a conversion."""


@dataclass
class _Survey:
    """The finite elements of a tensor, piece by piece, their extremes, and how many others there are."""

    pieces: list[torch.Tensor] = field(default_factory=list)
    low: float = math.inf
    high: float = -math.inf
    nan: int = 0
    pos_inf: int = 0
    neg_inf: int = 0


@dataclass
class _Sums:
    """Over the finite elements, as the frame shows them."""

    total: float = 0.0
    squares: float = 0.0
    spike: int = 0
    spike_below: int = 0
    """How many of the spike are negative zeros, whose code is a left one."""


@dataclass(frozen=True)
class _Frame:
    """How the pieces are looked at: (x - pivot) * 2**shift, in a float type where neither overflows nor rounds
    badly."""

    pivot: float
    shift: int
    unit: int  # the exponent that |y| = 1 of the row has in the frame
    dtype: torch.dtype


def observe_(
    counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor, row: int, tensor: torch.Tensor
) -> None:
    """Adds every element of a tensor to one row; arguments as in ``reference.observe_``."""
    flat, times = reference.storage_order(tensor)
    if not flat.numel() or not times:
        return
    survey = _survey(flat)
    figures = [flat.numel(), 0, 0, survey.nan, survey.pos_inf, survey.neg_inf, 0.0, 0.0]
    if survey.pieces:
        pivot, scale = _settle(parameters[row], survey)
        frame = _frame(survey, pivot, scale, flat.dtype)
        if frame is None:
            return reference.observe_(counts, moments, parameters, row, tensor)
        sums = _fold(counts[row], survey.pieces, frame, times)
        back = math.ldexp(scale, -frame.shift)
        figures[layout.SPIKE] = sums.spike
        figures[layout.ZEROS] = _zeros(survey, sums, pivot)
        figures[layout.SUM], figures[layout.SUM_SQUARES] = sums.total * back, sums.squares * back * back
    _add(moments[row], [figure * times for figure in figures], -survey.low, survey.high)


def _survey(flat: torch.Tensor) -> _Survey:
    survey = _Survey()
    for piece in flat.split(PIECE) if flat.numel() > PIECE else (flat,):
        if piece.dtype not in _WITH_EXTREMES:
            piece = piece.to(_work_dtype(piece.dtype))
        low, high = map(float, torch.aminmax(piece))
        if not (math.isfinite(low) and math.isfinite(high)):
            piece = _without_specials(piece, survey)
            if not piece.numel():
                continue
            low, high = map(float, torch.aminmax(piece))
        survey.low, survey.high = min(survey.low, low), max(survey.high, high)
        survey.pieces.append(piece)
    return survey


def _without_specials(piece: torch.Tensor, survey: _Survey) -> torch.Tensor:
    """A copy without NaN and infinities, which are counted in the survey."""
    survey.nan += int(torch.count_nonzero(piece.isnan()))
    survey.pos_inf += int(torch.count_nonzero(piece == math.inf))
    survey.neg_inf += int(torch.count_nonzero(piece == -math.inf))
    return piece.masked_select(piece.abs() < math.inf)


def _work_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype in _FLOAT64_BORN else torch.float32


def _settle(known: torch.Tensor, survey: _Survey) -> tuple[float, float]:
    """The row's pivot and scale, chosen now if this is its first tensor with a finite element."""
    pivot, scale = map(float, known.unbind())
    if scale:
        return pivot, scale
    if layout.wants_pivot(survey.low, survey.high):
        values = reference.sample(survey.pieces[0]).to(torch.float64) - survey.low
        std, mean = map(float, torch.std_mean(values, correction=0))
        pivot = layout.choose_pivot(survey.low, survey.high, survey.low + mean, std)
    scale = layout.choose_scale(_distance(survey, pivot), pivot)
    known.copy_(torch.frombuffer(array("d", (pivot, scale)), dtype=torch.float64))
    return pivot, scale


def _distance(survey: _Survey, pivot: float) -> float:
    return max(abs(survey.low - pivot), abs(survey.high - pivot))


def _exponent(value: float) -> int:
    return math.frexp(value)[1] - 1


def _frame(survey: _Survey, pivot: float, scale: float, dtype: torch.dtype) -> _Frame | None:
    """A frame whose codes resolve what the row resolves; None where the tensor lies too far above the row's scale."""
    distance = _distance(survey, pivot)
    if not math.isfinite(distance):
        return None
    exponent, unit = _exponent(distance) if distance else 0, -_exponent(scale)
    fits = abs(exponent) <= _LARGE and unit > _LOWEST_UNIT
    shift = 0 if fits else min(max(-exponent, -1022), 1022)
    if unit + shift <= _LOWEST_UNIT:
        return None
    narrow = _work_dtype(dtype) == torch.float32 and abs(shift) <= 100 and abs(pivot) <= 2.0**100
    narrow = narrow and struct.unpack("<f", struct.pack("<f", pivot))[0] == pivot
    return _Frame(pivot, shift, unit + shift, torch.float32 if narrow else torch.float64)


def _fold(row: torch.Tensor, pieces: list[torch.Tensor], frame: _Frame, times: int) -> _Sums:
    """Counts the elements in the row's bins, all but the spike, and sums them."""
    sums, table = _Sums(), None
    places = _places(frame.unit)
    for piece in pieces:
        y = piece.to(frame.dtype)
        if frame.pivot:
            y = y - frame.pivot
        scaled = y * 2.0**frame.shift if frame.shift else y
        sums.total += float(scaled.sum())
        sums.squares += _sum_of_squares(scaled)
        codes = _codes(scaled)
        if codes.numel() <= _FEW:
            row.index_add_(0, places.index_select(0, codes), _constants()[2].expand(codes.numel()), alpha=times)
            _note_spike(sums, y)
            continue
        counted = torch.bincount(codes, minlength=2 * _SIGN)
        if int(counted[0]) or int(counted[_SIGN]):
            _note_spike(sums, y)
        table = counted if table is None else table.add_(counted)
    if table is not None:
        row.index_add_(0, places, table, alpha=times)
    if sums.spike:
        row[0] -= (sums.spike - sums.spike_below) * times
        row[layout.SIDE] -= sums.spike_below * times
    return sums


def _sum_of_squares(y: torch.Tensor) -> float:
    whole = y.numel() // _EXACT * _EXACT
    rest = y[whole:]
    total = float(torch.dot(rest, rest))
    if whole:
        norms = torch.linalg.vector_norm(y[:whole].view(-1, _EXACT), dim=1).double()
        total += float(torch.dot(norms, norms))
    return total


def _codes(y: torch.Tensor) -> torch.Tensor:
    """Sign, exponent and leading mantissa bits of finite numbers as float32 has them, never rounded up."""
    if y.dtype == torch.float64:
        y = (y.view(torch.int64) & -(1 << 32)).view(torch.float64).float()
    shift, mask, _ = _constants()
    return (y.view(torch.int32) >> shift).bitwise_and_(mask)


@lru_cache(maxsize=1)
def _constants() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The shift and the mask that make a code of a float's bits, and a count of one. A Python number costs 1 us a
    use."""
    shift = torch.tensor(23 - layout.MANTISSA_BITS, dtype=torch.int32, device="cpu")
    mask = torch.tensor(2 * _SIGN - 1, dtype=torch.int32, device="cpu")
    return shift, mask, torch.ones(1, dtype=torch.int64, device="cpu")


@lru_cache(maxsize=64)
def _places(unit: int) -> torch.Tensor:
    """The bin of each code, int32[2 * _SIGN], where |y| = 1 has this exponent. Zeros go to the innermost bins."""
    side = torch.arange(_SIGN, dtype=torch.int32, device="cpu") - ((unit - _LOWEST_UNIT) << layout.MANTISSA_BITS)
    side.clamp_(0, layout.SIDE - 1)
    return torch.cat([side, side + layout.SIDE])


def _note_spike(sums: _Sums, y: torch.Tensor) -> None:
    spike = y.numel() - _nonzero(y)
    if spike:
        bits = y.view(torch.int64 if y.dtype == torch.float64 else torch.int32)
        negative_zero = torch.iinfo(bits.dtype).min
        sums.spike += spike
        if int(bits.amin()) == negative_zero:
            sums.spike_below += int(torch.count_nonzero(bits == negative_zero))


def _nonzero(values: torch.Tensor) -> int:
    """How many floats are not zero, without a branch: signs are 1, 0 and -1."""
    signs = values.sign()
    return int(torch.dot(signs, signs))


def _zeros(survey: _Survey, sums: _Sums, pivot: float) -> int:
    if pivot == 0:
        return sums.spike
    if not survey.low <= 0 <= survey.high:
        return 0
    return sum(piece.numel() - _nonzero(piece.to(torch.float64)) for piece in survey.pieces)


def _add(row: torch.Tensor, figures: list[float], negated_low: float, high: float) -> None:
    added = torch.frombuffer(array("d", (*figures, negated_low, high)), dtype=torch.float64)
    extremes = torch.maximum(row, added)[layout.ADDITIVE :]
    row.add_(added)
    row[layout.ADDITIVE :] = extremes
