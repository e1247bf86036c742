from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch

from torchboard.sketch import layout
from torchboard.sketch.table import SketchTable

LARGE = 20_000


def _table(rows: int = 3) -> SketchTable:
    table = SketchTable()
    for _ in range(rows):
        table.add_row()
    return table


def _same(rows, one: int, other: int) -> bool:
    return all(torch.equal(buffer[one], buffer[other]) for buffer in rows.buffers)


def _write_unseen(values: torch.Tensor) -> None:
    """Where a look at the tensor would show it; autograd does not count what goes through ``.data``."""
    values.data.fill_(77)


@pytest.mark.parametrize("number", [LARGE, 100_000, 700_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "laid", [lambda x: x, lambda x: x.view(-1, 4, 5).transpose(1, 2)], ids=["in order", "transposed"]
)
def test_a_tensor_that_comes_twice_is_looked_at_once_and_counted_twice(on_host, number, dtype, laid):
    table = _table()
    values = laid(torch.randn(number).relu().to(dtype))
    copy = values.clone()
    table.observe_(0, values)
    _write_unseen(values)
    table.observe_(1, values.detach())
    table.observe_(2, copy)
    rows = table.read()
    assert _same(rows, 0, 1) and _same(rows, 0, 2)
    assert rows.moments[0, layout.ZEROS] > number / 3


def test_a_small_tensor_in_between_changes_nothing(on_host):
    table = _table()
    values = torch.randn(LARGE)
    table.observe_(0, values)
    table.observe_(1, torch.ones(100))
    _write_unseen(values)
    table.observe_(2, values)
    rows = table.read()
    assert _same(rows, 0, 2)


@pytest.mark.parametrize("number", [1500, 9000, LARGE + 1])
def test_another_tensor_in_between_is_not_taken_for_it(on_host, number):
    table = _table()
    values = torch.randn(LARGE)
    table.observe_(0, values)
    table.observe_(1, torch.randn(number).mul(100))
    table.observe_(2, values)
    rows = table.read()
    assert _same(rows, 0, 2)


def test_a_view_that_shows_each_element_twice_counts_them_twice(on_host):
    table = _table()
    values = torch.randn(LARGE)
    table.observe_(0, values)
    table.observe_(1, values.expand(2, LARGE))
    table.observe_(2, values)
    assert table.read().moments[:, layout.COUNT].tolist() == [LARGE, 2 * LARGE, LARGE]


def test_a_thread_looks_for_itself_at_what_another_one_has_seen(on_host):
    table = _table()
    values = torch.randn(LARGE)
    table.observe_(0, values)
    thread = threading.Thread(target=table.observe_, args=(1, values))
    thread.start()
    thread.join()
    table.observe_(2, values)
    rows = table.read()
    assert _same(rows, 0, 1) and _same(rows, 0, 2)


@pytest.mark.parametrize("first", [3 + 0.01 * torch.randn(LARGE), 1e-35 * torch.randn(LARGE), torch.arange(9)])
def test_a_row_that_looks_at_numbers_otherwise_gets_its_own_look(on_host, first):
    """Its pivot, or its scale, were chosen by other data."""
    table, alone = _table(), _table()
    values = torch.randn(LARGE)
    table.observe_(0, first)
    table.observe_(1, values)
    table.observe_(0, values)
    for tensor in (first, values):
        alone.observe_(0, tensor)
    assert all(torch.equal(*(buffer[0] for buffer in both)) for both in zip(table.read().buffers, alone.read().buffers))


@pytest.mark.parametrize("write", [lambda x: x.add_(1), lambda x: x[:5].zero_(), lambda x: x.view(-1).mul_(2)])
def test_a_tensor_that_was_written_to_in_between_is_looked_at_again(on_host, write):
    table = _table()
    values = torch.randn(LARGE)
    table.observe_(0, values)
    write(values)
    table.observe_(1, values)
    table.observe_(2, values)
    rows = table.read()
    assert not _same(rows, 0, 1) and _same(rows, 1, 2)


def test_other_tensors_of_the_same_memory_are_looked_at(on_host):
    table = _table()
    values = torch.randn(2 * LARGE)
    table.observe_(0, values)
    table.observe_(1, values[:LARGE])
    table.observe_(2, values[LARGE:])
    moments = table.read().moments
    assert moments[:, layout.COUNT].tolist() == [2 * LARGE, LARGE, LARGE]
    assert moments[:, layout.MAX].tolist() == [float(part.max()) for part in (values, values[:LARGE], values[LARGE:])]


def test_new_data_in_freed_memory_is_looked_at(on_host):
    table = _table()
    for row in range(3):
        table.observe_(row, torch.full((LARGE,), float(row + 1)) + torch.arange(LARGE) % 2)
    assert table.read().moments[:, layout.MAX].tolist() == [2, 3, 4]


def test_no_tensor_is_kept_alive(on_host):
    table = _table()
    for number in (10, LARGE):
        values = torch.randn(number)
        table.observe_(0, values)
        storage = weakref.ref(values.untyped_storage())
        del values
        gc.collect()
        assert storage() is None


@pytest.mark.parametrize("number", [3, 5000])
def test_small_tensors_are_counted_as_they_were_when_observed(number, on_host):
    table = _table()
    values = torch.ones(number)
    table.observe_(0, values)
    values.fill_(7)
    table.observe_(1, values)
    rows = table.read()
    assert rows.moments[:2, layout.MAX].tolist() == [1, 7]


@pytest.mark.parametrize("on_host", ["torch"], indirect=True)
def test_small_tensors_are_folded_before_they_are_too_many(on_host):
    table = _table(2)
    for _ in range(300):
        table.observe_(0, torch.ones(3))
    assert 0 < table._buffers.moments[0, layout.COUNT] < 900
    for _ in range(40):
        table.observe_(1, torch.ones(4096))
    assert table._buffers.moments[1, layout.COUNT] > 0
    assert table.read().moments[:, layout.COUNT].tolist() == [900, 40 * 4096]


def test_what_waits_is_cleared_with_the_rows_and_handed_over_once(on_host):
    table = _table()
    table.observe_(0, torch.ones(3))
    table.clear_()
    assert table.read().moments[0, layout.COUNT] == 0
    table.observe_(0, torch.ones(3))
    assert [int(table.read().moments[0, layout.COUNT]) for _ in range(2)] == [3, 0]


def test_a_row_that_is_not_there_is_refused_at_once(on_host):
    with pytest.raises(IndexError):
        _table().observe_(3, torch.ones(2))


def test_inference_tensors_and_ordinary_ones_go_to_the_same_rows(on_host):
    table = _table()
    with torch.inference_mode():
        table.observe_(0, torch.ones(5))
        table.observe_(1, torch.ones(LARGE))
        table.observe_(1, torch.ones(LARGE))
    table.observe_(0, torch.ones(5))
    table.observe_(1, torch.ones(LARGE))
    with torch.inference_mode():
        rows = table.read()
    assert rows.moments[:2, layout.COUNT].tolist() == [10, 3 * LARGE]


def test_parameters_are_folded_without_a_history(on_host):
    table = _table()
    table.observe_(0, torch.nn.Parameter(torch.ones(5)))
    table.observe_(1, torch.nn.Parameter(torch.randn(LARGE)))
    assert not any(buffer.requires_grad for buffer in table.read().buffers)
