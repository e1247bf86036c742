"""Counts of the leading bits of float32 numbers, and how such counts become the bins of a row.

A *code* is a float's sign, its exponent and its five leading mantissa bits: below ``SIGN`` for numbers right of zero, from
there on for those left of it, both outwards. Codes are counted by ``torch.bincount`` in a *table*, int64[2 * SIGN].

Many equal numbers in irregular places, such as the zeros behind a ReLU or those of its gradient, make counting wait for its
own additions. Where a look at a few elements finds such, neighbours are counted in tables of their own, *lanes*, which are
added up: counting then takes half the time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from torchboard.sketch import layout

SIGN = 256 << layout.MANTISSA_BITS
"""Codes of one sign."""
LOWEST_UNIT = layout.BINADES - layout.BINADES_ABOVE - 127
"""With |y| = 1 at this exponent a row's lowest binade would be that of float32's denormal numbers, which have no bins."""
_LANES = 4
_ROW = 1 << 12
"""Codes that get their lanes at once."""
_MANY = 1 << 16
"""Fewest codes that are worth lanes."""
_LOOKED_AT = 64
"""Elements that tell whether equal numbers are many."""


PIECE = 1 << 18
"""Most elements whose codes are counted at once: 1 MiB of float32."""


_free: list[torch.Tensor] = []
"""Memory that codes and signs were written to: int32[PIECE], one for each thread that sketches. To take it from the system
for every piece, page by page, would be most of the time."""


@contextmanager
def _scratch(number: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Memory for some words of at most 32 bits."""
    try:
        words = _free.pop()
    except IndexError:
        with torch.inference_mode(False):
            words = torch.empty(PIECE, dtype=torch.int32, device="cpu")
    try:
        yield words.view(dtype)[:number]
    finally:
        _free.append(words)


def codes_of(y: torch.Tensor, raw: torch.Tensor | None, out: torch.Tensor | None = None) -> torch.Tensor:
    """The codes of finite numbers, never rounded up: int32, or int16 where they come from bfloat16.

    Args:
        y: the numbers, float32 or float64.
        raw: where they come from, if those are the same numbers.
        out: where the codes go.
    """
    if raw is not None and raw.dtype == torch.bfloat16:
        bits, (shift, mask) = raw.view(torch.int16), _constants(torch.int16)
    else:
        if y.dtype == torch.float64:
            y = (y.view(torch.int64) & -(1 << 32)).view(torch.float64).float()
        bits, (shift, mask) = y.view(torch.int32), _constants(torch.int32)
    return torch.bitwise_right_shift(bits, shift, out=out).bitwise_and_(mask)


def table_of(y: torch.Tensor, raw: torch.Tensor | None) -> torch.Tensor:
    """The table of at most ``PIECE`` numbers; arguments as of ``codes_of``."""
    dtype = torch.int16 if raw is not None and raw.dtype == torch.bfloat16 else torch.int32
    with _scratch(y.numel(), dtype) as scratch:
        codes = codes_of(y, raw, scratch)
        if y.numel() < _MANY or not _repeats(codes):
            return torch.bincount(codes, minlength=2 * SIGN)
        codes, whole = codes.int(), y.numel() // _ROW * _ROW
        codes[:whole].view(-1, _ROW).add_(_lanes())
        codes[whole:].add_(_lanes()[: y.numel() - whole])
        return torch.bincount(codes, minlength=2 * SIGN * _LANES).view(_LANES, -1).sum(0)


def nonzero(values: torch.Tensor) -> int:
    """How many of at most ``PIECE`` floats are not zero, without a branch: signs are 1, 0 and -1."""
    if values.dtype != torch.float32:
        signs = values.sign()
        return int(torch.dot(signs, signs))
    with _scratch(values.numel(), torch.float32) as scratch:
        signs = torch.sign(values, out=scratch)
        return int(torch.dot(signs, signs))


def _repeats(codes: torch.Tensor) -> bool:
    """Whether zeros are frequent."""
    some = codes[:: codes.numel() // _LOOKED_AT]
    return int(torch.count_nonzero(some)) < 7 * some.numel() // 8


def zero_codes(table: torch.Tensor) -> tuple[int, int]:
    """How many numbers have the codes of the zeros, right and left: zeros and the smallest denormal numbers."""
    return peek(table, 0), peek(table, SIGN)


def add_table(counts: torch.Tensor, table: torch.Tensor, unit: int) -> None:
    """Adds a table to a row's bins, int64[layout.BINS], where |y| = 1 has this exponent. What lies inside the innermost
    bin or outside the overflow bin joins that."""
    first = _offset(unit)
    last = first + layout.SIDE
    bins, codes = counts.view(2, layout.SIDE), table.view(2, SIGN)
    bins[:, : SIGN - first].add_(codes[:, first:last])
    bins[:, 0].add_(codes[:, :first].sum(1))
    if last < SIGN:
        bins[:, -1].add_(codes[:, last:].sum(1))


@lru_cache(maxsize=64)
def places(unit: int) -> torch.Tensor:
    """The bin of each code, int32[2 * SIGN], where |y| = 1 has this exponent. Zeros go to the innermost bins."""
    side = torch.arange(SIGN, dtype=torch.int32, device="cpu") - _offset(unit)
    side.clamp_(0, layout.SIDE - 1)
    return torch.cat([side, side + layout.SIDE])


def _offset(unit: int) -> int:
    """The code of the innermost bin, where |y| = 1 has this exponent."""
    return (unit - LOWEST_UNIT) << layout.MANTISSA_BITS


def peek(counts: torch.Tensor, place: int) -> int:
    """One of some counts, int64 and contiguous."""
    return ctypes.c_int64.from_address(counts.data_ptr() + 8 * place).value


@lru_cache(maxsize=2)
def _constants(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The shift and the mask that make a code of the bits of a float with an 8-bit exponent. A Python number costs 1 us
    a use."""
    shift = 8 * dtype.itemsize - 9 - layout.MANTISSA_BITS
    return tuple(torch.tensor(number, dtype=dtype, device="cpu") for number in (shift, 2 * SIGN - 1))


@lru_cache(maxsize=1)
def _lanes() -> torch.Tensor:
    """What puts codes into the table of one lane after another, int32[_ROW]."""
    return torch.arange(_ROW, dtype=torch.int32, device="cpu") % _LANES * (2 * SIGN)
