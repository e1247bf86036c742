"""Speed, without the time that is not training's."""

from __future__ import annotations

import time

import pytest

from torchboard.capture.clock import Clock


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
        assert clock.batch_rate() == pytest.approx(2.0)
        clock.batch()
        clock.pause()
        now[0] += 10.0
        clock.resume()
    now[0] += 100.0
    assert clock.epoch_rate() == pytest.approx(2.0)
    clock.epoch()
    now[0] += 0.1
    clock.batch()
    assert clock.epoch_rate() == pytest.approx(10.0)


def test_an_epoch_without_batches_has_no_speed(now):
    clock = Clock()
    now[0] += 1.0
    assert clock.epoch_rate() == 0.0
