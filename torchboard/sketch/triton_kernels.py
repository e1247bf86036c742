"""Kernels that fold many tensors into rows of sketches in one pass over their memory, and wait for nothing.

They give the rows that ``reference`` gives: the same counts to the last one, for the same pivot and scale. A program
takes one *segment*, a run of elements of one tensor, found through a table of records. It counts into a private table of
``TABLE`` entries in shared memory and adds that to the row's counts once, where it is not zero. Elements equal to the
pivot are not counted one by one but are what is left over: a tensor of zeros would otherwise send all of its atomic
additions to one address.

Two ways lead through a segment. The *plain* one computes in float32 and is exact where the pivot is zero, the scale no
extreme power and every element finite: 20 to 22 instructions an element on Nvidia's processors, so that memory sets its
speed. Its own sums tell whether all was finite; if not, the program starts again on the *careful* way: float64, as the
reference does, right for all data and every element type, about 60 instructions. So NaN and infinities cost their
segments a second pass, and data with a pivot of their own, float64 and wide integers cost arithmetic, much of it on
processors that are slow at float64.

Traffic besides the elements: 32 bytes a segment for its record, and at most 32 KiB of atomic additions, which meet in
the second-level cache. The fold takes 16 KiB of shared memory a program and up to 128 registers a thread: compiled for
sm_80, sm_90 and sm_100 it spills none, for gfx90a and gfx942 two or three.
"""

from __future__ import annotations

import triton
import triton.language as tl

from torchboard.sketch import layout, reference
from torchboard.sketch.triton_elements import ADDRESS, FIELDS, NUMBER, ROW, TIMES, elements_at, pointer_to, real

VERSION = tuple(int(part) for part in triton.__version__.split("+")[0].split(".")[:2])
"""Major and minor number of the Triton at hand."""

BLOCK = tl.constexpr(8192)
"""Elements counted by one histogram. Each costs a clearing and a reading of the table, so twice its entries."""
WARPS = 8
"""Warps of a program that folds: 32 elements of a block, 16 entries of the table, a thread."""
CAREFUL_BLOCK = tl.constexpr(2048)
"""Likewise where the arithmetic is in float64; twice as many would not fit the registers."""
SMALL = tl.constexpr(2048)
"""Most elements of a tensor that one program takes at once, without a table of its own."""
SMALL_WARPS = 4

_BINS, _SIDE, _MANTISSA_BITS = map(tl.constexpr, (layout.BINS, layout.SIDE, layout.MANTISSA_BITS))
_LOWEST, _HIGHEST, _NARROW = map(tl.constexpr, (layout.LOWEST, layout.HIGHEST, layout.NARROW))
_SLOTS, _ADDITIVE = map(tl.constexpr, (layout.SLOTS, layout.ADDITIVE))
_COUNT, _SPIKE, _ZEROS = map(tl.constexpr, (layout.COUNT, layout.SPIKE, layout.ZEROS))
_NAN, _POS_INF, _NEG_INF = map(tl.constexpr, (layout.NAN, layout.POS_INF, layout.NEG_INF))
_SUM, _SUM_SQUARES = map(tl.constexpr, (layout.SUM, layout.SUM_SQUARES))
_NEGATED_MIN, _MAX = map(tl.constexpr, (layout.NEGATED_MIN, layout.MAX))
_PIVOT, _SCALE, _PARAMETERS = map(tl.constexpr, (layout.PIVOT, layout.SCALE, layout.PARAMETERS))
_SAMPLE = tl.constexpr(reference.SAMPLE)

_LOWEST_CODE = tl.constexpr((1023 + layout.BINADES_ABOVE - layout.BINADES) << layout.MANTISSA_BITS)
_HIGHEST_CODE = tl.constexpr((1023 + layout.BINADES_ABOVE) << layout.MANTISSA_BITS)
"""The leading bits of ``LOWEST`` and ``HIGHEST`` in float64."""
_SIDE_BITS = tl.constexpr((layout.SIDE - 1).bit_length())
_TABLE_SIDE = tl.constexpr(1 << _SIDE_BITS.value)
TABLE = tl.constexpr(2 * _TABLE_SIDE.value)
"""Entries of the private table: for each side a power of two."""
_INNERMOST = tl.constexpr(((127 + layout.BINADES_ABOVE - layout.BINADES) << layout.MANTISSA_BITS) % _TABLE_SIDE.value)
"""The entry of a side's innermost bin. An entry is the low bits of a float's exponent and the leading ones of its
mantissa, so a shift and a mask make it; the bins of a side follow each other from this one on, and round the end. The
biases of float32 and float64 leave the same rest, so both types have the same entries."""
_NAN_ENTRY, _POS_INF_ENTRY, _NEG_INF_ENTRY, _ZERO_ENTRY = (
    tl.constexpr((_INNERMOST.value + layout.SIDE + spare) % _TABLE_SIDE.value) for spare in range(4)
)
"""Entries that stand for no bin, behind the overflow bin of the right side. Zeros are counted in theirs, and moved to
their bin in the end, where they are not the spike."""
_PLAIN = tl.constexpr(2.0**100)
"""Scales up to this one, and from its reciprocal on, leave float32 room for every product that decides a bin."""
_GOLDEN, _GOLDEN_SHIFT = tl.constexpr(2654435761), tl.constexpr(7)
"""The jitter of ``reference.sample``."""
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def choose_kernel(records, parameters, ELEMENT: tl.constexpr):
    """Chooses pivot and scale of the rows that have none, each from its tensor's sample; one program a tensor."""
    record = records + tl.program_id(0) * FIELDS
    _settle(record, parameters + tl.load(record + ROW) * _PARAMETERS, ELEMENT)


@triton.jit
def fold_kernel(records, counts, moments, parameters, ELEMENT: tl.constexpr, ALIGNMENT: tl.constexpr):
    """Adds one segment a program to its row; ``ALIGNMENT``, in bytes, divides every address."""
    record = records + tl.program_id(0) * FIELDS
    number = tl.load(record + NUMBER).to(tl.int32)
    pointer = tl.multiple_of(pointer_to(tl.load(record + ADDRESS), ELEMENT), ALIGNMENT)
    row, times = tl.load(record + ROW), tl.load(record + TIMES)
    counts, moments, known = counts + row * _BINS, moments + row * _SLOTS, parameters + row * _PARAMETERS
    pivot, scale = _frame(known)
    folded = number == 0
    if ELEMENT.primitive_bitwidth <= 16 or ELEMENT == tl.float32:
        if (pivot == 0) & (scale <= _PLAIN) & (scale * _PLAIN >= 1):
            table, figures = _fold_plain(pointer, number, scale.to(tl.float32), ELEMENT)
            folded = tl.sum(tl.abs(figures)) < _INFINITY
            if folded:
                _add_table(counts, table, times)
                _add_figures(moments, known, figures, times)
    if not folded:
        table, figures = _fold_careful(pointer, number, pivot, scale, ELEMENT)
        _add_table(counts, table, times)
        _add_figures(moments, known, figures, times)


@triton.jit
def fold_small_kernel(records, counts, moments, parameters, ELEMENT: tl.constexpr):
    """Adds one tensor of at most ``SMALL`` elements a program to its row, whose pivot and scale it chooses if need be.

    Counts go to the row one by one: clearing and adding a table would take longer. No two programs share a row.
    """
    record = records + tl.program_id(0) * FIELDS
    row, times = tl.load(record + ROW), tl.load(record + TIMES)
    counts, moments, known = counts + row * _BINS, moments + row * _SLOTS, parameters + row * _PARAMETERS
    chosen, unit = _settle(record, known, ELEMENT)
    pivot, scale = chosen, tl.where(unit == 0, 1.0, unit)
    lane = tl.arange(0, SMALL)
    inside = lane < tl.load(record + NUMBER)
    x = elements_at(pointer_to(tl.load(record + ADDRESS), ELEMENT) + lane, inside, ELEMENT).to(tl.float64)
    finite = inside & (tl.abs(x) < _INFINITY)
    y = tl.where(finite, (x - pivot) * scale, 0.0)
    binned = finite & (x != pivot)
    tl.atomic_add(counts + _bin(_entry(y)), times + tl.zeros_like(lane), mask=binned, sem="relaxed")
    figures = _figure(_COUNT, _number(inside)) + _figure(_SPIKE, _number(finite & (x == pivot)))
    figures += _figure(_ZEROS, _number(inside & (x == 0))) + _figure(_NAN, _number(inside & (x != x)))
    figures += _figure(_POS_INF, _number(inside & (x == _INFINITY)))
    figures += _figure(_NEG_INF, _number(inside & (x == -_INFINITY)))
    figures += _figure(_SUM, tl.sum(y)) + _figure(_SUM_SQUARES, tl.sum(y * y))
    figures += _extremes(tl.min(tl.where(finite, x, _INFINITY)), tl.max(tl.where(finite, x, -_INFINITY)))
    _add_figures(moments, known, figures, times)


@triton.jit
def _fold_plain(pointer, number, scale, ELEMENT: tl.constexpr):
    """The table and the figures of a segment whose elements are all finite; figures that are not finite for others.

    Four quarters of a block share their accumulators, and so a thread its registers.
    """
    lanes: tl.constexpr = BLOCK // 4
    table = tl.zeros([TABLE], tl.int32)
    low, high = tl.full([lanes], _INFINITY, tl.float32), tl.full([lanes], -_INFINITY, tl.float32)
    total, squares = tl.zeros([lanes], tl.float32), tl.zeros([lanes], tl.float32)
    lane = tl.arange(0, lanes)
    whole = number // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        x = ()
        for quarter in tl.static_range(4):
            part = elements_at(pointer + start + quarter * lanes + lane, None, ELEMENT).to(tl.float32)
            y = part * scale
            low, high = tl.minimum(low, part), tl.maximum(high, part)
            total, squares = total + y, tl.fma(y, y, squares)
            x = x + (part,)
        block = tl.reshape(tl.join(tl.join(x[0], x[1]), tl.join(x[2], x[3])), [BLOCK])
        table += tl.histogram(_entry(block * scale), TABLE, mask=block != 0)
    for start in range(whole, number, lanes):
        inside = start + lane < number
        part = elements_at(pointer + start + lane, inside, ELEMENT).to(tl.float32)
        y = part * scale
        low = tl.minimum(low, tl.where(inside, part, _INFINITY))
        high = tl.maximum(high, tl.where(inside, part, -_INFINITY))
        total, squares = total + y, tl.fma(y, y, squares)
        table += tl.histogram(_entry(y), TABLE, mask=part != 0)
    zeros = number - tl.sum(table)
    figures = _figure(_COUNT, number) + _figure(_SPIKE, zeros) + _figure(_ZEROS, zeros)
    figures += _figure(_SUM, tl.sum(total.to(tl.float64))) + _figure(_SUM_SQUARES, tl.sum(squares.to(tl.float64)))
    return table, figures + _extremes(tl.min(low), tl.max(high))


@triton.jit
def _fold_careful(pointer, number, pivot, scale, ELEMENT: tl.constexpr):
    """The table and the figures of any segment; what is in no bin and not the spike is in spare entries of the
    table."""
    table = tl.zeros([TABLE], tl.int32)
    low, high = 0 * pivot + _INFINITY, 0 * pivot - _INFINITY
    total, squares = 0 * pivot, 0 * pivot
    lane = tl.arange(0, CAREFUL_BLOCK)
    for start in range(0, number, CAREFUL_BLOCK):
        inside = start + lane < number
        x = real(elements_at(pointer + start + lane, inside, ELEMENT), ELEMENT)
        finite = inside & (tl.abs(x) < _INFINITY)
        low = tl.minimum(low, tl.min(tl.where(finite, x, _INFINITY)).to(tl.float64))
        high = tl.maximum(high, tl.max(tl.where(finite, x, -_INFINITY)).to(tl.float64))
        distance = x.to(tl.float64) - pivot
        y = tl.where(finite, distance * scale, 0.0)
        total, squares = total + tl.sum(y), squares + tl.sum(y * y)
        entry = tl.where(finite, _entry(y), tl.where(x == _INFINITY, _POS_INF_ENTRY, _NEG_INF_ENTRY))
        entry = tl.where(x != x, _NAN_ENTRY, tl.where(x == 0, _ZERO_ENTRY, entry))
        table += tl.histogram(entry, TABLE, mask=inside & (distance != 0))
    spike, zeros = number - tl.sum(table), _at(table, _ZERO_ENTRY)
    table += tl.where(tl.arange(0, TABLE) == _entry((0.0 - pivot) * scale), zeros, 0)
    zeros = tl.where(pivot == 0, spike, zeros)
    figures = _figure(_COUNT, number) + _figure(_SPIKE, spike) + _figure(_ZEROS, zeros)
    figures += _figure(_NAN, _at(table, _NAN_ENTRY)) + _figure(_POS_INF, _at(table, _POS_INF_ENTRY))
    figures += _figure(_NEG_INF, _at(table, _NEG_INF_ENTRY))
    figures += _figure(_SUM, total) + _figure(_SUM_SQUARES, squares)
    return table, figures + _extremes(low, high)


@triton.jit
def _entry(y):
    """The table's entry of finite numbers other than zero: sign, exponent and leading mantissa bits, in int32."""
    if y.dtype == tl.float64:
        code = (tl.abs(y).to(tl.int64, bitcast=True) >> (52 - _MANTISSA_BITS)).to(tl.int32)
        code = tl.minimum(tl.maximum(code, _LOWEST_CODE), _HIGHEST_CODE)
        sign = (y.to(tl.int64, bitcast=True) >> (63 - _SIDE_BITS)).to(tl.int32)
    else:
        magnitude = tl.minimum(tl.maximum(tl.abs(y), _LOWEST), _HIGHEST)
        code = magnitude.to(tl.int32, bitcast=True) >> (23 - _MANTISSA_BITS)
        sign = y.to(tl.int32, bitcast=True) >> (31 - _SIDE_BITS)
    return (code & (_TABLE_SIDE - 1)) | (sign & _TABLE_SIDE)


@triton.jit
def _bin(entry):
    """The row's bin of an entry; of one that stands for no bin, a number without a meaning."""
    return ((entry - _INNERMOST) & (_TABLE_SIDE - 1)) + tl.where(entry >= _TABLE_SIDE, _SIDE, 0)


@triton.jit
def _add_table(counts, table, times):
    """Adds the entries that stand for bins to a row's counts."""
    entry = tl.arange(0, TABLE)
    binned = ((entry - _INNERMOST) & (_TABLE_SIDE - 1)) < _SIDE
    tl.atomic_add(counts + _bin(entry), table.to(tl.int64) * times, mask=binned & (table != 0), sem="relaxed")


@triton.jit
def _add_figures(moments, known, figures, times):
    """Adds to a row's moments and raises its extremes; gives it scale 1 if it has none, but now a finite element."""
    slot = tl.arange(0, 16)
    tl.atomic_add(moments + slot, figures * times, mask=(slot < _ADDITIVE) & (figures != 0), sem="relaxed")
    extreme = (slot >= _ADDITIVE) & (slot < _SLOTS)
    tl.atomic_max(moments + slot, figures, mask=extreme, sem="relaxed")
    met = tl.max(tl.where(slot == _MAX, figures, -_INFINITY)) > -_INFINITY
    if met & (tl.load(known + _SCALE) == 0):
        tl.store(known + _SCALE, 1.0)


@triton.jit
def _figure(slot: tl.constexpr, value):
    """A row of figures, float64[16], that is zero but for one slot."""
    return tl.where(tl.arange(0, 16) == slot, value.to(tl.float64), 0.0)


@triton.jit
def _extremes(low, high):
    """Both extremes as figures. Adding zero makes a negative zero a positive one, which compares as it should."""
    return _figure(_NEGATED_MIN, 0.0 - low.to(tl.float64)) + _figure(_MAX, high.to(tl.float64) + 0.0)


@triton.jit
def _number(mask):
    return tl.sum(mask.to(tl.int32))


@triton.jit
def _at(table, entry: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, TABLE) == entry, table, 0))


@triton.jit
def _frame(known):
    """A row's pivot and scale; scale 1 where no sample had a finite element."""
    scale = tl.load(known + _SCALE)
    return tl.load(known + _PIVOT), tl.where(scale == 0, 1.0, scale)


@triton.jit
def _settle(record, known, ELEMENT: tl.constexpr):
    """A row's pivot and scale, chosen and stored now if it has none; both 0 if the sample has no finite element."""
    pivot, scale = tl.load(known + _PIVOT), tl.load(known + _SCALE)
    if scale == 0:
        pivot, scale = _choose(tl.load(record + ADDRESS), tl.load(record + NUMBER), ELEMENT)
        tl.store(known + _PIVOT, pivot)
        tl.store(known + _SCALE, scale)
    return pivot, scale


@triton.jit
def _choose(address, number, ELEMENT: tl.constexpr):
    """Pivot and scale by the rules of ``layout`` from the sample that ``reference`` takes."""
    index = tl.arange(0, _SAMPLE).to(tl.int64)
    stride = number // _SAMPLE
    jitter = ((index * _GOLDEN) >> _GOLDEN_SHIFT) % tl.maximum(stride, 1)
    place = tl.where(stride < 2, index, index * stride + jitter)
    inside = place < number
    x = elements_at(pointer_to(address, ELEMENT) + place, inside, ELEMENT).to(tl.float64)
    finite = inside & (tl.abs(x) < _INFINITY)
    many = tl.maximum(_number(finite), 1).to(tl.float64)
    low, high = tl.min(tl.where(finite, x, _INFINITY)), tl.max(tl.where(finite, x, -_INFINITY))
    offset = tl.where(finite, x - low, 0.0)
    mean = tl.sum(offset) / many
    centred = tl.where(finite, offset - mean, 0.0)
    spread = tl.sqrt(tl.sum(centred * centred) / many) / 2
    first, last = tl.abs(tl.maximum(low, low + mean - spread)), tl.abs(tl.minimum(high, low + mean + spread))
    magnitude = _fewest_bits(tl.minimum(first, last), tl.maximum(first, last))
    narrow = ((low > 0) & (high < _NARROW * low)) | ((high < 0) & (-low < -_NARROW * high))
    pivot = tl.where(narrow & (low <= high), tl.where(low < 0, -magnitude, magnitude), 0.0)
    distance = tl.max(tl.where(finite, tl.abs(x - pivot), 0.0))
    distance = tl.where(distance > 0, distance, tl.abs(pivot))
    scale = _reciprocal_power(tl.where(distance > 0, distance, 1.0))
    return pivot, tl.where(low <= high, scale, 0.0)


@triton.jit
def _fewest_bits(small, large):
    """The float64 above ``small`` and up to ``large`` with the fewest significand bits; both are positive."""
    bits = large.to(tl.int64, bitcast=True)
    differing = small.to(tl.int64, bitcast=True) ^ bits
    for step in tl.static_range(6):
        differing |= differing >> (1 << step)
    return (bits & ~(differing >> 1)).to(tl.float64, bitcast=True)


@triton.jit
def _reciprocal_power(value):
    """1 / 2**floor(log2(value)) of a positive float64, kept off the ends of the exponent's range."""
    exponent = value.to(tl.int64, bitcast=True) >> 52
    exponent = tl.minimum(tl.maximum(exponent, 1), 2 * 1023 - 1)
    return ((2 * 1023 - exponent) << 52).to(tl.float64, bitcast=True)
