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

from torchboard.sketch import host_codes, host_values, layout, reference
from torchboard.sketch.host_row import HostRow

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
        self._split = flat.split(host_codes.PIECE) if flat.numel() > host_codes.PIECE else (flat,)
        self.first = _look(self._split[0])
        self.single = len(self._split) == 1

    def __iter__(self) -> Iterator[_Look]:
        yield self.first
        yield from map(_look, self._split[1:])


class Folded(NamedTuple):
    """What a tensor added to a row; nothing of the tensor's own memory."""

    fold: _Fold
    frame: _Frame
    dtype: torch.dtype
    number: int


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
    few: tuple[torch.Tensor | None, torch.Tensor, int] | None = None  # numbers, codes not in the table, their weight
    table: torch.Tensor | None = None  # of ``host_codes``


def observe_(
    counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor, row: int, tensor: torch.Tensor
) -> None:
    """Adds every element of a tensor to one row; arguments as in ``reference.observe_``, the buffers contiguous."""
    fold_(HostRow(counts, moments, parameters, row), tensor)


def fold_(target: HostRow, tensor: torch.Tensor) -> Folded | None:
    """Adds every element of a tensor to a row, and gives what ``again_`` may add to another one, if that can be."""
    flat, times = reference.storage_order(tensor)
    if not flat.numel() or not times or host_values.observe_(target, flat, times):
        return None
    if target.kind != layout.FLOATS:
        target.become_floats()
    pieces = _Pieces(flat)
    pivot = target.pivot if target.scale else _choose_pivot(pieces)
    frame = as_it_is = _Frame(0.0, 0, _work_dtype(flat.dtype))
    fold = _fold(pieces, as_it_is, times) if not pivot and not pieces.single else None
    extremes = (fold.low, fold.high) if fold is not None else _extremes(pieces)
    if extremes[0] <= extremes[1]:
        frame = _settle(target, pivot, extremes, flat.dtype)
        if frame is None:
            target.observe_by_reference(flat, times)
            return None
    if fold is None or frame != as_it_is:
        fold = _fold(pieces, frame, times)
    _add(target, fold, frame, flat.numel() * times)
    return Folded(fold, frame, flat.dtype, flat.numel() * times)


def again_(target: HostRow, folded: Folded) -> bool:
    """Adds to a row what a tensor has added to another one; False, and nothing done, if the row looks at numbers in another
    way."""
    fold, frame = folded.fold, folded.frame
    if target.kind != layout.FLOATS or not fold.low <= fold.high or target.pivot != frame.pivot:
        return False
    if not target.scale and (frame.pivot or layout.wants_pivot(fold.low, fold.high)):
        return False
    known = target.scale
    if _settle(target, frame.pivot, (fold.low, fold.high), folded.dtype) != frame:
        if not known:
            target.settle(0.0, 0.0, layout.FLOATS)
        return False
    _add(target, fold, frame, folded.number)
    return True


def _settle(row: HostRow, pivot: float, extremes: tuple[float, float], dtype: torch.dtype) -> _Frame | None:
    """Gives a row its parameters if it has none, or can take others; how elements are looked at for it."""
    distance = max(abs(extremes[0] - pivot), abs(extremes[1] - pivot))
    if not row.scale or (distance and row.is_all_spike()):
        row.settle(pivot, layout.choose_scale(distance, pivot), layout.FLOATS)
    return _frame(distance, pivot, row.scale, dtype)


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
    fits = abs(exponent) <= _LARGE and unit > host_codes.LOWEST_UNIT
    shift = 0 if fits else min(max(-exponent, -1022), 1022)
    if unit + shift <= host_codes.LOWEST_UNIT:
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
            fold.zeros += (values.numel() - host_codes.nonzero(values)) * weight
    scaled = y * 2.0**frame.shift if frame.shift else y
    fold.total += float(scaled.sum()) * weight
    fold.squares += _sum_of_squares(scaled) * weight
    raw = look.raw if scaled is look.values and look.values.numel() == look.raw.numel() else None
    if y.numel() <= _FEW and fold.few is None:
        fold.few = y, host_codes.codes_of(scaled, raw), weight
        return
    table = host_codes.table_of(scaled, raw)
    right, left = host_codes.zero_codes(table)
    _note_spike(fold, y, weight, right, left)
    if weight != 1:
        table.mul_(weight)
    fold.table = table if fold.table is None else fold.table.add_(table)


def _sum_of_squares(y: torch.Tensor) -> float:
    if y.numel() <= 4 * _EXACT:
        return float(torch.dot(y, y))
    whole = y.numel() // _EXACT * _EXACT
    norms, rest = torch.linalg.vector_norm(y[:whole].view(-1, _EXACT), dim=1).double(), y[whole:]
    return float(torch.dot(norms, norms)) + float(torch.dot(rest, rest))


def _note_spike(fold: _Fold, y: torch.Tensor, weight: int, right: int, left: int) -> None:
    """Counts the zeros of y; at most ``right`` of them are positive and ``left`` negative."""
    spike = y.numel() - host_codes.nonzero(y) if right or left else 0
    if spike < right + left and left:
        bits = y.view(torch.int64 if y.dtype == torch.float64 else torch.int32)
        left = min(left, int(torch.count_nonzero(bits == torch.iinfo(bits.dtype).min)))
    fold.spike += spike * weight
    fold.spike_left += left * weight


def _add(row: HostRow, fold: _Fold, frame: _Frame, number: int) -> None:
    """Adds a fold to a row, all of it but the spike to the row's bins."""
    unit = frame.shift - _exponent(row.scale) if row.scale else 0
    if fold.few is not None:
        y, codes, weight = fold.few
        before = row.innermost()
        row.counts.index_add_(
            0, host_codes.places(unit).index_select(0, codes.int()), _ones(codes.numel()), alpha=weight
        )
        right, left = ((new - old) // weight for new, old in zip(row.innermost(), before))
        if y is not None:
            _note_spike(fold, y, weight, right, left)
            fold.few = None, codes, weight
    if fold.table is not None:
        host_codes.add_table(row.counts, fold.table, unit)
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
