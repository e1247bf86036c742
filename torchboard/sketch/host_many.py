"""Folds many small tensors in the host's memory at once, at a few microseconds a tensor.

Small floating-point tensors of one element type are laid behind one another and read as the rows of a narrow matrix, the
last row of each filled up with its last element. The operations that ``host`` launches for each tensor are launched once for
all, on the rows, and what rows give is put together by tensor. What float32 would not get right (NaN, infinities, extreme
magnitudes) goes to ``host`` one by one. The rows of the table get the same bins and figures either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch

from torchboard.sketch import host, layout, reference

SMALL = 1 << 12
"""Most elements of a tensor that is folded with others."""
MANY = 1 << 17
"""Most elements that are folded at once; bounds the scratch memory at about 5 MB."""
_WORTH = 4
"""Fewest tensors that are folded together."""
_WIDTH = 64
"""Elements of a row of the matrix."""
DTYPES = {torch.float32, torch.bfloat16, torch.float16}
_LARGE = 2.0**40
"""Magnitudes up to this one, and from its reciprocal on, leave float32 room for squares and their sum."""

Pair = tuple[int, torch.Tensor]
"""A row of the table and a tensor for it."""


def observe_many_(
    counts: torch.Tensor,
    moments: torch.Tensor,
    parameters: torch.Tensor,
    rows: Sequence[int],
    tensors: Sequence[torch.Tensor],
) -> None:
    """``host.observe_`` for each of the rows with the tensor beside it, the small ones together: the first one of each row,
    which decides how it looks at numbers, and then the others of a row as one."""
    buffers = counts, moments, parameters
    first: dict[torch.dtype, dict[int, torch.Tensor]] = {}
    later: dict[torch.dtype, dict[int, list[torch.Tensor]]] = {}
    for row, tensor in zip(rows, tensors, strict=True):
        if not 0 < tensor.numel() <= SMALL or tensor.dtype not in DTYPES:
            host.observe_(*buffers, row, tensor)
        elif row not in (rows_met := first.setdefault(tensor.dtype, {})):
            rows_met[row] = tensor.detach()
        else:
            later.setdefault(tensor.dtype, {}).setdefault(row, []).append(tensor.detach().reshape(-1))
    more = ([(row, torch.cat(found)) for row, found in of_type.items()] for of_type in later.values())
    for pairs in (*(list(of_type.items()) for of_type in first.values()), *more):
        for part in _parts(pairs):
            _fold(buffers, part)


def _parts(pairs: list[Pair]) -> Iterable[list[Pair]]:
    """The pairs in order, at most ``MANY`` elements together."""
    part, elements = [], 0
    for pair in pairs:
        elements += pair[1].numel()
        if elements > MANY:
            yield part
            part, elements = [], pair[1].numel()
        part.append(pair)
    yield part


def _fold(buffers: tuple[torch.Tensor, ...], pairs: list[Pair]) -> None:
    simple = _fold_together(buffers, pairs) if len(pairs) >= _WORTH else [False] * len(pairs)
    if simple is None:
        return
    for pair, is_simple in zip(pairs, simple):
        if not is_simple:
            host.observe_(*buffers, *pair)
    if any(simple):
        _fold(buffers, [pair for pair, is_simple in zip(pairs, simple) if is_simple])


class _Plan(NamedTuple):
    """How tensors of some lengths make a matrix of ``n`` rows."""

    lengths: torch.Tensor  # int64[tensors]
    rows: torch.Tensor  # int64[tensors], of each tensor in the matrix
    owner: torch.Tensor  # int64[n], the tensor that a row belongs to
    index: torch.Tensor  # int32[n * _WIDTH], the element that stands in each place
    inside: torch.Tensor  # float32[n, _WIDTH], 1 where that is its own place, 0 where it fills up


@lru_cache(maxsize=16)
def _plan(lengths: tuple[int, ...]) -> _Plan:
    with torch.inference_mode(False):
        long = torch.tensor(lengths, dtype=torch.int64, device="cpu")
        rows = (long + _WIDTH - 1) // _WIDTH
        owner = torch.repeat_interleave(rows)
        end = long.cumsum(0)
        start = end - long - (rows.cumsum(0) - rows) * _WIDTH
        place = torch.arange(len(owner) * _WIDTH, device="cpu").view(-1, _WIDTH) + start[owner].unsqueeze(1)
        inside = place < end[owner].unsqueeze(1)
        index = torch.minimum(place, end[owner].unsqueeze(1) - 1)
        return _Plan(long, rows, owner, index.view(-1).int(), inside.float())


def _fold_together(buffers: Iterable[torch.Tensor], pairs: list[Pair]) -> list[bool] | None:
    """Adds tensors of one type to their rows, no row twice. If one of them needs more care nothing is done, and which do not
    is said."""
    counts, moments, parameters = buffers
    plan = _plan(tuple(tensor.numel() for _, tensor in pairs))
    flat = torch.cat([tensor.reshape(-1) for _, tensor in pairs]).float()
    x = flat.index_select(0, plan.index).view(-1, _WIDTH)
    rows = torch.tensor([row for row, _ in pairs], device="cpu")
    known = _known(moments.index_select(0, rows), parameters.index_select(0, rows))
    low, high = _by_tensor(plan, x.amin(1), "min"), _by_tensor(plan, x.amax(1), "max")
    pivot, scale = _parameters(pairs, low, high, known)
    distance = torch.maximum((low - pivot).abs(), (high - pivot).abs())
    if not _all_simple(distance, scale, known, pivot) and not all(
        simple := list(map(bool, _simple(distance, pivot, scale, known)))
    ):
        return simple
    y = x.sub(pivot.float().index_select(0, plan.owner).unsqueeze(1)).mul_(plan.inside).add_(0.0)  # no negative zero
    spike = zeros = plan.lengths - _nonzero(plan, y)
    if bool(pivot.any()):
        zeros = plan.lengths - _nonzero(plan, x.mul_(plan.inside))
    total = _by_tensor(plan, y.sum(1), "sum") * scale
    squares = _by_tensor(plan, torch.linalg.vector_norm(y, dim=1).double().square_(), "sum") * scale * scale
    special = torch.zeros_like(scale)
    figures = [plan.lengths, spike, zeros, special, special, special, total, squares, -low, high]
    unused = spike + (plan.rows * _WIDTH - plan.lengths)
    _count_(counts, rows, plan.owner, y.mul_(scale.float().index_select(0, plan.owner).unsqueeze(1)), unused)
    _add_(moments, rows, torch.stack([figure.double() for figure in figures], dim=1))
    parameters.index_copy_(0, rows, torch.stack([pivot, scale, torch.full_like(scale, layout.FLOATS)], dim=1))
    return None


def _by_tensor(plan: _Plan, figures: torch.Tensor, reduction: str) -> torch.Tensor:
    """Figures of the matrix's rows put together, float64[tensors]."""
    return torch.segment_reduce(figures.double(), reduction, lengths=plan.rows, unsafe=True)


def _known(figures: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """Parameters of rows; without a scale where nothing was met but the pivot, since any fits that."""
    pivot = parameters[:, layout.PIVOT]
    spike = (figures[:, layout.MAX] == pivot) & (-figures[:, layout.NEGATED_MIN] == pivot)
    parameters[:, layout.SCALE].masked_fill_(spike, 0.0)
    return parameters


def _parameters(
    pairs: list[Pair], low: torch.Tensor, high: torch.Tensor, known: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pivots and scales, float64[n]: those of the rows, or chosen by the rules of ``layout`` where a row has none."""
    pivot, scale = known[:, layout.PIVOT].clone(), known[:, layout.SCALE].clone()
    unset = scale == 0
    if not bool(unset.any()):
        return pivot, scale
    for place in map(int, torch.nonzero(unset & (pivot == 0) & reference.narrow(low, high))):
        least, greatest = float(low[place]), float(high[place])
        values = reference.sample(pairs[place][1].reshape(-1)).double() - least
        std, mean = map(float, torch.std_mean(values, correction=0))
        pivot[place] = layout.choose_pivot(least, greatest, least + mean, std)
    return pivot, torch.where(unset, reference.scale_for(low, high, pivot), scale)


def _all_simple(distance: torch.Tensor, scale: torch.Tensor, known: torch.Tensor, pivot: torch.Tensor) -> bool:
    """Whether a glance finds what ``_simple`` would find of every row; false does not mean that it would not."""
    nearest, farthest = map(float, torch.aminmax(distance))
    finest, coarsest = map(float, torch.aminmax(scale))
    within = 1 / _LARGE <= min(nearest, finest) and max(farthest, coarsest) <= _LARGE
    return within and not bool(pivot.any()) and not bool(known[:, layout.KIND].any())


def _simple(distance: torch.Tensor, pivot: torch.Tensor, scale: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Which rows float32 gets right: finite, of moderate magnitudes, around a pivot that is a float32 number."""
    right = (distance <= _LARGE) & ((distance >= 1 / _LARGE) | (distance == 0))
    right &= (scale <= _LARGE) & (scale >= 1 / _LARGE) & (pivot.float() == pivot)
    return right & (known[:, layout.KIND] == layout.FLOATS)


def _nonzero(plan: _Plan, y: torch.Tensor) -> torch.Tensor:
    """How many elements of each tensor are not zero, float64[tensors]."""
    return _by_tensor(plan, y.sign().abs_().sum(1), "sum")


def _add_(moments: torch.Tensor, rows: torch.Tensor, added: torch.Tensor) -> None:
    """Adds figures to the moments of their rows, and widens their extremes."""
    figures = moments.index_select(0, rows)
    extremes = torch.maximum(figures, added)[:, layout.ADDITIVE :]
    figures.add_(added)[:, layout.ADDITIVE :] = extremes
    moments.index_copy_(0, rows, figures)


def _count_(
    counts: torch.Tensor, rows: torch.Tensor, owner: torch.Tensor, y: torch.Tensor, zeros: torch.Tensor
) -> None:
    """Adds normalised elements to the bins of their rows, all but the zeros, which are positive and so many a row."""
    base = (rows * layout.BINS).index_select(0, owner).unsqueeze(1)
    base = base.int() if counts.numel() < 2**31 else base
    bins = reference.code(y.abs().clamp_(layout.LOWEST, layout.HIGHEST))
    bins += (y.view(torch.int32) >> 31).bitwise_and_(layout.SIDE)
    bins = (bins + base).view(-1)
    one = torch.ones(1, dtype=torch.int64, device="cpu").expand(bins.numel())
    counts.view(-1).index_add_(0, bins, one)
    counts.select(1, 0).index_add_(0, rows, zeros.long(), alpha=-1)
