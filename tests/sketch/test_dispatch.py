"""Which implementation folds, and what happens where the kernels cannot. No device here runs them: they are made to
fail, or found too old, or left out of the way, on tensors of the host."""

from __future__ import annotations

import builtins
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from triton_here import triton_is_new_enough

from torchboard.errors import TorchboardWarning
from torchboard.sketch import layout, ops, reference
from torchboard.sketch.table import SketchTable

needs_triton = pytest.mark.skipif(not triton_is_new_enough(), reason="the kernels need a newer Triton")


def _rows(number: int = 2) -> tuple[torch.Tensor, ...]:
    counts = torch.zeros(number, layout.BINS, dtype=torch.int64)
    moments = torch.zeros(number, layout.SLOTS, dtype=torch.float64)
    moments[:, layout.ADDITIVE :] = -torch.inf
    return counts, moments, torch.zeros(number, layout.PARAMETERS, dtype=torch.float64)


def _by_reference(number: int, rows: list[int], tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    buffers = _rows(number)
    for row, tensor in zip(rows, tensors):
        reference.observe_(*buffers, row, tensor)
    return buffers


def _same(mine: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(mine, theirs))


@pytest.fixture(autouse=True)
def _fresh_trials(monkeypatch):
    monkeypatch.setattr(ops, "_trials", ops._Trials())
    ops._kernels.cache_clear()


TENSORS = [torch.randn(50), torch.arange(3000), torch.randn(9).to(torch.bfloat16), 5 + torch.rand(4)]


@needs_triton
def test_a_triton_that_fails_is_replaced_with_one_warning(monkeypatch):
    from torchboard.sketch import triton_launch

    def fail(device, dtype):
        raise RuntimeError("ptxas died of a signal\nand said much more")

    monkeypatch.setattr(triton_launch, "probe", fail)
    buffers = _rows(4)
    with pytest.warns(TorchboardWarning, match=r"sketches on cpu .*RuntimeError: ptxas died of a signal\)$") as met:
        for _ in range(2):
            ops._observe_many_fast(*buffers, [0, 1, 2, 3], TENSORS)
    assert len(met) == 1
    assert _same(buffers, _by_reference(4, 2 * [0, 1, 2, 3], 2 * TENSORS))


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton may fail in another way here")
def test_triton_fails_by_itself_where_no_device_is_its():
    buffers = _rows()
    with pytest.warns(TorchboardWarning, match="Triton failed"):
        ops._observe_fast(*buffers, 1, TENSORS[0])
    assert _same(buffers, _by_reference(2, [1], TENSORS[:1]))


def test_no_triton_at_all_is_one_warning(monkeypatch):
    find = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == "triton" or "triton_launch" in (args[2] or () if len(args) > 2 else ()):
            raise ModuleNotFoundError("No module named 'triton'")
        return find(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    buffers = _rows()
    with pytest.warns(TorchboardWarning, match="No module named 'triton'") as met:
        ops._observe_many_fast(*buffers, [1, 0], TENSORS[:2])
    assert len(met) == 1
    assert _same(buffers, _by_reference(2, [1, 0], TENSORS[:2]))


@needs_triton
def test_an_old_triton_is_not_even_tried(monkeypatch):
    from torchboard.sketch import triton_launch

    monkeypatch.setattr(triton_launch, "TRITON", (3, 7))
    monkeypatch.setattr(triton_launch, "probe", lambda device, dtype: pytest.fail("it was tried"))
    buffers = _rows()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ops._observe_fast(*buffers, 0, TENSORS[0])
    assert _same(buffers, _by_reference(2, [0], TENSORS[:1]))


@needs_triton
def test_the_kernels_get_what_they_can_read_and_the_reference_the_rest(monkeypatch):
    from torchboard.sketch import triton_launch

    tried, given = [], []
    monkeypatch.setattr(triton_launch, "probe", lambda device, dtype: tried.append(dtype))
    monkeypatch.setattr(triton_launch, "supports", lambda dtype: dtype != torch.int64)
    monkeypatch.setattr(triton_launch, "observe_many_", lambda buffers, rows, tensors: given.extend(rows))
    buffers = _rows(4)
    for _ in range(2):
        ops._observe_many_fast(*buffers, [0, 1, 2, 3], TENSORS)
    assert given == [0, 2, 3] * 2
    assert tried == [torch.float32, torch.bfloat16]
    assert buffers[1][:, layout.COUNT].tolist() == [0, 2 * 3000, 0, 0]
    strided = tuple(torch.cat([buffer, buffer], dim=1)[:, : buffer.shape[1]] for buffer in _rows(4))
    ops._observe_many_fast(*strided, [0, 1, 2, 3], TENSORS)
    assert _same(strided, _by_reference(4, [0, 1, 2, 3], TENSORS))


@needs_triton
def test_the_launcher_brings_nothing_to_the_host(monkeypatch):
    """Everything it does but the launches themselves, which nobody here could run."""
    from torchboard.sketch import triton_launch

    def refuse(self, *args, **kwargs):
        raise AssertionError("a tensor was brought to the host")

    monkeypatch.setattr(triton_launch, "_launch", lambda *args, **kwargs: None)
    monkeypatch.setattr(triton_launch, "probe", lambda device, dtype: None)
    buffers = _rows(5)
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__array__", "__int__", "__float__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    tensors = [*TENSORS, torch.randn(4000, 3).t()[:, ::2], torch.randn(70_000)[1:], torch.randn(9, 1).expand(9, 9)]
    ops._observe_many_fast(*buffers, [0, 1, 2, 3, 4, 0, 1], tensors)


def test_many_on_the_host_are_each_one_after_another():
    one, many = SketchTable(), SketchTable()
    for table in (one, many):
        for _ in range(3):
            table.add_row()
    for row, tensor in zip([2, 0, 2, 1], TENSORS):
        one.observe_(row, tensor)
    many.observe_many_([2, 0, 2, 1], TENSORS)
    first, second = one.read(), many.read()
    for name in ("counts", "moments", "parameters"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_the_operator_for_many_keeps_the_rules_of_torch():
    arguments = (*_rows(4), [3, 1], [torch.randn(20, requires_grad=True), torch.arange(5)])
    torch.library.opcheck(ops.observe_many_, arguments, test_utils=("test_schema", "test_faketensor"))


def test_under_a_fake_tensor_nothing_happens_to_many():
    with FakeTensorMode():
        no_rows = (torch.empty(0, size) for size in (layout.BINS, layout.SLOTS, layout.PARAMETERS))
        assert ops.observe_many_(*no_rows, [0, 4], [torch.empty(7), torch.empty(0)]) is None


def test_a_compiled_graph_observes_many_without_a_break():
    table = SketchTable()
    for _ in range(2):
        table.add_row()

    def forward(x):
        table.observe_many_([0, 1], [x, x * 2])
        return x + 1

    compiled = torch.compile(forward, backend="aot_eager", fullgraph=True)
    compiled(torch.ones(3, 4))
    compiled(torch.ones(3, 4))
    rows = table.read()
    assert rows.moments[:, layout.COUNT].tolist() == [24, 24]
    assert rows.moments[:, layout.MAX].tolist() == [1, 2]
    torch._dynamo.reset()
