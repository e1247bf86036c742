"""Rows of parts, merged, against the rows of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sketch_ranks import draw, on_a_rank, shards, table_of, with_specials
from torch.multiprocessing import spawn

from torchboard.sketch import host, layout
from torchboard.sketch.merging import merge
from torchboard.sketch.rows import TableRows
from torchboard.sketch.table import SketchTable, sketch_of

SAME_PIVOT = {
    "of other scales": (draw(0) * 0.02, draw(1) * 3),
    "with NaN, infinities and zeros": (with_specials(0), 1e-3 * with_specials(1), 1e3 * with_specials(2)),
    "behind a ReLU": (draw(0).relu(), 100 * draw(1).relu()),
    "normalisation weights": (1 + 1e-3 * draw(0), 1 + 1e-2 * draw(1), torch.ones(5)),
    "empty, without a number, and some": (draw(0, 0), torch.full((4,), torch.nan), draw(1)),
    "nothing finite": (torch.tensor([torch.nan]), torch.tensor([torch.inf])),
    "zeros": (torch.zeros(3), -torch.zeros(5)),
    "integers": (torch.arange(10), torch.arange(-5, 300), torch.arange(100, dtype=torch.uint8).long()),
    "integers far from zero": (torch.arange(5000, 5100), torch.arange(6000, 6100), torch.tensor([5500])),
    "bytes": (torch.arange(100, dtype=torch.uint8), torch.arange(256).to(torch.uint8)),
    "8-bit floats": (draw(0).to(torch.float8_e4m3fn), (100 * draw(1)).to(torch.float8_e4m3fn)),
    "many 8-bit floats": (torch.arange(256, dtype=torch.uint8).view(torch.float8_e5m2),) * 3,
    "float64 beyond float32": (1e200 * draw(0).double(), 1e180 * draw(1).double()),
}


def _check(merged: TableRows, whole: TableRows) -> None:
    assert torch.equal(merged.parameters, whole.parameters)
    assert torch.equal(merged.counts, whole.counts)
    exact = [*range(layout.SUM), layout.NEGATED_MIN, layout.MAX]
    assert torch.equal(merged.moments[:, exact], whole.moments[:, exact])
    sums = merged.moments[:, layout.SUM : layout.ADDITIVE], whole.moments[:, layout.SUM : layout.ADDITIVE]
    torch.testing.assert_close(*sums, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("name", SAME_PIVOT)
def test_parts_of_one_pivot_merge_to_the_whole(name):
    parts = SAME_PIVOT[name]
    bytewise = parts[0].dtype.itemsize == 1
    whole = torch.cat([part.view(torch.uint8) for part in parts]).view(parts[0].dtype) if bytewise else torch.cat(parts)
    _check(merge([sketch_of(part) for part in parts]), sketch_of(whole))


def test_the_order_of_parts_makes_no_difference():
    parts = [sketch_of(part) for part in (draw(0), 1000 + draw(1), 1e-3 * with_specials(2), torch.arange(9))]
    one, other = merge(parts), merge(parts[::-1])
    assert torch.equal(one.parameters, other.parameters) and torch.equal(one.counts, other.counts)


def test_merging_leaves_the_parts_as_they_are():
    part = sketch_of(1000 + draw(0))
    before = [buffer.clone() for buffer in part.buffers]
    merge([part, sketch_of(draw(1))])
    assert all(torch.equal(*pair) for pair in zip(part.buffers, before))


def _cumulative(rows: TableRows) -> tuple[np.ndarray, np.ndarray]:
    """Edges and how many elements lie below each, the spike at its own place."""
    pivot, scale, _ = rows.parameters[0].tolist()
    edges, counts = layout.edges(pivot, scale), layout.ascending(rows.counts[0].numpy()).astype(float)
    below = np.concatenate([[0], np.cumsum(counts)])
    below[layout.SIDE + 1 :] += rows.moments[0, layout.SPIKE].item()
    return edges, below


DIFFERENT_PIVOTS = {
    "1000 and 1003": (1000 + draw(0), 1003 + draw(1)),
    "one of no pivot": (1000 + draw(0), draw(1)),
    "of both signs": (5 + 0.1 * draw(0), -5 + 0.1 * draw(1)),
    "constants": (torch.full((5,), 0.7), torch.full((7,), 0.9)),
    "integers and floats": (torch.arange(20), 100 + draw(0)),
    "8-bit floats and others": (draw(0).to(torch.float8_e5m2), 7 + 0.1 * draw(1)),
    "zeros joining a pivot": (torch.cat([1 + 0.01 * draw(0)]), torch.tensor([0.0, -1.0, 1.0])),
}


@pytest.mark.parametrize("name", DIFFERENT_PIVOTS)
def test_parts_of_different_pivots_move_by_one_bin_at_most(name):
    parts = DIFFERENT_PIVOTS[name]
    sketches = [sketch_of(part) for part in parts]
    merged = merge(sketches)
    whole = torch.cat([part.double() for part in parts]).sort().values.numpy()
    moments, pivot = merged.moments[0].numpy(), merged.parameters[0, layout.PIVOT]
    assert moments[layout.COUNT] == len(whole) == merged.counts.sum() + moments[layout.SPIKE]
    assert (-moments[layout.NEGATED_MIN], moments[layout.MAX]) == (whole[0], whole[-1])
    assert moments[layout.ZEROS] == (whole == 0).sum() and merged.counts.min() >= 0
    if pivot == 0:
        assert moments[layout.SPIKE] == moments[layout.ZEROS]
    elif moments[layout.MAX] > -moments[layout.NEGATED_MIN]:
        assert whole[0] <= pivot <= whole[-1]
    assert layout.mean(moments, merged.parameters[0].numpy()) == pytest.approx(whole.mean(), rel=1e-6, abs=1e-6)
    assert layout.std(moments, merged.parameters[0].numpy()) == pytest.approx(whole.std(), rel=1e-5)
    edges, below = _cumulative(merged)
    reach = max(np.ptp(part.double().numpy()) / 30 for part in parts) * 1.01
    inner = slice(1, -1)
    assert (below[inner] <= np.searchsorted(whole, edges[inner] + reach, "right")).all()
    assert (below[inner] >= np.searchsorted(whole, edges[inner] - reach, "left")).all()


numbers = st.one_of(
    st.floats(width=32, allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 1.0, -1.0]),
    st.integers(-100, 100).map(float),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(numbers, max_size=30), min_size=1, max_size=4))
def test_nothing_is_lost_whatever_is_merged(parts):
    tensors = [torch.tensor(part, dtype=torch.float32) for part in parts]
    merged = merge([sketch_of(tensor) for tensor in tensors])
    whole = torch.cat(tensors).double()
    finite = whole[whole.isfinite()]
    moments = merged.moments[0]
    assert moments[layout.COUNT] == len(whole) and moments[layout.ZEROS] == (whole == 0).sum()
    assert moments[layout.NAN] == whole.isnan().sum() and moments[layout.POS_INF] == (whole == torch.inf).sum()
    assert merged.counts.sum() + moments[layout.SPIKE] == len(finite)
    assert merged.counts.min() >= 0
    if len(finite):
        assert moments[layout.MAX] == finite.max() and -moments[layout.NEGATED_MIN] == finite.min()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=2, max_size=60), st.integers(1, 59), st.floats(-1, 1)
)
def test_any_cut_of_data_around_zero_merges_to_the_whole(values, cut, opposite):
    """Where both parts touch both signs, both pivots are zero."""
    ends = [1.0 + opposite, -1.0]
    parts = [torch.tensor(values[:cut] + ends), torch.tensor(values[cut:] + ends)]
    merged, whole = merge([sketch_of(part) for part in parts]), sketch_of(torch.cat(parts))
    assert torch.equal(merged.parameters, whole.parameters)
    assert torch.equal(merged.counts, whole.counts)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of what four processes, and two of them, made of the shards."""
    directory = tmp_path_factory.mktemp("ranks")
    spawn(on_a_rank, (4, str(directory)), nprocs=4)
    return directory


@pytest.mark.parametrize("number", [2, 4])
def test_ranks_that_agree_merge_to_the_whole(ranks, number):
    merged = TableRows(*torch.load(ranks / f"agreed-{number}-0"))
    together = SketchTable()
    wholes = shards(0, 1)
    for _ in wholes:
        together.add_row()
    together._buffers.parameters[: len(wholes)] = merged.parameters
    for row, whole in enumerate(wholes):
        together.observe_(row, whole)
    whole = together.read()
    exact = [*range(layout.SUM), layout.NEGATED_MIN, layout.MAX]
    assert torch.equal(merged.moments[:, exact], whole.moments[:, exact])
    assert torch.equal(merged.counts, whole.counts)
    assert merged.parameters[1, layout.PIVOT] == 1000 and merged.parameters[2, layout.PIVOT] == 1


@pytest.mark.parametrize("number", [2, 4])
def test_all_ranks_hold_the_same_and_as_merging_here_would_give(ranks, number):
    parts = [table_of(shards(rank, number)).read() for rank in range(number)]
    expected = merge(parts)
    for rank in range(number):
        merged = TableRows(*torch.load(ranks / f"merged-{number}-{rank}"))
        assert torch.equal(merged.counts, expected.counts) and torch.equal(merged.parameters, expected.parameters)
        torch.testing.assert_close(merged.moments, expected.moments, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["agreed", "merged"])
@pytest.mark.parametrize("number", [2, 4])
def test_the_norm_of_shards_is_that_of_the_whole(ranks, number, kind):
    merged = TableRows(*torch.load(ranks / f"{kind}-{number}-{number - 1}"))
    norms = layout.norm(merged.moments.numpy(), merged.parameters.numpy())
    for norm, whole in zip(norms, shards(0, 1)):
        finite = whole.double()[whole.isfinite()]
        assert norm == pytest.approx(torch.linalg.vector_norm(finite).item(), rel=1e-6)


def test_a_row_of_integers_becomes_one_of_floats_where_it_must():
    for others in (torch.randn(9), torch.tensor([100_000]), torch.tensor([-3000])):
        table = SketchTable()
        row = table.add_row()
        table.observe_(row, torch.arange(-3, 50))
        table.observe_(row, others)
        rows = table.read()
        plain = TableRows(*(torch.zeros_like(buffer) for buffer in rows.buffers))
        plain.moments[:, layout.ADDITIVE :] = -torch.inf
        plain.parameters.copy_(rows.parameters)
        host.observe_(*plain.buffers, 0, torch.arange(-3, 50).double())
        host.observe_(*plain.buffers, 0, others.double())
        assert rows.parameters[0, layout.KIND] == layout.FLOATS
        assert torch.equal(rows.counts, plain.counts)
        torch.testing.assert_close(rows.moments, plain.moments, rtol=1e-6, atol=1e-6)


def test_zeros_leave_their_bin_when_the_pivot_becomes_zero():
    table = SketchTable()
    row = table.add_row()
    later = torch.cat([torch.zeros(7), torch.tensor([-0.01, 0.02])])
    for tensor in (5 + 0.1 * draw(0, 50), later):
        table.observe_(row, tensor)
    merged = merge([table.read(), sketch_of(draw(1, 20))])
    assert merged.parameters[0, layout.PIVOT] == 0
    assert merged.moments[0, layout.SPIKE] == merged.moments[0, layout.ZEROS] == 7
    assert merged.counts.min() >= 0 and merged.counts.sum() == 50 + 2 + 20
