"""Tensors that are not plain, dense, small ones, at the table and through a model that is watched."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn

from torchboard.capture.options import Capture
from torchboard.capture.recorder import Recorder
from torchboard.capture.sketches import snapshot_of
from torchboard.capture.tensors import measurable
from torchboard.errors import InvalidValueError
from torchboard.sketch import layout
from torchboard.sketch.table import SketchTable, sketch_of


def _quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.tensor([-1.0, 0.0, 2.0]), 0.5, 10, torch.quint8)


def _inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.tensor([-1.0, 0.0, 2.0])


class _Tagged(torch.Tensor):
    """A subclass that adds nothing."""


PLAIN = torch.tensor([-1.0, 0.0, 2.0])
SAME = {
    "a scalar": lambda: (torch.tensor(2.0), torch.tensor([2.0])),
    "empty": lambda: (torch.zeros(3, 0), None),
    "of gradients": lambda: (PLAIN.clone().requires_grad_(), PLAIN),
    "computed": lambda: (PLAIN.clone().requires_grad_() * 1, PLAIN),
    "of inference": lambda: (_inference(), PLAIN),
    "not contiguous": lambda: (torch.arange(12.0).view(3, 4)[:, 1], torch.tensor([1.0, 5.0, 9.0])),
    "overlapping": lambda: (torch.arange(4.0).as_strided((3, 2), (1, 1)), torch.tensor([0.0, 1, 1, 2, 2, 3])),
    "a subclass": lambda: (PLAIN.as_subclass(_Tagged), PLAIN),
    "a parameter": lambda: (nn.Parameter(PLAIN.clone()), PLAIN),
    "a negated view": lambda: (torch.complex(PLAIN, PLAIN).conj().imag, -PLAIN),
}


@pytest.mark.usefixtures("on_host")
@pytest.mark.parametrize("name", SAME)
def test_a_table_takes_any_real_and_strided_tensor(name):
    tensor, plain = SAME[name]()
    for table in (SketchTable(), SketchTable()):
        row = table.add_row()
        table.observe_many_([row], [tensor])
        rows = table.read()
        if plain is None:
            assert rows.moments[0, layout.COUNT] == 0 and not rows.counts.any()
        else:
            assert torch.equal(rows.counts, sketch_of(plain).counts)
            assert torch.equal(rows.moments, sketch_of(plain).moments)


REFUSED = {
    "complex": (lambda: torch.zeros(2, dtype=torch.complex64), "no order"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "strided"),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), "strided"),
    "quantised": (_quantized, "codes"),
    "meta": (lambda: torch.zeros(2, device="meta"), "no data"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("name", REFUSED)
def test_a_table_refuses_the_others_and_stays_as_it_is(name):
    make, wrong = REFUSED[name]
    table = SketchTable()
    rows = [table.add_row(), table.add_row()]
    with pytest.raises(InvalidValueError, match=wrong):
        table.observe_many_(rows, [torch.ones(2), make()])
    assert not table.read().moments[:, layout.COUNT].any()


@pytest.mark.parametrize("row", [-1, 1000, 10**12])
def test_a_row_that_is_not_there_is_an_error(row):
    table = SketchTable()
    table.add_row()
    for tensors in ([torch.ones(3)], [torch.ones(3)] * 8, [torch.arange(3)]):
        with pytest.raises(IndexError):
            table.observe_many_([row - len(tensors) + 1 + index for index in range(len(tensors))], tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2, torch.int64, torch.bool], ids=str)
def test_more_elements_than_32_bits_count_are_counted(dtype):
    """Three billion elements in a few bytes."""
    values = torch.tensor([0.0, 1.0, -2.0] if dtype.is_signed else [0.0, 1.0, 1.0]).to(dtype)
    rows = sketch_of(values.view(3, 1).expand(3, 10**9))
    assert rows.moments[0, layout.COUNT] == 3 * 10**9
    assert rows.counts.sum() + rows.moments[0, layout.SPIKE] == 3 * 10**9
    single = sketch_of(values)
    assert torch.equal(rows.counts, 10**9 * single.counts)
    assert torch.equal(rows.moments[:, : layout.ADDITIVE], 10**9 * single.moments[:, : layout.ADDITIVE])
    assert torch.equal(rows.moments[:, layout.ADDITIVE :], single.moments[:, layout.ADDITIVE :])


def test_counts_beyond_32_bits_add_up_over_tensors():
    table = SketchTable()
    row = table.add_row()
    for _ in range(3):
        table.observe_(row, torch.tensor([1.0, 3.0, -1.0]).view(3, 1).expand(3, 2**31))
    rows = table.read()
    assert rows.moments[0, layout.COUNT] == 9 * 2**31 == rows.counts.sum()


CAPTURED = {
    "sparse": (lambda: torch.tensor([[0.0, 3.0], [0.0, 0.0]]).to_sparse(), 1),
    "quantised": (_quantized, 3),
    "complex": (lambda: torch.zeros(2, dtype=torch.complex64), None),
    "meta": (lambda: torch.zeros(2, device="meta"), None),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), 5),
    **{
        name: (lambda make=make: make()[0], None if make()[1] is None else make()[0].numel())
        for name, make in SAME.items()
    },
}


class _Gives(nn.Module):
    """Gives one tensor, whatever comes in."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> object:
        return self.output


@pytest.mark.parametrize("name", CAPTURED)
def test_no_output_makes_a_watched_forward_pass_fail(name):
    make, number = CAPTURED[name]
    output = make()
    model = nn.Sequential(_Gives(output))
    recorder = Recorder(model, Capture())
    recorder.arm(True)
    assert model(torch.ones(1)) is output
    recorder.arm(False)
    assert recorder.error is None
    values = {tag: value for snapshot in recorder.collect("train") for tag, value in snapshot.settle()}
    counted = {tag: value.buckets[:, 2].sum() for tag, value in values.items()}
    assert set(counted.values()) == (set() if number is None else {number})


def test_a_shard_of_a_distributed_tensor_is_measured_where_it_is(tmp_path):
    from torch.distributed.tensor import DTensor, Shard, init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        local = torch.tensor([1.0, -2.0, 0.0])
        shard = DTensor.from_local(local, mesh, [Shard(0)])
        assert measurable(shard).data_ptr() == local.data_ptr()
        (snapshot,) = [snapshot_of("shard", shard)]
        assert dict(snapshot.settle())["shard"].buckets[:, 2].sum() == 3
    finally:
        dist.destroy_process_group()
