"""What of a tensor compiled code reads where it lies, and what it leaves to torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from torchboard.sketch import host_compiled, layout
from torchboard.sketch.table import SketchTable, blank_rows

pytestmark = pytest.mark.skipif(not host_compiled.available(), reason="the compiled code was not built")

CPU = torch.device("cpu")
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


class Tagged(torch.Tensor):
    """A tensor of the user's own."""


def freed() -> torch.Tensor:
    tensor = torch.ones(8)
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.fixture(params=["lent", "asked"], autouse=True)
def way(request, monkeypatch):
    """By DLPack, and by the methods that tensors of older versions of torch have alone."""
    if request.param == "asked":
        monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__", raising=False)
    host_compiled._load()
    yield
    monkeypatch.undo()
    host_compiled._load()


UNREADABLE = {
    "gaps": lambda: torch.ones(8, 2)[:, 0],
    "whole numbers": lambda: torch.arange(8),
    "complex": lambda: torch.ones(8, dtype=torch.complex64),
    "negated": lambda: torch._neg_view(torch.ones(8)),
    "a part of a conjugate": lambda: torch.ones(1, dtype=torch.complex64).conj().imag,
    "zeros without memory": lambda: torch._efficientzerotensor(8),
    "functional": lambda: torch._to_functional_tensor(torch.ones(8)),
    "expanded": lambda: torch.ones(1).expand(8),
    "eight bits": lambda: torch.ones(8).to(torch.float8_e5m2),
    "a nested one": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "meta": lambda: torch.ones(8, device="meta"),
    "a subclass": lambda: torch.ones(8).as_subclass(Tagged),
    "no memory": freed,
    "no tensor": lambda: 3.0,
}


def rows(number: int = 2):
    return host_compiled.rows_of(blank_rows(number, CPU).buffers)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("tensor", UNREADABLE.values(), ids=UNREADABLE)
def test_what_does_not_lie_there_as_it_is_is_left_alone(tensor):
    it, table = tensor(), rows()
    assert not table.read(0, it) and not table.read_times(0, it, 2)
    assert table.read_many([0, 1], [it, torch.ones(1)]) == [0]
    assert host_compiled.squares_of([torch.ones(2), it]) is None
    assert host_compiled.changes_of([it, torch.ones(2)], [1, 1]).left() == [0]
    ranges = torch.full((8,), torch.inf), torch.full((8,), -torch.inf)
    assert not host_compiled.widen_(*ranges, it, 1) and not host_compiled.widen_(it, ranges[1], torch.ones(8), 1)


def test_a_tensor_inside_of_a_function_transform_is_left_alone():
    table, seen = rows(), []
    torch.vmap(lambda x: seen.append(table.read(0, x)) or x)(torch.ones(3, 4))
    assert seen == [False]


@pytest.mark.parametrize("offer", [None, object(), 3], ids=["nothing", "something", "a number"])
def test_what_is_no_offer_to_lend_is_passed_over(offer, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", offer, raising=False)
    assert host_compiled._load().squares([torch.full((3,), 2.0)]) == [12.0]


def test_plain_tensors_are_read_after_one_that_torch_refuses_to_lend():
    table = rows()
    assert table.read_many([0, 0, 0], [torch.eye(4).to_sparse(), torch.ones(3), torch._neg_view(torch.ones(3))]) == [
        0,
        2,
    ]
    assert table.read(1, torch.ones(3, dtype=torch.bfloat16)) and not table.read(1, torch.ones(3, 2)[:, 0])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_tensor_without_gaps_is_read_whatever_its_axes(dtype):
    values = torch.arange(1, 25, dtype=dtype)
    alike = [
        values.view(2, 3, 4),
        values.view(1, 24).as_strided((1, 24), (7, 1)),
        values.view(24, 1, 1),
        values[:1].view(()),
    ]
    alike += [values[3:9], torch.ones(0, 3, dtype=dtype), torch.ones(3, 0, dtype=dtype).t()]
    buffers = blank_rows(len(alike), CPU).buffers
    assert host_compiled.rows_of(buffers).read_many([*range(len(alike))], alike) == []
    assert buffers[1][:, layout.COUNT].tolist() == [24, 24, 24, 1, 6, 0, 0]
    assert buffers[1][:5, layout.MAX].tolist() == [24, 24, 24, 1, 9]


def test_what_requires_a_gradient_is_read_without_a_history():
    weight = nn.Parameter(torch.ones(4))
    output = weight * 2
    buffers = blank_rows(2, CPU).buffers
    assert host_compiled.rows_of(buffers).read_many([0, 1], [weight, output]) == []
    assert buffers[1][:, layout.MAX].tolist() == [1, 2]
    assert not any(buffer.requires_grad for buffer in buffers)


def test_a_table_that_has_grown_is_read_into_by_who_knew_it_before():
    table = SketchTable()
    read = table.reader(table.add_row())
    for _ in range(9):
        table.add_row()
    assert read(torch.ones(3)) and read(torch.ones(20_000))
    assert table.read().moments[0, layout.COUNT] == 20_003
    assert read(torch.ones(5)), "the rows begin anew, the reader goes on"
    assert table.read().moments[0, layout.COUNT] == 5


def test_a_table_that_reads_samples_has_no_reader():
    table = SketchTable(max_elements=100)
    assert table.reader(table.add_row()) is None and SketchTable().reader(0) is None


@pytest.mark.parametrize("row", [-2, 2, 1 << 40])
def test_a_row_that_is_not_there_is_refused_before_anything_is_read(row):
    buffers = blank_rows(2, CPU).buffers
    table = host_compiled.rows_of(buffers)
    changes = host_compiled.changes_of([torch.ones(3)] * 2, [1, 1])
    calls = [
        lambda: table.read(row, torch.ones(3)),
        lambda: table.read_times(row, torch.ones(3), 2),
        lambda: table.read_many([0, row], [torch.ones(3)] * 2),
        lambda: changes.read(table, [0, row]),
    ]
    for call in calls:
        with pytest.raises(IndexError, match=f"no row {row} in 2 rows"):
            call()
    assert buffers[1][:, layout.COUNT].tolist() == [0, 0]


def test_what_does_not_fit_together_is_refused():
    table, two = rows(), [torch.ones(3)] * 2
    wrong = [
        lambda: table.read_many([0], two),
        lambda: host_compiled.changes_of(two, [1]),
        lambda: host_compiled.changes_of(two, [1, 0]),
        lambda: host_compiled.changes_of(two, [1, 1]).read(table, [0]),
        lambda: host_compiled.widen_(torch.ones(3), torch.ones(2), torch.ones(6), 1),
        lambda: host_compiled.widen_(torch.ones(4), torch.ones(4), torch.ones(6), 1),
        lambda: host_compiled.widen_(torch.ones(3), torch.ones(3), torch.ones(6), 0),
    ]
    for call in wrong:
        with pytest.raises(ValueError):
            call()
    for call in (
        lambda: table.read(0),
        lambda: table.use(1),
        lambda: host_compiled.changes_of(two, [1, 1]).read(1, [0, 1]),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_squares_are_summed_in_double_precision(dtype):
    tensors = [torch.randn(size).to(dtype) for size in (0, 1, 5, 33, 9001)]
    expected = [float(tensor.double().square().sum()) for tensor in tensors]
    assert host_compiled.squares_of(tensors) == pytest.approx(expected, rel=1e-12)
    assert host_compiled.squares_of([torch.full((3,), 1e30)])[0] == pytest.approx(3e60)
    assert math.isnan(host_compiled.squares_of([torch.tensor([1.0, math.nan])])[0])
    assert host_compiled.squares_of([torch.tensor([1.0, -math.inf])]) == [math.inf]
    assert host_compiled.squares_of([]) == []


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("step", [1, 3])
def test_a_change_is_what_lies_there_less_what_lay_there(dtype, step):
    before = [torch.randn(size).to(dtype) for size in (0, 1, 7, 5000, 20_000)]
    tensors = [tensor.clone() for tensor in before]
    changes = host_compiled.changes_of(tensors, [step] * len(tensors))
    for tensor in tensors:
        tensor.mul_(1.5).add_(0.25)
    mine, theirs = (blank_rows(len(tensors), CPU).buffers for _ in range(2))
    assert changes.read(host_compiled.rows_of(mine), [*range(len(tensors))]) == []
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    for row, (tensor, old) in enumerate(zip(tensors, before)):
        expected = (tensor.to(wide) - old.to(wide))[::step]
        assert expected.numpy().tobytes() == changes.values(row)
        host_compiled.observe_(*theirs, row, expected)
    assert all(torch.equal(*both) for both in zip(mine, theirs))


def test_a_tensor_that_has_become_another_is_left_out_and_one_that_has_moved_is_not():
    tensors = [torch.ones(4), torch.ones(4), torch.ones(4), torch.ones(4)]
    changes = host_compiled.changes_of(tensors, [1] * 4)
    tensors[0].data = torch.full((4,), 3.0)
    tensors[1].data = torch.full((5,), 3.0)
    tensors[2].data = torch.full((4,), 3.0).double()
    tensors[3].add_(1)
    buffers = blank_rows(4, CPU).buffers
    assert changes.read(host_compiled.rows_of(buffers), [0, 1, 2, -1]) == []
    assert buffers[1][:, layout.COUNT].tolist() == [4, 0, 0, 0] and buffers[1][0, layout.MAX] == 2


def test_changes_that_need_more_care_are_given_back():
    weight = torch.zeros(3, dtype=torch.float64)
    buffers = blank_rows(1, CPU).buffers
    host_compiled.observe_(*buffers, 0, torch.tensor([1e-300, -2e-300], dtype=torch.float64))
    changes = host_compiled.changes_of([weight], [1])
    weight.add_(torch.tensor([1e300, 2e300, 3e300], dtype=torch.float64))
    assert changes.read(host_compiled.rows_of(buffers), [0]) == [0]
    values = torch.frombuffer(bytearray(changes.values(0)), dtype=torch.float64)
    assert values.tolist() == [1e300, 2e300, 3e300]


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((32, 10), 1), ((5, 3), 1), ((4, 7, 2, 2), 1), ((3, 300, 3, 5), 1), ((2, 5, 9, 9), 1), ((6, 4, 17), 2)],
)
def test_the_range_of_every_unit_is_widened_by_its_values(shape, axis):
    units, inner = shape[axis], math.prod(shape[axis + 1 :])
    low, high = torch.full((units,), torch.inf), torch.full((units,), -torch.inf)
    batches = [torch.randn(shape) for _ in range(3)]
    for batch in batches:
        assert host_compiled.widen_(low, high, batch, inner)
    values = torch.stack(batches).transpose(0, axis + 1).flatten(1)
    assert torch.equal(low, values.amin(1)) and torch.equal(high, values.amax(1))


@pytest.mark.parametrize("shape", [(4, 9), (4, 9, 2, 2), (4, 9, 6, 6)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_unit_that_was_not_a_number_once_has_no_range(shape, sign):
    low, high = torch.full((9,), torch.inf), torch.full((9,), -torch.inf)
    broken = torch.ones(shape)
    broken[1, 3] = sign * math.nan
    for batch in (torch.ones(shape), broken, torch.ones(shape)):
        host_compiled.widen_(low, high, batch, math.prod(shape[2:]))
    assert [place for place in range(9) if low[place] != high[place]] == [3]
