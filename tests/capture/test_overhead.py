"""The monitor's share of the time, measured and bounded."""

from __future__ import annotations

import itertools
import sys
import threading

import pytest
import torch
from torch import nn

from torchboard import Capture, MemorySink, Monitor
from torchboard.capture.overhead import Overhead


class Time:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def steps_captured(limit, cost, steps=400, every=10):
    """Which steps are captured where a step takes 1 second and ``cost`` more where it is captured."""
    clock, found = Time(), []
    overhead = Overhead(limit, clock)
    for step in range(steps):
        clock.now += 1.0
        if step and step % every == 0 and overhead.affords():
            found.append(step)
            with overhead:
                clock.now += cost(step)
            overhead.captured()
    return found


def test_what_is_cheap_enough_is_captured_as_scheduled():
    assert steps_captured(0.05, lambda step: 0.1) == list(range(10, 400, 10))


@pytest.mark.parametrize(("cost", "stride"), [(0.15, 2), (0.35, 4), (0.7, 8)])
def test_what_is_too_dear_is_captured_at_a_multiple_of_the_distance(cost, stride):
    found = steps_captured(0.01, lambda step: cost)
    gaps = {after - before for before, after in zip(found[2:], found[3:])}
    assert gaps == {10 * stride}


def test_without_a_bound_every_due_step_is_captured():
    assert len(steps_captured(None, lambda step: 100.0)) == 39


def test_what_becomes_cheap_again_is_captured_more_often_again():
    found = steps_captured(0.01, lambda step: 0.7 if step < 200 else 0.01, steps=2000)
    assert found[-1] - found[-2] == 10


def epochs(length, cost, steps, limit=0.01, every=10, collecting=0.0):
    """The granted steps, and the share of all the time by the second half, of a training whose epochs begin with a captured
    step, where a step takes 1 second and ``cost(step)`` more if captured."""
    clock = Time()
    overhead = Overhead(limit, clock)
    captured, spent, granted, half = True, 0.0, [], (0.0, 0.0)
    for step in range(1, steps + 1):
        clock.now += 1.0
        if captured:
            with overhead:
                clock.now += cost(step)
            spent += cost(step)
            overhead.captured()
        captured = step % every == 0 and overhead.affords()
        if captured:
            granted.append(step + 1)
        if step % length == 0:
            with overhead:
                clock.now += collecting
            spent += collecting
            overhead.take()
            captured = True
        if step == steps // 2:
            half = spent, clock.now
    return granted, (spent - half[0]) / (clock.now - half[1])


def rarest(granted, after):
    """The longest way between granted steps from some step on, and to the last one at the least."""
    later = [step for step in granted if step > after]
    return max(step - before for before, step in zip(later, later[1:]))


@pytest.mark.parametrize(("length", "cost"), [(500, 0.3), (500, 2.0), (5000, 0.3), (5000, 2.0), (5000, 10.0)])
def test_the_share_is_kept_and_used_however_long_epochs_are(length, cost):
    granted, share = epochs(length, lambda step: cost, 100_000)
    assert 0.01 / 2 < share < 0.0101
    assert rarest(granted, 10_000) <= 4 * cost / 0.01


@pytest.mark.parametrize("length", [50, 500])
@pytest.mark.parametrize("collecting", [0.0, 5.0])
def test_first_steps_that_are_too_dear_by_themselves_leave_the_others_a_quarter_of_the_limit(length, collecting):
    granted, _ = epochs(length, lambda step: 10.0, 200_000, collecting=collecting)
    assert rarest(granted, 0) <= 2 * 10.0 / (0.01 / 4) * 1.3
    assert len([step for step in granted if step > 100_000]) <= 100_000 * (0.01 / 4) / 10.0 * 1.1


@pytest.mark.parametrize("length", [50, 500, 5000])
def test_the_distance_comes_back_when_steps_become_cheap(length):
    granted, _ = epochs(length, lambda step: 10.0 if step < 100_000 else 0.01, 120_000)
    assert rarest(granted, 119_000) == 10


def test_collecting_is_no_part_of_the_step_that_is_granted_before_it():
    granted, _ = epochs(100, lambda step: 0.02, 1000, limit=0.1, collecting=5.0)
    assert granted == list(range(11, 1011, 10))


def test_time_inside_itself_counts_once_and_shares_are_those_since_the_last_call():
    clock = Time()
    overhead = Overhead(0.5, clock)
    for _ in range(2):
        clock.now += 3.0
        with overhead:
            clock.now += 0.5
            with overhead:
                clock.now += 0.5
        assert overhead.take() == pytest.approx(0.25)
    assert overhead.take() == 0.0


def test_a_thread_that_begins_to_measure_while_another_ends_takes_nothing_from_it():
    calls, overhead = itertools.count(), None

    def other() -> None:
        with overhead:
            pass

    thread = threading.Thread(target=other)

    def clock() -> int:
        call = next(calls)
        if call == 2:  # the end of what is measured below
            thread.start()
            thread.join(0.1)
        return call

    overhead = Overhead(0.5, clock)
    with overhead:
        pass
    thread.join()
    assert overhead.take() == 2 / 5


def test_without_a_bound_nothing_is_measured():
    calls = itertools.count()
    overhead = Overhead(None, lambda: next(calls))
    with overhead:
        pass
    overhead.wait(lambda: None)
    assert next(calls) == 1


def test_waiting_is_in_the_next_share_and_moves_no_step():
    clock = Time()
    overhead = Overhead(0.1, clock)

    def until_written():
        clock.now += 9.0

    for _ in range(10):
        clock.now += 1.0
        assert overhead.affords()
        with overhead:
            clock.now += 0.1
        overhead.captured()
        overhead.wait(until_written)
    assert overhead.take() == pytest.approx(91 / 101)
    assert overhead.take() == 0.0


def test_the_wait_for_the_files_is_in_the_figure_of_the_next_epoch():
    clock = Time()

    class Slow(MemorySink):
        def flush(self):
            clock.now += 3.0

    sink = Slow()
    with Monitor(nn.Linear(2, 2), sink=sink, capture=Capture(max_overhead=0.5)) as monitor:
        monitor._watch.overhead = Overhead(0.5, clock)
        for _ in range(3):
            clock.now += 1.0
            monitor.log_epoch()
    assert [value.value for _, value in sink.series("monitor/overhead")] == [0.0, 0.75, 0.75]


def test_what_fails_while_it_is_waited_for_is_told():
    def fails():
        raise OSError("no space")

    for limit in (None, 0.5):
        with pytest.raises(OSError, match="no space"):
            Overhead(limit).wait(fails)


def test_a_step_that_was_not_asked_for_changes_nothing():
    """The first step of an epoch is captured whatever it costs, and says nothing of the distance between the others."""
    clock = Time()
    overhead = Overhead(0.01, clock)
    with overhead:
        clock.now += 100.0
    overhead.captured()
    assert overhead.affords()


def calls_of_ours(step) -> int:
    """How many functions of this package a call of ``step`` runs."""
    found = []

    def note(frame, event, argument):
        if event == "call" and "torchboard" in frame.f_globals.get("__name__", "").split("."):
            found.append(frame.f_code)

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return len(found)


def calls_of_an_uncaptured_step(layers: int) -> int:
    """Those of the monitor alone: watchers that other tests have forgotten may have left hooks."""
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
    optimizers = [torch.optim.SGD(one.parameters(), 0.1) for one in (model, nn.Linear(2, 2))]

    def step(monitor: Monitor | None = None) -> None:
        model(torch.ones(1, 2)).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        if monitor is not None:
            monitor.log_batch(loss=1.0)

    for _ in range(2):
        step()
    others = calls_of_ours(step)
    with Monitor(model, sink=MemorySink(), capture=Capture(every=1000), feature_maps=False) as monitor:
        for _ in range(3):
            step(monitor)
        return calls_of_ours(lambda: step(monitor)) - others


def test_a_step_that_is_not_captured_runs_few_functions_whatever_the_models_size():
    assert calls_of_an_uncaptured_step(1) == calls_of_an_uncaptured_step(30) <= 36
