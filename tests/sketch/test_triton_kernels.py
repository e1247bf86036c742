"""The kernels against the reference: in Triton's interpreter everywhere, on a GPU where there is one.

The interpreter has to be chosen before Triton is imported, so the tests that need it run in a process of their own,
which ``test_the_kernels_agree_with_the_reference_in_the_interpreter`` starts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from triton_here import triton_is_new_enough

from torchboard.sketch import layout, reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if GPU else "cpu"

if not triton_is_new_enough():
    pytest.skip("the kernels need a newer Triton", allow_module_level=True)

runs = pytest.mark.skipif(not (INTERPRETED or GPU), reason="runs in the interpreter's process, or on a GPU")
compiles = pytest.mark.skipif(INTERPRETED, reason="the interpreter's process cannot compile")

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
EIGHT_BIT = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


def _normal(number: int = 3000, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(number))


def _with_specials(number: int) -> torch.Tensor:
    values = _normal(number)
    values[::7], values[3::11], values[5::13], values[::5], values[1::17] = torch.nan, torch.inf, -torch.inf, 0.0, -0.0
    return values


def _unseen(number: int = 9000) -> torch.Tensor:
    """Finite only where no sample looks."""
    values = torch.full((number,), torch.nan, dtype=torch.float64)
    seen = reference.sample(torch.arange(number))
    values[seen[10] + 1 :: 40] = 0.75
    values[seen] = torch.nan
    return values


DATA = {
    "gauss": _normal(20_001),
    "few": _normal(700),
    "2047": _normal(2047),
    "2048": _normal(2048),
    "2049": _normal(2049),
    "a whole block": _normal(8192),
    "relu": _normal(9000).relu(),
    "few specials": _with_specials(1500),
    "specials": _with_specials(9000),
    "one infinity": torch.cat([_normal(8000), torch.tensor([torch.inf])]),
    "one NaN": torch.cat([torch.tensor([torch.nan]), _normal(8191)]),
    "all NaN": torch.full((3000,), torch.nan),
    "infinities": torch.tensor([torch.inf, -torch.inf, -torch.inf]),
    "finite where no sample looks": _unseen(),
    "zeros": torch.tensor([0.0, -0.0] * 2000),
    "negative zeros and less": torch.tensor([-0.0, -1.0] * 1500),
    "one": torch.tensor([1.5]),
    "a scalar": torch.tensor(-2.5),
    "constant": torch.full((5000,), -0.7),
    "normalisation weights": 1 + 1e-4 * _normal(768),
    "many normalisation weights": 1 + 1e-3 * _normal(5000),
    "1000 +- 1, and zeros": torch.cat([1000 + _normal(2500), torch.zeros(1), _normal(10)]),
    "-2 +- 0.01": -2 + 0.01 * _normal(),
    "1e30": 1e30 * _normal(),
    "1e-30": 1e-30 * _normal(),
    "tiny beside huge": torch.cat([1e30 * _normal(2500), 1e-30 * _normal(2500)]),
    "denormals": 1e-40 * _normal(),
    "largest": torch.tensor([3.4028234e38, -3.4028234e38, 1.0]).repeat(800),
    "an outlier": torch.cat([1e-9 * _normal(5000), torch.tensor([3e8])]),
    "lognormal": torch.exp(4 * _normal(5000)),
    "negative lognormal": -torch.exp(4 * _normal(5000)),
}
FEW_DATA = ["few specials", "specials", "relu", "many normalisation weights", "gauss", "constant", "1e30"]
CASES = [(name, torch.float32) for name in DATA] + [(name, dtype) for dtype in FLOATS[1:] for name in FEW_DATA]


def _rows(number: int = 3) -> tuple[torch.Tensor, ...]:
    counts = torch.zeros(number, layout.BINS, dtype=torch.int64, device=DEVICE)
    moments = torch.zeros(number, layout.SLOTS, dtype=torch.float64, device=DEVICE)
    moments[:, layout.ADDITIVE :] = -torch.inf
    return counts, moments, torch.zeros(number, layout.PARAMETERS, dtype=torch.float64, device=DEVICE)


@pytest.fixture
def launch(monkeypatch):
    """The launcher; where a GPU runs it, any wait for the device is an error meanwhile."""
    from torchboard.sketch import triton_launch

    def observe_many_(buffers, rows, tensors):
        triton_launch.observe_many_(buffers, rows, tensors)
        if GPU:
            torch.cuda.set_sync_debug_mode("error")
            try:
                for buffer in buffers:
                    buffer.zero_()
                buffers[1][:, layout.ADDITIVE :].fill_(-torch.inf)
                triton_launch.observe_many_(buffers, rows, tensors)
            finally:
                torch.cuda.set_sync_debug_mode("default")

    yield observe_many_


def _check(observe_many_, rows: list[int], tensors: list[torch.Tensor]) -> None:
    """The kernels' rows are the reference's, which takes the tensors one after another."""
    tensors = [tensor if tensor.device.type == DEVICE else tensor.to(DEVICE) for tensor in tensors]
    mine, theirs = _rows(max(rows) + 2), _rows(max(rows) + 2)
    observe_many_(mine, rows, tensors)
    for row, tensor in zip(rows, tensors):
        reference.observe_(*theirs, row, tensor)
    (counts, moments, parameters), (their_counts, their_moments, their_parameters) = mine, theirs
    assert torch.equal(parameters, their_parameters)
    assert torch.equal(counts, their_counts)
    exact = [slot for slot in range(layout.SLOTS) if slot not in (layout.SUM, layout.SUM_SQUARES)]
    assert torch.equal(moments[:, exact], their_moments[:, exact])
    squares, number = their_moments[:, layout.SUM_SQUARES], their_moments[:, layout.COUNT]
    torch.testing.assert_close(moments[:, layout.SUM_SQUARES], squares, rtol=2e-6, atol=0)
    slack = 2e-6 * (squares * number).sqrt()
    assert ((moments[:, layout.SUM] - their_moments[:, layout.SUM]).abs() <= slack).all()


@runs
@pytest.mark.parametrize(("name", "dtype"), CASES, ids=[f"{name}-{str(dtype)[6:]}" for name, dtype in CASES])
def test_every_element_falls_into_the_references_bin(name, dtype, launch):
    _check(launch, [1], [DATA[name].to(dtype)])


@runs
@pytest.mark.parametrize("dtype", EIGHT_BIT, ids=str)
@pytest.mark.parametrize("repeats", [1, 20], ids=["small", "large"])
def test_every_code_of_an_eight_bit_float_has_its_value(dtype, repeats, launch):
    _check(launch, [0], [torch.arange(256, dtype=torch.uint8).repeat(repeats).view(dtype)])


@runs
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_counted_up_to_their_limits(dtype, launch):
    limits = torch.iinfo(dtype)
    ends = torch.tensor([limits.min, limits.max, 0, 1], dtype=dtype)
    narrow = torch.tensor([limits.max - 1, limits.max], dtype=dtype)
    digits = torch.arange(100, dtype=torch.uint8).to(dtype)
    _check(launch, [0, 1, 2, 3], [ends, narrow, digits.repeat(30), ends.repeat(600)])


@runs
def test_truth_values_are_zeros_and_ones(launch):
    few = torch.tensor([True, False, True])
    _check(launch, [0, 1, 2], [few, few.repeat(1000), torch.ones(5000, dtype=torch.bool)])


LAYOUTS = {
    "channels last": lambda x: x.view(4, 5, 15, 30).to(memory_format=torch.channels_last),
    "transposed": lambda x: x.view(90, 100).t(),
    "expanded": lambda x: x[:3000].view(3000, 1).expand(3000, 7),
    "few, expanded": lambda x: x[:90].view(9, 1, 10).expand(9, 5, 10),
    "strided": lambda x: x[::3],
    "unaligned": lambda x: x[1:],
    "few, unaligned": lambda x: x[1:200],
    "overlapping": lambda x: x.unfold(0, 10, 4),
    "empty": lambda x: x[:0],
    "expanded to nothing": lambda x: x[:1].expand(0, 1),
}


@runs
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_whole(name, launch):
    _check(launch, [0], [LAYOUTS[name](DATA["specials"].float().to(DEVICE))])
    _check(launch, [0], [LAYOUTS[name](DATA["gauss"][:9000].to(DEVICE, torch.bfloat16))])


@runs
@pytest.mark.parametrize("first", ["1e30", "1e-30", "gauss", "1000 +- 1, and zeros", "all NaN", "zeros", "denormals"])
def test_later_tensors_join_the_first_ones_bins(first, launch):
    later = [DATA[name].float() for name in (first, "1e30", "gauss", "1e-30", "few specials")]
    _check(launch, [0, 0, 0, 0, 0], later)


@runs
def test_many_tensors_of_many_types_go_to_their_rows_in_one_call(launch):
    tensors = [
        DATA[name].to(dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.float64)
        for name in ("few", "relu", "constant", "specials", "one", "2049")
    ]
    tensors += [torch.zeros(0), torch.arange(4000), torch.tensor(True)]
    rows = [(5 * number) % 29 for number in range(len(tensors))]
    _check(launch, rows, tensors)


@runs
@pytest.mark.parametrize("offset", [0, 3])
def test_a_tensor_of_several_segments_is_read_once(offset, launch, monkeypatch):
    from torchboard.sketch import triton_launch

    monkeypatch.setattr(triton_launch, "SEGMENT", 9000)
    values = DATA["gauss"].float()[offset:]
    values[10_000] = torch.nan  # in the second of three segments: the others take the plain way
    _check(launch, [1, 0], [values, DATA["lognormal"].half()])


@runs
@pytest.mark.skipif(INTERPRETED, reason="8 GiB")
def test_a_tensor_of_more_than_two_to_the_31_elements_is_read_whole(launch):
    values = torch.zeros(2**31 + 5, dtype=torch.int8, device=DEVICE)
    values[-3:] = torch.tensor([1, 2, -3], dtype=torch.int8, device=DEVICE)
    rows = _rows(1)
    launch(rows, [0], [values])
    expected = torch.tensor([2.0**31 + 5, 2.0**31 + 2], dtype=torch.float64)
    assert torch.equal(rows[1][0, [layout.COUNT, layout.ZEROS]].cpu(), expected)
    assert rows[0].sum() == 3 and rows[1][0, layout.MAX] == 2 and rows[1][0, layout.NEGATED_MIN] == 3


@runs
def test_the_operators_take_the_kernels_once_they_are_tried(monkeypatch):
    from torchboard.sketch import ops, triton_launch

    taken, fold = [], triton_launch.observe_many_

    def spy(buffers, rows, tensors):
        taken.append(len(rows))
        fold(buffers, rows, tensors)

    monkeypatch.setattr(triton_launch, "observe_many_", spy)
    monkeypatch.setattr(ops, "_trials", ops._Trials())
    _check(lambda buffers, rows, tensors: ops._observe_many_fast(*buffers, rows, tensors), [1, 0], [DATA["few"]] * 2)
    assert taken == [3, 2]  # the trial, and the call


@runs
def test_packed_rows_are_the_same_words_as_torch_makes(monkeypatch):
    from torchboard.sketch import compact, triton_compact

    names = ["gauss", "relu", "few", "constant", "all NaN", "infinities", "1000 +- 1, and zeros", "lognormal"]
    rows = _rows(len(names) + 3)
    for row, name in enumerate(names):
        reference.observe_(*rows, row, DATA[name].float().to(DEVICE))
    digits = torch.arange(3200, device=DEVICE) % 32
    reference.observe_(*rows, len(names), digits**2 - 300)
    reference.observe_(*rows, len(names) + 1, -1 - digits)
    assert torch.equal(triton_compact.pack(*rows), compact.pack(*rows))
    monkeypatch.setattr(triton_compact, "_GROUPS", type(triton_compact._GROUPS)(100))
    monkeypatch.setattr(compact, "GROUPS", 100)
    if INTERPRETED:  # a compiled kernel keeps its constants
        assert torch.equal(triton_compact.pack(*rows), compact.pack(*rows))


def test_segments_tile_a_tensor_however_large():
    from torchboard.sketch import triton_launch as launcher

    number = 2**31 + 5
    segments = launcher.segments_of(np.array([[1000, 3, 1, 1], [4096, number, 7, 2]]), item_bytes=2)
    assert segments[0].tolist() == [1000, 3, 1, 1]
    address, sizes, row, times = segments[1:].T
    assert np.array_equal(address, 4096 + 2 * launcher.LONG_SEGMENT * np.arange(len(sizes)))
    assert sizes.sum() == number and (sizes[:-1] == launcher.LONG_SEGMENT).all() and sizes[-1] > 0
    assert set(row) == {7} and set(times) == {2}
    assert len(launcher.segments_of(np.array([[0, launcher.SEGMENT + 1, 0, 1]]), 4)) == 2
    assert len(launcher.segments_of(np.zeros((0, 4), np.int64), 4)) == 0


@compiles
def test_five_hundred_small_tensors_take_one_launch_and_large_ones_two(monkeypatch):
    from torchboard.sketch import triton_launch as launcher

    launches = []
    monkeypatch.setattr(
        launcher, "_launch", lambda kernel, records, *_, **options: launches.append((kernel.__name__, len(records)))
    )
    buffers = _rows(500)
    launcher.observe_many_(buffers, range(500), [torch.ones(768)] * 500)
    assert [launch for launch in launches if launch[1]] == [("fold_small_kernel", 500)]
    launches.clear()
    launcher.observe_many_(buffers, range(3), [torch.ones(3000)] * 3)
    assert [launch for launch in launches if launch[1]] == [("choose_kernel", 3), ("fold_kernel", 3)]


def _compiled(kernel, types: dict[str, str], target: tuple, warps: int, **constants) -> tuple[int, int]:
    """Bytes of shared memory and of spilled registers, a thread, of a kernel compiled for a device that is not here."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    built = triton.compile(source, target=GPUTarget(*target), options=options)
    if target[0] == "hip":
        return built.metadata.shared, int(re.search(r"private_segment_fixed_size:\s*(\d+)", built.asm["amdgcn"])[1])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return built.metadata.shared, 0
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    return built.metadata.shared, int(re.search(r"STACK:(\d+)", usage)[1])


TABLES = {"records": "*i64", "counts": "*i64", "moments": "*fp64", "parameters": "*fp64"}


@compiles
@pytest.mark.parametrize("target", [("cuda", 90, 32), ("hip", "gfx942", 64)], ids=str)
def test_the_kernels_compile_for_devices_that_are_not_here(target):
    from triton.backends import backends

    from torchboard.sketch import triton_compact, triton_elements, triton_kernels

    if {"cuda": "nvidia", "hip": "amd"}[target[0]] not in backends:
        pytest.skip("this Triton has no such backend")
    element = triton_elements.ELEMENTS["bfloat16"]
    warps, small = triton_kernels.WARPS, triton_kernels.SMALL_WARPS
    shared, spilled = _compiled(triton_kernels.fold_kernel, TABLES, target, warps, ELEMENT=element, ALIGNMENT=16)
    assert shared <= 16 << 10 and spilled <= 16
    shared, spilled = _compiled(triton_kernels.fold_small_kernel, TABLES, target, small, ELEMENT=element)
    assert shared <= 1 << 10 and spilled == 0
    tables = {name: TABLES[name] for name in ("counts", "moments", "parameters")} | {"cells": "*i64", "packed": "*i64"}
    shared, spilled = _compiled(triton_compact.pack_kernel, tables, target, triton_compact.WARPS)
    assert shared <= 16 << 10 and spilled == 0


@compiles
def test_the_kernels_agree_with_the_reference_in_the_interpreter():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        str(Path(__file__)),
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > len(CASES)
