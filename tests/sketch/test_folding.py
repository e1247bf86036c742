from __future__ import annotations

import numpy as np
import pytest
import torch

from torchboard.sketch import host, host_compiled, host_many, layout, reference
from torchboard.sketch.table import SketchTable, sketch_of

FOLDS = {"compiled": host_compiled.observe_, "host": host.observe_, "reference": reference.observe_}
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
EIGHT_BIT = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


def _draw(number: int = 3000) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(number))


def _with_specials(number: int = 3000) -> torch.Tensor:
    values = _draw(number)
    values[::7], values[3::11], values[5::13], values[::5], values[1::17] = torch.nan, torch.inf, -torch.inf, 0.0, -0.0
    return values


DATA = {
    "gauss": _draw(),
    "many": _draw(300_000),
    "relu": _draw(40_000).relu(),
    "specials": _with_specials(),
    "many specials": _with_specials(300_000),
    "all NaN": torch.full((10,), torch.nan),
    "infinities": torch.tensor([torch.inf, -torch.inf, -torch.inf]),
    "zeros": torch.tensor([0.0, -0.0] * 20_000),
    "one": torch.tensor([1.5]),
    "a scalar": torch.tensor(-2.5),
    "constant": torch.full((500,), -0.7),
    "two values": torch.tensor([-1.0, 1.0, 1.0]),
    "95 % zeros": torch.where(_draw() < 1.6, 0.0, _draw()),
    "normalisation weights": 1 + 1e-4 * _draw(768),
    "1000 +- 1": 1000 + _draw(20_000),
    "-2 +- 0.01": -2 + 0.01 * _draw(),
    "1e30": 1e30 * _draw(),
    "1e-30": 1e-30 * _draw(),
    "denormals": 1e-40 * _draw(),
    "denormals, zeros and ones": torch.cat([1e-42 * _draw(20_000), torch.tensor([0.0, -0.0] * 9000), torch.ones(9)]),
    "one tiny": torch.tensor([1.0, 1e-45, -1e-45, 1e-20, 0.0]),
    "largest": torch.tensor([3.4028234e38, -3.4028234e38, 1.0]),
    "narrow and huge": 3e38 + 1e36 * _draw(100),
    "smallest": torch.tensor([1e-45, 2e-45]),
    "lognormal": torch.exp(4 * _draw()),
    "float64 only": torch.tensor([1e300, -1e300, 1e-300, 5e-324, 1.7e308, 0.0], dtype=torch.float64),
    "float64, narrow": 1 + 1e-12 * _draw(),
}


def _fold(tensor: torch.Tensor, fold, *more: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = SketchTable()
    for _ in range(3):
        table.add_row()
    buffers = table.read()
    for item in (tensor, *more):
        fold(buffers.counts, buffers.moments, buffers.parameters, 1, item)
    counts, moments, parameters = buffers.counts.numpy(), buffers.moments.numpy(), buffers.parameters.numpy()
    for other in (0, 2):
        assert not counts[other].any() and not moments[other, : layout.ADDITIVE].any() and not parameters[other].any()
    return counts[1], moments[1], parameters[1]


def _oracle(x: np.ndarray, pivot: float, scale: float) -> np.ndarray:
    """Counts of finite float64 values, straight from the definition of the bins."""
    x = x[x != pivot]
    with np.errstate(over="ignore", under="ignore"):
        y = (x - pivot) * scale
    magnitude = np.clip(np.abs(y), layout.LOWEST, layout.HIGHEST)
    mantissa, exponent = np.frexp(magnitude)
    place = 32 * (exponent - 1 + layout.BINADES - layout.BINADES_ABOVE) + np.floor((2 * mantissa - 1) * 32).astype(int)
    return np.bincount(place + np.where(x < pivot, layout.SIDE, 0), minlength=layout.BINS)


def _oracle_of_integers(x: np.ndarray, pivot: float) -> np.ndarray:
    x = x[x != pivot]
    return np.bincount(np.abs(x - pivot).astype(int) + np.where(x < pivot, layout.SIDE, 0), minlength=layout.BINS)


def _check_row(row: tuple[np.ndarray, np.ndarray, np.ndarray], *tensors: torch.Tensor) -> None:
    counts, moments, (pivot, scale, kind) = row
    x = np.concatenate([tensor.to(torch.float64).numpy().ravel() for tensor in tensors])
    finite = x[np.isfinite(x)]
    expected = {
        layout.COUNT: x.size,
        layout.SPIKE: (finite == pivot).sum() if finite.size else 0,
        layout.ZEROS: (x == 0).sum(),
        layout.NAN: np.isnan(x).sum(),
        layout.POS_INF: (x == np.inf).sum(),
        layout.NEG_INF: (x == -np.inf).sum(),
        layout.NEGATED_MIN: -finite.min(initial=np.inf),
        layout.MAX: finite.max(initial=-np.inf),
    }
    assert {slot: moments[slot] for slot in expected} == expected
    assert counts.min() >= 0
    assert counts.sum() + moments[[layout.SPIKE, layout.NAN, layout.POS_INF, layout.NEG_INF]].sum() == x.size
    if not finite.size:
        assert scale == 0
        return
    assert scale > 0 and np.frexp(scale)[0] == 0.5
    if kind == layout.INTEGERS:
        assert np.array_equal(counts, _oracle_of_integers(finite, pivot))
    moved = np.abs(counts - _oracle(finite, pivot, scale)).sum() if kind != layout.INTEGERS else 0
    assert moved <= 1e-4 * x.size, "a bin's border may move by the rounding of x - pivot, and no more"
    y = (finite - pivot) * scale
    assert moments[layout.SUM] == pytest.approx(y.sum(), rel=1e-6, abs=1e-6 * np.abs(y).sum())
    assert moments[layout.SUM_SQUARES] == pytest.approx((y * y).sum(), rel=2e-6)


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize("name", DATA)
def test_every_float_is_accounted_for(name, fold):
    for dtype in FLOATS:
        tensor = DATA[name].to(dtype)
        _check_row(_fold(tensor, fold), tensor)


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
def test_every_code_of_an_eight_bit_float_is_accounted_for(dtype, fold):
    tensor = torch.arange(256, dtype=torch.uint8).view(dtype)
    _check_row(_fold(tensor, fold), tensor)


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_every_integer_is_accounted_for(dtype, fold):
    limits = torch.iinfo(dtype)
    for values in (
        [limits.min, limits.max],
        [0],
        [7] * 5,
        [limits.max - 1, limits.max],
        list(range(100)),
        [1000 % (limits.max + 1)],
    ):
        tensor = torch.tensor(values, dtype=dtype)
        _check_row(_fold(tensor, fold), tensor)


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
def test_truth_values_are_zeros_and_ones(fold):
    tensor = torch.tensor([True, False, True])
    _check_row(_fold(tensor, fold), tensor)


@pytest.mark.parametrize(
    "name", ["gauss", "specials", "relu", "normalisation weights", "1e30", "denormals, zeros and ones", "constant"]
)
def test_all_folds_agree_on_small_tensors(name):
    for dtype in FLOATS:
        *mine, theirs = (_fold(DATA[name][:1000].to(dtype), fold) for fold in FOLDS.values())
        for counts, moments, parameters in mine:
            assert np.array_equal(counts, theirs[0])
            assert np.array_equal(parameters, theirs[2])
            np.testing.assert_allclose(moments, theirs[1], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFC0001])
@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
def test_a_nan_is_a_nan_whatever_its_payload(bits, fold):
    tensor = torch.from_numpy(np.array([bits, 0x3F800000, 0], np.uint32).view(np.float32))
    _check_row(_fold(tensor, fold), tensor)


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize(
    "name",
    [
        "gauss",
        "1000 +- 1",
        "all NaN",
        "1e-30",
        "1e30",
        "denormals",
        "zeros",
        "float64 only",
        "largest",
        "specials",
        "narrow and huge",
    ],
)
def test_later_tensors_join_the_first_ones_bins(name, fold):
    """Also those far above, in the overflow bins, and far below, in the innermost ones."""
    first, *others = (
        DATA[key].to(torch.float64 if "64" in key else torch.float32)
        for key in (name, "1e30", "gauss", "1e-30", "relu")
    )
    counts, moments, parameters = _fold(first, fold, *others)
    if np.isfinite(moments).all() and name not in ("1e-30", "denormals"):
        _check_row((counts, moments, parameters), first, *others)
    values = np.concatenate([item.to(torch.float64).numpy() for item in (first, *others)])
    finite = values[np.isfinite(values)]
    assert counts.sum() + moments[layout.SPIKE] == finite.size
    assert moments[layout.MAX] == finite.max() and moments[layout.NEGATED_MIN] == -finite.min()
    assert moments[layout.POS_INF] == (values == np.inf).sum()
    assert np.array_equal(counts, _oracle(finite, *parameters[:2])) or parameters[layout.PIVOT]


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize("power", [-41, -39, -38, 22, 23, 24, 25])
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_at_the_borders_of_all_bins_are_counted_in_the_first_and_the_last(power, sign, fold):
    first = torch.linspace(-1, 1, 2000)
    border = sign * 2.0**power * torch.linspace(1, 2, 1000)
    row = _fold(first, fold, border)
    _check_row(row, first, border)
    assert np.array_equal(row[0], _oracle(torch.cat((first, border)).double().numpy(), *row[2][:2]))


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
def test_parts_add_up_to_the_whole(fold):
    whole = DATA["many specials"].float()
    part, rest = whole[:70_001], whole[70_001:]
    first, second = _fold(whole, fold), _fold(part, fold, rest)
    if first[2][layout.SCALE] == second[2][layout.SCALE]:
        assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1][: layout.SUM], second[1][: layout.SUM])
    assert np.array_equal(first[1][layout.ADDITIVE :], second[1][layout.ADDITIVE :])


LAYOUTS = {
    "channels last": lambda x: x.view(4, 5, 10, 15).to(memory_format=torch.channels_last),
    "transposed": lambda x: x.view(60, 50).t(),
    "expanded": lambda x: x.view(3000, 1).expand(3000, 7),
    "expanded in the middle": lambda x: x.view(60, 1, 50).expand(60, 3, 50).permute(2, 1, 0),
    "all one element": lambda x: x[:1].expand(100, 100),
    "strided": lambda x: x[::3],
    "columns": lambda x: x.view(60, 50)[:, 3:9],
    "unaligned": lambda x: x[1:],
    "unfolded": lambda x: x.unfold(0, 10, 4),
    "empty": lambda x: x[:0],
    "expanded to nothing": lambda x: x[:1].expand(0, 1),
    "empty strided": lambda x: x.view(60, 50)[:, ::2][:0],
    "negated view": lambda x: torch.complex(x, x).conj().imag,
}


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_whole(name, fold):
    for dtype in (torch.float32, torch.float64):
        tensor = LAYOUTS[name](DATA["specials"].to(dtype).clone())
        row = _fold(tensor, fold)
        if tensor.numel():
            _check_row(row, tensor.contiguous())
        else:
            assert not row[0].any() and not row[1][: layout.ADDITIVE].any() and not row[2].any()


def test_dense_layouts_are_not_copied():
    tensor = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert reference.storage_order(tensor)[0].data_ptr() == tensor.data_ptr()
    expanded = torch.randn(5, 1, 7).expand(5, 9, 7)
    flat, times = reference.storage_order(expanded)
    assert (flat.data_ptr(), flat.numel(), times) == (expanded.data_ptr(), 35, 9)


@pytest.mark.parametrize("offset", [0.0, 1000.0, -1e6, 1.0])
def test_mean_and_deviation_are_right_to_six_digits(offset):
    values = (torch.randn(1_000_000, generator=torch.Generator().manual_seed(3)) + offset).float()
    rows = sketch_of(values)
    moments, parameters = rows.moments.numpy()[0], rows.parameters.numpy()[0]
    exact = values.numpy().astype(np.float64)
    assert layout.mean(moments, parameters) == pytest.approx(exact.mean(), rel=1e-6, abs=1e-6)
    assert layout.std(moments, parameters) == pytest.approx(exact.std(), rel=1e-6)
    assert layout.norm(moments, parameters) == pytest.approx(np.linalg.norm(exact), rel=1e-6)


@pytest.mark.parametrize("factor", [1e30, 1e-30, 1e-38])
def test_squares_of_extreme_values_neither_overflow_nor_vanish(factor):
    values = (torch.randn(5000, generator=torch.Generator().manual_seed(4)) * factor).float()
    rows = sketch_of(values)
    assert layout.std(rows.moments.numpy(), rows.parameters.numpy())[0] == pytest.approx(
        values.double().numpy().std(), rel=1e-5
    )


def test_weights_of_a_normalisation_layer_are_seen_from_one():
    for seed in range(5):
        values = 1 + 1e-4 * torch.randn(768, generator=torch.Generator().manual_seed(seed))
        for fold in FOLDS.values():
            assert _fold(values, fold)[2][layout.PIVOT] == 1.0


def test_a_constant_is_all_spike():
    counts, moments, parameters = _fold(torch.full((1000,), 0.1), host.observe_)
    assert not counts.any() and moments[layout.SPIKE] == 1000
    assert parameters[layout.PIVOT] == np.float32(0.1)


TOGETHER = {
    "gauss": lambda index: _draw()[index * 100 :][:300] * 10.0 ** (index - 3),
    "normalisation weights": lambda index: 1 + 10.0 ** -(index % 5) * 0.1 * _draw()[index * 100 :][:300],
    "of all sizes": lambda index: _draw()[: 20 * (index % 2) + 3],
    "large enough to be sampled": lambda index: 3 + 0.1 * _draw(30_000)[index * 100 :][:4000],
    "with zeros": lambda index: torch.where(_draw()[index:][:200] < 0, -0.0, _draw()[index:][:200]),
    "constants": lambda index: torch.full((50,), [0.0, -0.0, 0.7, -3.0][index % 4]),
    "one of them special": lambda index: torch.tensor([1.0, 2.0, torch.nan if index == 3 else 5.0]),
    "one of them extreme": lambda index: torch.tensor([1.0, -2.0, 1e30 if index == 2 else 5.0]),
    "scalars": lambda index: torch.tensor(float(index)),
    "of as many sizes": lambda index: _draw()[: 1 + 83 * index],
    "half of them zeros and special": lambda index: torch.tensor([0.0, -0.0, torch.inf if index % 2 else 2.0] * 30),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", TOGETHER)
def test_many_at_once_are_folded_as_one_by_one(name, dtype):
    number = 9
    tables = [SketchTable() for _ in range(2)]
    rows = [[table.add_row() for _ in range(number)] for table in tables][0]
    together, alone = (table.read().buffers for table in tables)
    first = [TOGETHER[name](index).to(dtype) for index in rows]
    later = [TOGETHER["gauss"](index).to(dtype) for index in rows]
    for tensors in (first, later, first):
        host_many.observe_many_(*together, rows, tensors)
        for row, tensor in zip(rows, tensors):
            host.observe_(*alone, row, tensor)
        assert torch.equal(together[2], alone[2])
        exact = [*range(layout.SUM), layout.NEGATED_MIN, layout.MAX]
        assert torch.equal(together[1][:, exact], alone[1][:, exact])
        torch.testing.assert_close(together[1], alone[1], rtol=1e-6, atol=2e-4)  # float32 sums of thousands of elements
        assert (together[0] - alone[0]).abs().sum() <= 2e-4 * alone[1][:, layout.COUNT].sum()
        assert torch.equal(together[0].sum(1), alone[0].sum(1))


def test_a_row_named_twice_gets_both_tensors_the_first_one_first():
    together, alone = SketchTable(), SketchTable()
    for table in (together, alone):
        for _ in range(5):
            table.add_row()
    rows, tensors = [0, 1, 2, 3, 4, 0, 0], [100 + _draw(20).float() + index for index in range(7)]
    together.observe_many_(rows, tensors)
    for row, tensor in zip(rows, tensors):
        alone.observe_(row, tensor)
    one, other = together.read(), alone.read()
    assert torch.equal(one.counts, other.counts) and torch.equal(one.parameters, other.parameters)


@pytest.mark.parametrize("number", [3, 50])
def test_tensors_of_rows_that_are_named_many_times_are_all_counted(number):
    """The very same tensor among them."""
    together, alone = SketchTable(), SketchTable()
    rows = [[table.add_row() for table in (together, alone)][0] for _ in range(4)]
    tensor = _draw(number).float()
    tensors = [tensor, *(_draw(number + index).float() * (index + 1) for index in range(7 * len(rows) - 1))]
    together.observe_many_(7 * rows, tensors)
    together.observe_many_([0, 0], [tensor, tensor])
    for row, values in (*zip(7 * rows, tensors), (0, tensor), (0, tensor)):
        host.observe_(*alone._buffers.buffers, row, values)
    one, other = together.read(), alone.read()
    assert torch.equal(one.counts, other.counts) and torch.equal(one.parameters, other.parameters)
    torch.testing.assert_close(one.moments, other.moments, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
def test_a_bin_of_a_row_of_eight_bit_floats_is_one_value(dtype):
    values = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    rows = sketch_of(values.to(dtype))
    assert rows.parameters[0, layout.KIND] == layout.POINTS
    points, counts = layout.points(rows.parameters[0].numpy()), layout.ascending(rows.counts[0].numpy())
    expected, times = np.unique(values[values.isfinite() & (values != 0)].numpy(), return_counts=True)
    assert np.array_equal(points[counts > 0], expected) and np.array_equal(counts[counts > 0], times)


@pytest.mark.parametrize(
    "values", [[0, 5, 5, -3], [70_000, 70_100], [-2015, 2015], [2**40, 2**40 + 4029], list(range(400))]
)
def test_a_bin_of_a_row_of_integers_is_one_value(values):
    rows = sketch_of(torch.tensor(values))
    pivot = rows.parameters[0, layout.PIVOT]
    assert rows.parameters[0, layout.KIND] == layout.INTEGERS
    points, counts = layout.points(rows.parameters[0].numpy()), layout.ascending(rows.counts[0].numpy())
    expected, times = np.unique([value for value in values if value != pivot], return_counts=True)
    assert np.array_equal(points[counts > 0], expected) and np.array_equal(counts[counts > 0], times)
    assert rows.moments[0, layout.SPIKE] == values.count(int(pivot))


def test_zeros_that_come_first_do_not_set_the_scale():
    """A gradient may be zero at first and tiny later."""
    for number in (5, 100_000):
        table = SketchTable()
        rows = [table.add_row() for _ in range(5)]
        table.observe_many_(rows, [torch.zeros(number)] * 5)
        table.observe_many_(rows, [1e-20 * _draw(number).float()] * 5)
        assert ((table.read().counts > 0).sum(1) >= number**0.5).all()
