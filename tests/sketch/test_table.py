from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from torchboard.errors import InvalidValueError
from torchboard.sketch import layout, ops, reference
from torchboard.sketch.table import SketchTable, sketch_of


def _table(rows: int = 2) -> SketchTable:
    table = SketchTable()
    for _ in range(rows):
        table.add_row()
    return table


def test_rows_are_numbered_and_survive_growth():
    table = SketchTable()
    for number in range(11):
        assert table.add_row() == number
        table.observe_(number, torch.full((number + 1,), float(number)))
    rows = table.read()
    assert table.rows == rows.rows == 11
    assert rows.counts.shape == (11, layout.BINS) and rows.counts.dtype == torch.int64
    assert rows.moments.shape == (11, layout.SLOTS) and rows.moments.dtype == torch.float64
    assert rows.parameters.shape == (11, layout.PARAMETERS) and rows.parameters.dtype == torch.float64
    assert rows.moments[:, layout.COUNT].tolist() == list(range(1, 12))
    assert rows.moments[:, layout.MAX].tolist() == list(range(11))
    assert rows.nbytes == 11 * (layout.BINS + layout.SLOTS + layout.PARAMETERS) * 8 <= table.nbytes


def test_read_hands_over_the_buffers_and_goes_on_with_empty_ones():
    table = _table()
    table.observe_(0, torch.ones(5))
    first = table.read()
    table.observe_(0, torch.zeros(3))
    second = table.read()
    assert first.moments[0, layout.COUNT] == 5 and first.parameters[0, layout.PIVOT] == 1
    assert second.moments[0, layout.COUNT] == 3 and second.parameters[0, layout.PIVOT] == 0
    assert second.moments[1, layout.MAX] == -torch.inf


def test_clear_empties_in_place():
    table = _table()
    table.observe_(1, torch.randn(50) + 100)
    table.clear_()
    fresh, cleared = _table().read(), table.read()
    for name in ("counts", "moments", "parameters"):
        assert torch.equal(getattr(cleared, name), getattr(fresh, name))


def test_many_tensors_go_to_their_rows():
    table = _table(3)
    table.observe_many_([2, 0], [torch.ones(2), torch.zeros(4)])
    assert table.read().moments[:, layout.COUNT].tolist() == [4, 0, 2]
    with pytest.raises(ValueError):
        table.observe_many_([0, 1], [torch.ones(2)])


def test_rows_of_one_pivot_and_scale_merge_by_adding_and_by_the_maximum():
    one, other = torch.tensor([1.0, -1.5, 0.0, torch.nan]), torch.tensor([0.25, -1.75, torch.inf])
    merged, parts = sketch_of(torch.cat([one, other])), [sketch_of(one), sketch_of(other)]
    assert torch.equal(sum(part.counts for part in parts), merged.counts)
    assert torch.equal(sum(part.moments[:, : layout.ADDITIVE] for part in parts), merged.moments[:, : layout.ADDITIVE])
    assert torch.equal(
        torch.maximum(*(part.moments[:, layout.ADDITIVE :] for part in parts)), merged.moments[:, layout.ADDITIVE :]
    )


@pytest.mark.parametrize(
    ("tensor", "wrong"),
    [
        (torch.zeros(2, dtype=torch.complex64), "no order"),
        (torch.eye(3).to_sparse(), "strided"),
        (torch.zeros(2, device="meta"), "no data"),
    ],
    ids=["complex", "sparse", "meta"],
)
def test_what_cannot_be_sketched_is_refused(tensor, wrong):
    with pytest.raises(InvalidValueError, match=wrong):
        _table().observe_(0, tensor)


def test_autograd_does_not_see_an_observation():
    table = _table()
    weight = torch.randn(30, requires_grad=True)
    output = weight * 2
    table.observe_(0, weight)
    table.observe_(1, output)
    output.sum().backward()
    rows = table.read()
    assert torch.equal(weight.grad, torch.full((30,), 2.0))
    for buffer in (rows.counts, rows.moments, rows.parameters):
        assert not buffer.requires_grad and buffer.grad_fn is None


def test_inference_tensors_and_modes_make_no_difference():
    expected = sketch_of(torch.arange(9.0))
    with torch.inference_mode():
        table = _table(1)
        inside = torch.arange(9.0)
        table.observe_(0, inside)
    first = table.read()
    assert torch.equal(first.counts, expected.counts)
    assert not any(buffer.is_inference() for buffer in (first.counts, first.moments, first.parameters))
    table.observe_(0, inside)
    with torch.no_grad():
        rows = table.read()
    assert torch.equal(rows.counts, expected.counts)


def test_a_default_device_of_another_kind_makes_no_difference():
    values = torch.randn(40)
    with torch.device("meta"):
        rows = sketch_of(values)
    assert rows.moments[0, layout.COUNT] == 40


class _NoSync(TorchDispatchMode):
    """Refuses every operation that brings data to the host or whose shape depends on data."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "values", [torch.randn(5000), torch.tensor([torch.nan, 1.0]), torch.ones(7), torch.zeros(3, 0)]
)
def test_the_reference_never_waits_for_the_device(values):
    rows = _table().read()
    with _NoSync():
        reference.observe_(rows.counts, rows.moments, rows.parameters, 0, values)


def test_observing_calls_nothing_that_brings_a_tensor_to_the_host(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise AssertionError("a tensor was brought to the host")

    table, values = _table(), torch.randn(100)
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    table.observe_(0, values)
    table.observe_(1, 1 + values)
    table.observe_(1, torch.full((3,), torch.nan))
    table.read()
    table.clear_()


def test_under_a_fake_tensor_nothing_happens():
    """Not even a look at the row: the buffers here have none."""
    with FakeTensorMode():
        no_rows = (torch.empty(0, size) for size in (layout.BINS, layout.SLOTS, layout.PARAMETERS))
        assert ops.observe_(*no_rows, 0, torch.empty(7)) is None


def test_the_operator_keeps_the_rules_of_torch():
    rows = _table().read()
    arguments = (rows.counts, rows.moments, rows.parameters, 1, torch.randn(20))
    torch.library.opcheck(ops.observe_, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_compiled_graph_observes_without_a_break(requires_grad):
    table = _table(1)
    weight = torch.randn(4, requires_grad=requires_grad)

    def forward(x):
        y = x * weight
        table.observe_(0, y)
        return y.sum()

    compiled = torch.compile(forward, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        loss = compiled(torch.ones(3, 4))
        if requires_grad:
            loss.backward()
    rows = table.read()
    assert rows.moments[0, layout.COUNT] == 24
    assert np.isclose(rows.moments[0, layout.MAX], weight.max().detach())
    compiled(torch.ones(3, 4))
    assert table.read().moments[0, layout.COUNT] == 12
    torch._dynamo.reset()
