"""Folds many small tensors in the host's memory at once, at a few microseconds a tensor.

Small floating-point tensors of one element type and number of elements are put on top of each other, as the rows of a
matrix, and the operations that ``host`` launches for each are launched once for all. Where a matrix would hold too
little to pay, or something that float32 would not get right (NaN, infinities, extreme magnitudes), its tensors go to
``host`` one by one. The rows get the same bins and figures either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from torchboard.sketch import host, layout, reference

_SMALL = 1 << 12
"""Most elements of a tensor that goes into a matrix."""
_WORTH = 4
"""Fewest tensors of a matrix."""
_MOST = 1 << 20
"""Most elements of a matrix; bounds the scratch memory at about 40 MB."""
_DTYPES = {torch.float32, torch.bfloat16, torch.float16}
_LARGE = 2.0**40
"""Magnitudes up to this one, and from its reciprocal on, leave float32 room for squares and their sum."""


def observe_many_(
    counts: torch.Tensor,
    moments: torch.Tensor,
    parameters: torch.Tensor,
    rows: Sequence[int],
    tensors: Sequence[torch.Tensor],
) -> None:
    """``host.observe_`` for each of the rows with the tensor beside it, the small ones together."""
    buffers = counts, moments, parameters
    alike: dict[tuple[torch.dtype, int], list[tuple[int, torch.Tensor]]] = {}
    single: list[tuple[int, torch.Tensor]] = []
    met: set[int] = set()
    for row, tensor in zip(rows, tensors, strict=True):
        number = tensor.numel()
        if 0 < number <= _SMALL and tensor.dtype in _DTYPES and row not in met:
            alike.setdefault((tensor.dtype, number), []).append((row, tensor))
        else:
            single.append((row, tensor))
        met.add(row)
    careful: list[tuple[int, torch.Tensor]] = []
    for (_, number), pairs in alike.items():
        for start in range(0, len(pairs), _MOST // number):
            part = pairs[start : start + _MOST // number]
            if len(part) < _WORTH or not _fold_matrix(buffers, part):
                careful += part
    for row, tensor in careful + single:
        host.observe_(*buffers, row, tensor)


def _fold_matrix(buffers: Iterable[torch.Tensor], pairs: list[tuple[int, torch.Tensor]]) -> bool:
    """Adds tensors of one type and size to their rows; False, and nothing done, if one of them needs more care."""
    counts, moments, parameters = buffers
    x = torch.stack([tensor.detach().reshape(-1) for _, tensor in pairs]).float()
    rows = torch.tensor([row for row, _ in pairs], device="cpu")
    known = _known(moments.index_select(0, rows), parameters.index_select(0, rows))
    low, high = x.amin(1).double(), x.amax(1).double()
    pivot, scale = _parameters(x, low, high, known)
    distance = torch.maximum((low - pivot).abs(), (high - pivot).abs())
    if not bool(_simple(distance, pivot, scale, known).all()):
        return False
    zeros = x.shape[1] - _nonzero(x)
    y = x.add_(pivot.neg().add_(0.0).float().unsqueeze(1))  # no zero of it is negative
    spike = x.shape[1] - _nonzero(y)
    total, norm = y.sum(1).double() * scale, torch.linalg.vector_norm(y, dim=1).double() * scale
    special, number = torch.zeros_like(scale), torch.full_like(scale, x.shape[1])
    figures = [number, spike, zeros, special, special, special, total, norm.square_(), -low, high]
    _count_(counts, rows, y.mul_(scale.float().unsqueeze(1)), spike)
    _add_(moments, rows, torch.stack(figures, dim=1))
    kind = torch.full_like(scale, layout.FLOATS)
    parameters.index_copy_(0, rows, torch.stack([pivot, scale, kind], dim=1))
    return True


def _known(figures: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """Parameters of rows; without a scale where nothing was met but the pivot, since any fits that."""
    pivot = parameters[:, layout.PIVOT]
    spike = (figures[:, layout.MAX] == pivot) & (-figures[:, layout.NEGATED_MIN] == pivot)
    parameters[:, layout.SCALE].masked_fill_(spike, 0.0)
    return parameters


def _parameters(
    x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, known: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pivots and scales, float64[n]: those of the rows, or chosen by the rules of ``layout`` where a row has none."""
    unset, pivot = known[:, layout.SCALE] == 0, known[:, layout.PIVOT].clone()
    wanting = torch.nonzero(unset & (pivot == 0) & reference.narrow(low, high)).squeeze(1)
    if len(wanting):
        least = low[wanting]
        values = reference.sample(x[wanting].t()).t().double() - least.unsqueeze(1)
        mean = values.mean(1)
        std = (values - mean.unsqueeze(1)).square_().mean(1).sqrt_()
        pivot[wanting] = reference.choose(least, high[wanting], least + mean, std)[:, layout.PIVOT]
    return pivot, torch.where(unset, reference.scale_for(low, high, pivot), known[:, layout.SCALE])


def _simple(distance: torch.Tensor, pivot: torch.Tensor, scale: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Which rows float32 gets right: finite, of moderate magnitudes, around a pivot that is a float32 number."""
    right = (distance <= _LARGE) & ((distance >= 1 / _LARGE) | (distance == 0))
    right &= (scale <= _LARGE) & (scale >= 1 / _LARGE) & (pivot.float() == pivot)
    return right & (known[:, layout.KIND] == layout.FLOATS)


def _nonzero(y: torch.Tensor) -> torch.Tensor:
    """How many elements of each row are not zero, float64[n]."""
    return y.sign().abs_().sum(1).double()


def _add_(moments: torch.Tensor, rows: torch.Tensor, added: torch.Tensor) -> None:
    """Adds figures to the moments of their rows, and widens their extremes."""
    figures = moments.index_select(0, rows)
    extremes = torch.maximum(figures, added)[:, layout.ADDITIVE :]
    figures.add_(added)[:, layout.ADDITIVE :] = extremes
    moments.index_copy_(0, rows, figures)


def _count_(counts: torch.Tensor, rows: torch.Tensor, y: torch.Tensor, spike: torch.Tensor) -> None:
    """Adds normalised elements to the bins of their rows, all but the zeros, which are positive."""
    base = (rows * layout.BINS).unsqueeze(1).int() if counts.numel() < 2**31 else (rows * layout.BINS).unsqueeze(1)
    bins = reference.code(y.abs().clamp_(layout.LOWEST, layout.HIGHEST))
    bins += (y.view(torch.int32) >> 31).bitwise_and_(layout.SIDE)
    bins = (bins + base).view(-1)
    one = torch.ones(1, dtype=torch.int64, device="cpu").expand(bins.numel())
    counts.view(-1).index_add_(0, bins, one)
    counts.select(1, 0).index_add_(0, rows, spike.long(), alpha=-1)
