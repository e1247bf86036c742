"""Folds a tensor that lies in the host's memory into one row of a sketch, at about a nanosecond an element.

The same bins and figures as ``reference``, and exact where that one samples: the pivot and the scale come from the
true minimum and maximum. A float32 tensor is read once, in pieces that fit a cache; each piece takes two passes for the
extremes, one for the sum, one for the squares, two for the 14 leading bits of every element and one to count them. NaN,
infinities and zeros show in the results of those passes and cost another one only where there are any. A tensor of one
sign and narrow is read twice, since its pivot has to be known first. Types of few values take another way, see
``host_values``. Numbers are read back as Python floats: the memory is the host's own, and nothing is waited for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from torchboard.sketch import host_values, layout, reference
from torchboard.sketch.host_row import HostRow

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
"""A float32 sum of this many squares is right to about 1e-7 with any number of threads. Many are added in float64; a few
are not worth it."""
_FEW = 1 << 15
"""Up to this many elements it is faster to look up each one's bin than to count codes and then move the counts."""

_FLOAT64_BORN = {torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64}
_AS_THEY_ARE = {torch.float32, torch.float64}


class _Look(NamedTuple):
    """The finite elements of a piece, their extremes, and how many others there are."""

    raw: torch.Tensor  # as they came, the others among them
    values: torch.Tensor  # float32 or float64
    low: float
    high: float
    specials: tuple[int, int, int] = (0, 0, 0)  # NaN, positive and negative infinities


class _Pieces:
    """The pieces of a flat tensor, looked at each time one goes through them, but the first one only once."""

    def __init__(self, flat: torch.Tensor) -> None:
        self._split = flat.split(PIECE) if flat.numel() > PIECE else (flat,)
        self.first = _look(self._split[0])
        self.single = len(self._split) == 1

    def __iter__(self) -> Iterator[_Look]:
        yield self.first
        yield from map(_look, self._split[1:])


class _Frame(NamedTuple):
    """How elements are looked at: (x - pivot) * 2**shift, in a float type where neither overflows nor rounds badly."""

    pivot: float
    shift: int
    dtype: torch.dtype


@dataclass
class _Fold:
    """What pieces add up to, as a frame shows them."""

    low: float = math.inf
    high: float = -math.inf
    nan: int = 0
    pos_inf: int = 0
    neg_inf: int = 0
    spike: int = 0
    spike_left: int = 0  # how many of the spike are negative zeros, whose code is a left one
    zeros: int = 0
    total: float = 0.0
    squares: float = 0.0
    few: tuple[torch.Tensor, torch.Tensor, int] | None = None  # numbers and codes not counted yet, and their weight
    table: torch.Tensor | None = None  # int64[2 * _SIGN], counts of codes


def observe_(
    counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor, row: int, tensor: torch.Tensor
) -> None:
    """Adds every element of a tensor to one row; arguments as in ``reference.observe_``, the buffers contiguous."""
    flat, times = reference.storage_order(tensor)
    if not flat.numel() or not times:
        return
    target = HostRow(counts, moments, parameters, row)
    if host_values.observe_(target, flat, times):
        return
    if target.kind != layout.FLOATS:
        target.become_floats()
    pieces = _Pieces(flat)
    pivot = target.pivot if target.scale else _choose_pivot(pieces)
    frame = as_it_is = _Frame(0.0, 0, _work_dtype(flat.dtype))
    fold = _fold(pieces, as_it_is, times) if not pivot and not pieces.single else None
    extremes = (fold.low, fold.high) if fold is not None else _extremes(pieces)
    if extremes[0] <= extremes[1]:
        distance = max(abs(extremes[0] - pivot), abs(extremes[1] - pivot))
        if not target.scale or (distance and target.is_all_spike()):
            target.settle(pivot, layout.choose_scale(distance, pivot), layout.FLOATS)
        frame = _frame(distance, pivot, target.scale, flat.dtype)
        if frame is None:
            return target.observe_by_reference(flat, times)
    if fold is None or frame != as_it_is:
        fold = _fold(pieces, frame, times)
    _add(target, fold, frame, flat.numel() * times)


def _look(piece: torch.Tensor) -> _Look:
    values = piece if piece.dtype in _AS_THEY_ARE else piece.to(_work_dtype(piece.dtype))
    if values.numel() <= _FEW:
        low, high = map(float, torch.aminmax(values))
    else:  # one pass for both would take longer
        low, high = float(values.amin()), float(values.amax())
    if high - low < math.inf:
        return _Look(piece, values, low, high)
    return _look_at_specials(piece, values)


def _look_at_specials(piece: torch.Tensor, values: torch.Tensor) -> _Look:
    """A look at a copy without NaN and infinities, which are counted."""
    specials = tuple(
        int(torch.count_nonzero(mask)) for mask in (values.isnan(), values == math.inf, values == -math.inf)
    )
    values = values.masked_select(values.abs() < math.inf)
    low, high = map(float, torch.aminmax(values)) if values.numel() else (math.inf, -math.inf)
    return _Look(piece, values, low, high, specials)


def _work_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype in _FLOAT64_BORN else torch.float32


def _extremes(pieces: _Pieces) -> tuple[float, float]:
    if pieces.single:
        return pieces.first.low, pieces.first.high
    looks = [(look.low, look.high) for look in pieces]
    return min(low for low, _ in looks), max(high for _, high in looks)


def _choose_pivot(pieces: _Pieces) -> float:
    """By the rules of ``layout``, from the true extremes. Where a part wants none, the whole does not either."""
    if not layout.wants_pivot(pieces.first.low, pieces.first.high):
        return 0.0
    low, high = _extremes(pieces)
    if not low <= high or not layout.wants_pivot(low, high):
        return 0.0
    found = next(look.values for look in pieces if look.values.numel())
    std, mean = map(float, torch.std_mean(reference.sample(found).to(torch.float64) - low, correction=0))
    return layout.choose_pivot(low, high, low + mean, std)


def _exponent(value: float) -> int:
    return math.frexp(value)[1] - 1


def _frame(distance: float, pivot: float, scale: float, dtype: torch.dtype) -> _Frame | None:
    """A frame whose codes resolve what the row resolves; None where the tensor lies too far above the row's scale."""
    if not math.isfinite(distance):
        return None
    exponent, unit = _exponent(distance) if distance else 0, -_exponent(scale)
    fits = abs(exponent) <= _LARGE and unit > _LOWEST_UNIT
    shift = 0 if fits else min(max(-exponent, -1022), 1022)
    if unit + shift <= _LOWEST_UNIT:
        return None
    narrow = _work_dtype(dtype) == torch.float32 and abs(shift) <= 100 and abs(pivot) <= 2.0**100
    narrow = narrow and struct.unpack("<f", struct.pack("<f", pivot))[0] == pivot
    return _Frame(pivot, shift, torch.float32 if narrow else torch.float64)


def _fold(pieces: _Pieces, frame: _Frame, times: int) -> _Fold:
    fold = _Fold()
    for look in pieces:
        fold.low, fold.high = min(fold.low, look.low), max(fold.high, look.high)
        if any(look.specials):
            fold.nan += look.specials[0] * times
            fold.pos_inf += look.specials[1] * times
            fold.neg_inf += look.specials[2] * times
        if look.values.numel():
            _fold_piece(fold, look, frame, times)
    return fold


def _fold_piece(fold: _Fold, look: _Look, frame: _Frame, weight: int) -> None:
    """Adds a piece, each of whose elements counts ``weight`` times; one of equal elements as a single element."""
    values = look.values
    if look.low == look.high:
        values, weight = values[:1], weight * values.numel()
    y = values if values.dtype == frame.dtype else values.to(frame.dtype)
    if frame.pivot:
        y = y - frame.pivot
        if look.low <= 0 <= look.high:
            fold.zeros += (values.numel() - _nonzero(values)) * weight
    scaled = y * 2.0**frame.shift if frame.shift else y
    fold.total += float(scaled.sum()) * weight
    fold.squares += _sum_of_squares(scaled) * weight
    same = scaled is look.values and look.values.numel() == look.raw.numel()
    codes = _codes(scaled, look.raw if same else None)
    if codes.numel() <= _FEW and fold.few is None:
        fold.few = y, codes, weight
    else:
        _count(fold, y, codes, weight, look.low >= frame.pivot)


def _sum_of_squares(y: torch.Tensor) -> float:
    if y.numel() <= 4 * _EXACT:
        return float(torch.dot(y, y))
    whole = y.numel() // _EXACT * _EXACT
    norms, rest = torch.linalg.vector_norm(y[:whole].view(-1, _EXACT), dim=1).double(), y[whole:]
    return float(torch.dot(norms, norms)) + float(torch.dot(rest, rest))


def _codes(y: torch.Tensor, raw: torch.Tensor | None) -> torch.Tensor:
    """Sign, exponent and leading mantissa bits of finite numbers as float32 has them, never rounded up.

    Args:
        y: the numbers.
        raw: where they come from, if those are the same numbers.
    """
    if raw is not None and raw.dtype == torch.bfloat16:
        bits, (shift, mask) = raw.view(torch.int16), _constants(torch.int16)
    else:
        if y.dtype == torch.float64:
            y = (y.view(torch.int64) & -(1 << 32)).view(torch.float64).float()
        bits, (shift, mask) = y.view(torch.int32), _constants(torch.int32)
    return (bits >> shift).bitwise_and_(mask)


@lru_cache(maxsize=2)
def _constants(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The shift and the mask that make a code of the bits of a float with an 8-bit exponent. A Python number costs 1 us
    a use."""
    shift = 8 * dtype.itemsize - 9 - layout.MANTISSA_BITS
    return tuple(torch.tensor(number, dtype=dtype, device="cpu") for number in (shift, 2 * _SIGN - 1))


def _count(fold: _Fold, y: torch.Tensor, codes: torch.Tensor, weight: int, right: bool) -> None:
    """Adds the codes of y to the table, and its zeros to the spike.

    Many equal numbers in irregular places, such as the zeros behind a ReLU, make counting wait for its own additions.
    Where all are right of the pivot, every second one is therefore counted in the free half of the table.
    """
    if right:
        wide = torch.int32 if codes.dtype == torch.int16 else torch.int64
        codes.bitwise_and_(_SIGN - 1)[: codes.numel() // 2 * 2].view(wide).add_(_SIGN << (8 * codes.itemsize))
    counted = torch.bincount(codes, minlength=2 * _SIGN)
    if right:
        counted[:_SIGN] += counted[_SIGN:]
        counted[_SIGN:] = 0
    _note_spike(fold, y, weight, int(counted[0]), int(counted[_SIGN]))
    if fold.table is None:
        fold.table = counted.mul_(weight) if weight != 1 else counted
    else:
        fold.table.add_(counted, alpha=weight)


def _note_spike(fold: _Fold, y: torch.Tensor, weight: int, right: int, left: int) -> None:
    """Counts the zeros of y; at most ``right`` of them are positive and ``left`` negative."""
    spike = y.numel() - _nonzero(y) if right or left else 0
    if spike < right + left and left:
        bits = y.view(torch.int64 if y.dtype == torch.float64 else torch.int32)
        left = min(left, int(torch.count_nonzero(bits == torch.iinfo(bits.dtype).min)))
    fold.spike += spike * weight
    fold.spike_left += left * weight


def _nonzero(values: torch.Tensor) -> int:
    """How many floats are not zero, without a branch: signs are 1, 0 and -1."""
    signs = values.sign()
    return int(torch.dot(signs, signs))


def _add(row: HostRow, fold: _Fold, frame: _Frame, number: int) -> None:
    """Adds a fold to a row, all of it but the spike to the row's bins."""
    unit = frame.shift - _exponent(row.scale) if row.scale else 0
    if fold.few is not None:
        y, codes, weight = fold.few
        before = row.innermost()
        row.counts.index_add_(0, _places(unit).index_select(0, codes.int()), _ones(codes.numel()), alpha=weight)
        right, left = ((new - old) // weight for new, old in zip(row.innermost(), before))
        _note_spike(fold, y, weight, right, left)
    if fold.table is not None:
        _add_table(row.counts, fold.table, unit)
    if fold.spike:
        row.take_spike(fold.spike - fold.spike_left, fold.spike_left)
    back = math.ldexp(row.scale, -frame.shift)
    zeros = fold.zeros if frame.pivot else fold.spike
    specials = fold.nan, fold.pos_inf, fold.neg_inf
    row.add([number, fold.spike, zeros, *specials, fold.total * back, fold.squares * back * back], fold.low, fold.high)


@lru_cache(maxsize=256)
def _ones(number: int) -> torch.Tensor:
    """int64[number], without the memory."""
    return torch.ones(1, dtype=torch.int64, device="cpu").expand(number)


@lru_cache(maxsize=64)
def _places(unit: int) -> torch.Tensor:
    """The bin of each code, int32[2 * _SIGN], where |y| = 1 has this exponent. Zeros go to the innermost bins."""
    side = torch.arange(_SIGN, dtype=torch.int32, device="cpu") - _offset(unit)
    side.clamp_(0, layout.SIDE - 1)
    return torch.cat([side, side + layout.SIDE])


def _offset(unit: int) -> int:
    """The code of the innermost bin, where |y| = 1 has this exponent."""
    return (unit - _LOWEST_UNIT) << layout.MANTISSA_BITS


def _add_table(counts: torch.Tensor, table: torch.Tensor, unit: int) -> None:
    """Adds counts of codes to a row's bins; what lies inside the innermost one or outside the overflow bin joins
    that."""
    first, last = _offset(unit), _offset(unit) + layout.SIDE
    bins, codes = counts.view(2, layout.SIDE), table.view(2, _SIGN)
    resolved = codes[:, first:last]
    bins[:, : resolved.shape[1]] += resolved
    bins[:, 0] += codes[:, :first].sum(1)
    bins[:, -1] += codes[:, last:].sum(1)
