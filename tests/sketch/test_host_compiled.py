"""The compiled fold, beside the definition of the rows; most of what it must do is in ``test_folding``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from torchboard.sketch import host_compiled, layout, reference
from torchboard.sketch.table import blank_rows

CPU = torch.device("cpu")
EXACT = [*range(layout.SUM), layout.NEGATED_MIN, layout.MAX]
HALVES = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)

needs_it = pytest.mark.skipif(not host_compiled.available(), reason="the compiled code was not built")


def test_it_is_built_where_there_is_a_compiler():
    """An installation goes on without it, so a mistake in the source would be noticed by nobody else."""
    if not shutil.which("gcc") or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("there is no compiler, or no headers of Python")
    assert host_compiled.available()


def test_code_of_another_version_is_not_used(monkeypatch):
    monkeypatch.setattr(host_compiled, "_VERSION", -5)
    assert host_compiled._load() is None


def test_without_it_torch_folds(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchboard.sketch._host_fold", None)
    monkeypatch.setattr(host_compiled, "_library", host_compiled._load())
    assert not host_compiled.available()
    rows = blank_rows(1, CPU)
    host_compiled.observe_(*rows.buffers, 0, torch.arange(5.0))
    host_compiled.observe_many_(*rows.buffers, [0], [torch.arange(5.0)])
    assert rows.moments[0, layout.COUNT] == 10


def _agree(tensors: list[torch.Tensor]) -> None:
    """Folds them into one row after another, by compiled code and by the reference."""
    mine, theirs = blank_rows(1, CPU), blank_rows(1, CPU)
    for tensor in tensors:
        assert host_compiled.read_(host_compiled.rows_of(mine.buffers), 0, tensor)
        if not theirs.counts.any():  # the reference would choose by a sample, and keep what zeros chose
            theirs.parameters.copy_(mine.parameters)
        reference.observe_(*theirs.buffers, 0, tensor)
    assert torch.equal(mine.counts, theirs.counts)
    assert torch.equal(mine.moments[:, EXACT], theirs.moments[:, EXACT])
    sums = slice(layout.SUM, layout.SUM_SQUARES + 1)
    torch.testing.assert_close(mine.moments[:, sums], theirs.moments[:, sums], rtol=1e-12, atol=1e-9)


@needs_it
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_number_of_sixteen_bits_is_seen_as_what_it_is(dtype):
    _agree([HALVES.view(dtype)])
    for part in HALVES.view(dtype).split(1 << 12):
        _agree([part])


@needs_it
@settings(max_examples=60, deadline=None)
@given(st.lists(arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32)), min_size=1, max_size=3))
def test_whatever_the_numbers_the_reference_agrees(data):
    _agree([torch.from_numpy(item) for item in data])


@needs_it
@pytest.mark.parametrize("number", [1, 7, 8, 31, 33, 4095, 4096, 4097, 16_384, 16_385, 20_481, 131_072, 400_003])
@pytest.mark.parametrize("data", ["gauss", "relu", "narrow", "wide", "rare specials"])
def test_pieces_and_threads_leave_nothing_out(number, data):
    values = torch.randn(number, generator=torch.Generator().manual_seed(number))
    values = {
        "gauss": values,
        "relu": values.relu(),
        "narrow": 5 + 0.1 * values,
        "wide": torch.exp(8 * values),
        "rare specials": torch.where(values.abs() > 3, values / 0.0, values),
    }[data]
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            _agree([values])
            _agree([values[: number // 2 + 1], values])
    finally:
        torch.set_num_threads(before)


@needs_it
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_does_without_the_threads_it_has_not():
    script = """
import os, signal, torch
from torchboard.sketch import host_compiled
from torchboard.sketch.table import blank_rows
torch.set_num_threads(2)
values, rows = torch.randn(1_000_000), blank_rows(1, torch.device("cpu"))
host_compiled.observe_(*rows.buffers, 0, values)
child = os.fork()
if not child:
    signal.alarm(20)
    host_compiled.observe_(*rows.buffers, 0, values)
    os._exit(int(rows.moments[0, 0]) != 2_000_000)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@needs_it
def test_elements_between_two_addresses_are_read():
    raw = torch.arange(4 * 5000 + 1, dtype=torch.int64).to(torch.uint8)
    values = torch.from_numpy(np.frombuffer(raw.numpy().tobytes(), np.float32, 5000, offset=1).copy())
    unaligned = torch.frombuffer(bytearray(raw.numpy().tobytes()), dtype=torch.float32, count=5000, offset=1)
    mine, theirs = blank_rows(1, CPU), blank_rows(1, CPU)
    assert not host_compiled.read_(
        host_compiled.rows_of(mine.buffers), 0, unaligned
    )  # C has no numbers that lie like that
    host_compiled.observe_(*mine.buffers, 0, unaligned)
    host_compiled.observe_(*theirs.buffers, 0, values)
    assert torch.equal(mine.counts, theirs.counts)
    torch.testing.assert_close(mine.moments, theirs.moments, rtol=1e-12, atol=0)


@needs_it
def test_what_needs_more_care_is_left_to_torch():
    rows = blank_rows(3, CPU)
    rows.parameters[0, layout.KIND] = layout.INTEGERS
    host_compiled.read_(host_compiled.rows_of(rows.buffers), 1, torch.tensor([1e-300, -2e-300], dtype=torch.float64))
    before = rows.moments.clone()
    for row, tensor in enumerate([torch.ones(3), torch.tensor([1e300], dtype=torch.float64), torch.arange(3)]):
        assert not host_compiled.read_(host_compiled.rows_of(rows.buffers), row, tensor)
    assert torch.equal(rows.moments, before)


@needs_it
def test_of_many_those_that_need_more_care_are_folded_too():
    rows = blank_rows(3, CPU)
    together = [torch.arange(5), torch.tensor([1e-300], dtype=torch.float64), torch.ones(4)]
    host_compiled.observe_many_(*rows.buffers, [0, 1, 2], together)
    later = [torch.randn(7), torch.tensor([1e300, 2e300], dtype=torch.float64), torch.ones(6)]
    host_compiled.observe_many_(*rows.buffers, [0, 1, 2], later)
    assert rows.moments[:, layout.COUNT].tolist() == [12, 3, 10]
