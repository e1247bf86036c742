"""Speed, without the time that is not training's."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from torchboard import MemorySink, Monitor
from torchboard.capture.clock import Clock, check_samples
from torchboard.errors import InvalidValueError


@pytest.fixture
def now(monkeypatch):
    """The time, which goes on when a test says so."""
    seconds = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    return seconds


def test_validation_does_not_slow_an_epoch_inside_a_phase_or_behind_the_last_batch(now):
    clock = Clock()
    for _ in range(4):
        now[0] += 0.5
        assert clock.batch_rates() == {"steps_per_second": pytest.approx(2.0)}
        clock.batch()
        clock.pause()
        now[0] += 10.0
        clock.resume()
    now[0] += 100.0
    assert clock.epoch_rates() == {"steps_per_second": pytest.approx(2.0)}
    clock.epoch()
    now[0] += 0.1
    clock.batch()
    assert clock.epoch_rates() == {"steps_per_second": pytest.approx(10.0)}


def test_an_epoch_without_batches_has_no_speed(now):
    clock = Clock()
    now[0] += 1.0
    assert clock.epoch_rates() == {"steps_per_second": 0.0}


def test_samples_are_counted_where_every_batch_of_the_epoch_tells_how_many_it_has(now):
    clock = Clock()
    for size in (32, 32, 16):
        now[0] += 0.5
        assert clock.batch_rates(size)["samples_per_second"] == pytest.approx(2 * size)
        clock.batch(size)
    assert clock.epoch_rates() == {
        "steps_per_second": pytest.approx(2.0),
        "samples_per_second": pytest.approx(80 / 1.5),
    }
    clock.batch()
    assert "samples_per_second" not in clock.epoch_rates()
    clock.epoch()
    now[0] += 1.0
    clock.batch(8)
    assert clock.epoch_rates()["samples_per_second"] == pytest.approx(8.0)


@pytest.mark.parametrize("given", [None, 0, 32, np.int64(32)])
def test_a_number_of_samples_is_a_whole_one(given):
    assert check_samples(given) == given


@pytest.mark.parametrize("given", [-1, True, 2.0, "32", torch.tensor(32), {"loss": 1.0}])
def test_what_is_no_number_of_samples_is_refused(given):
    with pytest.raises(InvalidValueError, match="how many samples the batch has; give len"):
        check_samples(given)


def test_a_monitor_logs_samples_per_second_where_batches_tell():
    sink = MemorySink()
    with Monitor(nn.Linear(2, 1), sink=sink, write_steps_per_second=True, update_freq=2) as monitor:
        for _ in range(4):
            monitor.log_batch(16, loss=1.0)
        with monitor.phase("validation"):
            monitor.log_batch(99, loss=1.0)
        monitor.log_epoch()
        monitor.log_batch(16)
        with pytest.raises(InvalidValueError):
            monitor.log_batch({"loss": 1.0})
        monitor.log_batch(loss=1.0)
        monitor.log_epoch()
    points = {name: sink.series(f"{name}_per_second") for name in ("batch_samples", "epoch_samples", "epoch_steps")}
    assert {name: [step for step, _ in found] for name, found in points.items()} == {
        "batch_samples": [2, 4], "epoch_samples": [0], "epoch_steps": [0, 1]
    }  # fmt: skip
    assert points["epoch_samples"][0][1].value == pytest.approx(16 * points["epoch_steps"][0][1].value)
    assert "epoch_samples_per_second" not in sink.tags("validation")
