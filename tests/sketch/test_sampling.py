from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from torchboard.sketch import layout
from torchboard.sketch.sampling import BLOCK, blocks_of
from torchboard.sketch.table import SketchTable

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int16, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sample_is_made_of_whole_blocks_of_the_tensor(dtype):
    whole = torch.arange(40 * BLOCK + 7).remainder(97).to(dtype)
    sample = blocks_of(whole, 10 * BLOCK + 3)
    assert sample.dtype == dtype and sample.shape == (10, BLOCK)
    blocks = {tuple(block) for block in whole[: 40 * BLOCK].double().view(40, BLOCK).tolist()}
    assert all(tuple(block) in blocks for block in sample.double().tolist())


def test_blocks_are_evenly_spread_and_differ():
    places = blocks_of(torch.arange(1000 * BLOCK), 64 * BLOCK)[:, 0] // BLOCK
    gaps = places.diff()
    assert len(places.unique()) == 64
    assert (
        places[0] < 1000 / 64 and places[-1] >= 1000 - 1000 / 64 and gaps.min() > 0 and gaps.max() < 2 * 1000 / 64 + 1
    )


def test_blocks_do_not_stay_in_the_same_columns_of_a_matrix():
    columns = torch.arange(4096 * 1024).remainder(1024)
    seen = blocks_of(columns, 128 * BLOCK)[:, 0].bincount(minlength=1024)[::BLOCK]
    assert seen.min() > 128 / 4 / 2


@pytest.mark.parametrize("number", [0, 1, BLOCK, 1000])
def test_a_tensor_of_no_more_elements_stays_as_it_is(number):
    tensor = torch.randn(number)
    assert blocks_of(tensor, 1000) is tensor


def test_what_is_expanded_counts_as_often_as_it_occurs():
    assert blocks_of(torch.zeros(1).expand(10**9), 1000).numel() == 10**9
    sample = blocks_of(torch.arange(100 * BLOCK).expand(3, -1), 10 * BLOCK)
    assert sample.shape == (3, 10, BLOCK) and torch.equal(sample[0], sample[2])


def test_a_table_counts_what_it_has_read_and_says_of_how_much():
    table = SketchTable(max_elements=4 * BLOCK)
    for _ in range(3):
        table.add_row()
    table.observe_(0, torch.randn(50, 1000))
    table.observe_(1, torch.randn(1000))
    table.observe_(0, torch.randn(60, 1000).t())
    assert table.sampled == {0: (4 * BLOCK, 60_000)}
    rows = table.read()
    assert rows.moments[:, layout.COUNT].tolist() == [8 * BLOCK, 1000, 0]
    assert int(rows.counts[0].sum()) == 8 * BLOCK


def test_the_stated_error_holds_where_neighbours_are_unlike():
    values, most = torch.randn(1 << 21, generator=torch.Generator().manual_seed(0)), 1 << 14
    sample = blocks_of(values, most)
    for edge in (-2.0, -0.5, 0.0, 1.0):
        share, found = (float((part < edge).double().mean()) for part in (values, sample))
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / most)


class _Spy(TorchDispatchMode):
    """Notes what gives a number to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(word in str(function) for word in ("_local_scalar_dense", "nonzero", "masked_select", "_to_copy")):
            self.waits.append(str(function))
        return function(*args, **(kwargs or {}))


def test_sampling_waits_for_no_device():
    with _Spy() as spy:
        blocks_of(torch.randn(100_000), 2048)
        blocks_of(torch.randn(1000, 300).t()[::2], 2048)
    assert not spy.waits
