"""Folds a tensor into one row of a sketch with torch operations alone: right on every device, and waiting for none.

No value ever comes to the host: what depends on data is chosen with ``torch.where``, and every shape is known
beforehand. All arithmetic is in float64 (float32 on a device without it), where every element type but the 64-bit
integers is exact. About 40 launches a piece of ``PIECE`` elements and some 100 bytes of scratch an element of a piece.
"""

from __future__ import annotations

import torch

from torchboard.sketch import layout

SAMPLE = 1024
"""Most elements that choose a row's pivot and scale."""
PIECE = 1 << 22
"""Elements folded at once; bounds the scratch memory."""


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest float type the device computes in: float64, or float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def storage_order(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The distinct elements of a tensor as one dimension, and how many times each of them occurs in it.

    A dense tensor is read in the order of its memory, whatever the order of its dimensions, and an expanded dimension
    once: neither is copied. Other strided tensors are.
    """
    tensor = tensor.detach().resolve_neg()
    if tensor.is_contiguous():
        return tensor.view(-1), 1
    times, sizes, strides = 1, [], []
    for size, stride in zip(tensor.shape, tensor.stride()):
        if stride == 0:
            times *= size
        elif size != 1:
            sizes.append(size)
            strides.append(stride)
    base = tensor.as_strided(sizes, strides)
    order = sorted(range(len(sizes)), key=strides.__getitem__, reverse=True)
    base = base.permute(order)
    return (base.view(-1) if base.is_contiguous() else base.reshape(-1)), times


def sample(flat: torch.Tensor) -> torch.Tensor:
    """At most ``SAMPLE`` elements of a flat tensor, spread evenly but for a jitter that keeps off the columns of a
    matrix; of a tensor of more dimensions, slices along the first."""
    stride = flat.shape[0] // SAMPLE
    if stride < 2:
        return flat[:SAMPLE]
    index = torch.arange(SAMPLE, device=flat.device)
    return flat[index * stride + ((index * 2654435761) >> 7) % stride]


def observe_(
    counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor, row: int, tensor: torch.Tensor
) -> None:
    """Adds every element of a tensor to one row.

    Args:
        counts: int64[rows, layout.BINS].
        moments: float64[rows, layout.SLOTS].
        parameters: float64[rows, layout.PARAMETERS]; set here by the first tensor with a finite element.
        row: which row.
        tensor: strided and real, on the same device; any element type and layout; an empty one adds nothing.
    """
    flat, times = storage_order(tensor)
    if not flat.numel() or not times:
        return
    wide = wide_dtype(flat.device)
    known = parameters[row, : layout.KIND]
    unset = known[layout.SCALE] == 0
    chosen = torch.where(unset, _choose(sample(flat).to(wide)), known.to(wide))
    for piece in flat.split(PIECE):
        _fold(counts[row], moments[row], chosen, piece.to(wide), times)
    met = moments[row, layout.MAX] > -torch.inf
    known.copy_(torch.where(unset & met, chosen, known))


def _fold(counts: torch.Tensor, moments: torch.Tensor, chosen: torch.Tensor, x: torch.Tensor, times: int) -> None:
    pivot, scale = chosen.unbind()
    finite = x.abs() < torch.inf
    spike = x == pivot
    y = torch.where(finite, (x - pivot) * scale, 0)
    bins = code(y.abs().clamp(layout.LOWEST, layout.HIGHEST)) + torch.where(x < pivot, layout.SIDE, 0)
    binned = _histogram(torch.where(finite & ~spike, bins, layout.BINS).int())
    counts.add_(binned, alpha=times)
    added = torch.stack(
        [
            torch.full_like(pivot, x.numel()),
            spike.sum(),
            (x == 0).sum(),
            x.isnan().sum(),
            (x == torch.inf).sum(),
            (x == -torch.inf).sum(),
            y.sum(),
            (y * y).sum(),
        ]
    ).to(moments.dtype)
    moments[: layout.ADDITIVE].add_(added, alpha=times)
    extremes = torch.stack([torch.where(finite, -x, -torch.inf).amax(), torch.where(finite, x, -torch.inf).amax()])
    moments[layout.ADDITIVE :].copy_(torch.maximum(moments[layout.ADDITIVE :], extremes))


def code(magnitude: torch.Tensor) -> torch.Tensor:
    """The bin, on its side, of numbers in [LOWEST, HIGHEST]: their exponent and leading mantissa bits."""
    integer, shift, bias = _format(magnitude.dtype)
    lowest = (bias + layout.BINADES_ABOVE - layout.BINADES) << layout.MANTISSA_BITS
    return (magnitude.view(integer) >> (shift - layout.MANTISSA_BITS)) - lowest


def _histogram(index: torch.Tensor) -> torch.Tensor:
    """How often each of the numbers below ``BINS`` occurs in an int32 tensor of numbers up to ``BINS``: int64[BINS]."""
    if index.device.type == "cpu":
        return torch.bincount(index, minlength=layout.BINS + 1)[: layout.BINS]
    if index.device.type == "cuda":
        return torch.histc(index, layout.BINS + 1, 0, layout.BINS + 1)[: layout.BINS].long()
    table = torch.zeros(layout.BINS + 1, dtype=torch.int32, device=index.device)
    return table.index_add_(0, index, torch.ones_like(index))[: layout.BINS].long()


def _choose(values: torch.Tensor) -> torch.Tensor:
    """``[pivot, scale]`` by the rules of ``layout``, from a sample that may hold NaN and infinities."""
    finite = values.abs() < torch.inf
    number = finite.sum().clamp(min=1)
    low = torch.where(finite, values, torch.inf).amin()
    high = torch.where(finite, values, -torch.inf).amax()
    offset = torch.where(finite, values - low, 0)
    mean = offset.sum() / number
    std = (torch.where(finite, offset - mean, 0).square().sum() / number).sqrt()
    return choose(low, high, low + mean, std)


def choose(low: torch.Tensor, high: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """``[..., 2]``, pivots and scales by the rules of ``layout`` for data of these extremes, means and deviations;
    [0, 1] where low is above high, which stands for no data."""
    first, last = torch.maximum(low, mean - std / 2).abs(), torch.minimum(high, mean + std / 2).abs()
    magnitude = fewest_bits(torch.minimum(first, last), torch.maximum(first, last))
    pivot = torch.where(narrow(low, high), torch.copysign(magnitude, low), 0)
    return torch.stack([pivot, scale_for(low, high, pivot)], dim=-1)


def narrow(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """``layout.wants_pivot``, false where low is above high."""
    right, left = (low > 0) & (high < layout.NARROW * low), (high < 0) & (-low < -layout.NARROW * high)
    return (right | left) & (low <= high)


def scale_for(low: torch.Tensor, high: torch.Tensor, pivot: torch.Tensor) -> torch.Tensor:
    """``layout.choose_scale`` of the farthest end from the pivot; 1 where low is above high."""
    distance = torch.maximum((low - pivot).abs(), (high - pivot).abs())
    distance = torch.where(distance > 0, distance, pivot.abs())
    return _reciprocal_power(torch.where((distance > 0) & (low <= high), distance, 1))


def fewest_bits(small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
    """The number above ``small`` and up to ``large`` with the fewest significand bits; both are positive."""
    integer, _, _ = _format(small.dtype)
    bits = large.view(integer)
    differing = small.view(integer) ^ bits
    for step in (1, 2, 4, 8, 16, 32):
        if step < 8 * small.element_size():
            differing = differing | (differing >> step)
    return (bits & ~(differing >> 1)).view(large.dtype)


def _reciprocal_power(value: torch.Tensor) -> torch.Tensor:
    """1 / 2**floor(log2(value)) of a positive number, exactly, kept off the ends of the exponent's range."""
    integer, shift, bias = _format(value.dtype)
    exponent = (value.view(integer) >> shift).clamp(1, 2 * bias - 1)
    return ((2 * bias - exponent) << shift).view(value.dtype)


def _format(dtype: torch.dtype) -> tuple[torch.dtype, int, int]:
    """The integer type as wide as a float type, its mantissa's bits and its exponent's bias."""
    return (torch.int64, 52, 1023) if dtype == torch.float64 else (torch.int32, 23, 127)
