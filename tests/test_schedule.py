"""Schedules are pure functions of the step."""

from __future__ import annotations

import pickle

import pytest

from torchboard import schedule
from torchboard.errors import InvalidValueError


def steps(when, stop=30):
    return [step for step in range(stop) if when(step)]


def test_every_counts_from_its_start():
    assert steps(schedule.every(10)) == [0, 10, 20]
    assert steps(schedule.every(10, start=5)) == [5, 15, 25]
    assert steps(schedule.every(0)) == []


def test_at_window_first_and_either():
    assert steps(schedule.at(3, 1)) == [1, 3]
    assert steps(schedule.window(4, 7)) == [4, 5, 6]
    assert steps(schedule.first(2)) == [0, 1]
    assert steps(schedule.either(schedule.first(1), schedule.at(9))) == [0, 9]
    assert steps(schedule.either(20, schedule.at(9))) == [0, 9, 20]


def test_log_spaced_thins_out_evenly_over_the_decades():
    assert steps(schedule.log_spaced(1), 2000) == [0, 1, 10, 100, 1000]
    assert steps(schedule.log_spaced(2), 200) == [0, 1, 4, 10, 32, 100]
    assert len(steps(schedule.log_spaced(10), 10_001)) == pytest.approx(41, abs=6)


@pytest.mark.parametrize(
    "when",
    [
        schedule.every(3),
        schedule.at(1, 2),
        schedule.window(1, 5),
        schedule.log_spaced(3),
        schedule.either(schedule.first(2), schedule.every(7)),
    ],
    ids=repr,
)
def test_a_schedule_pickles_compares_and_prints_as_what_makes_it(when):
    assert pickle.loads(pickle.dumps(when)) == when
    assert eval(repr(when), vars(schedule)) == when


def test_a_function_of_one_argument_is_a_schedule_and_is_not_called_to_find_out():
    def never(step, epoch=0):
        raise AssertionError(step)

    for function in (never, lambda *args: True, bool, {}.get, [1].__contains__, (3).__lt__):
        assert schedule.as_schedule(function) is function


def test_bad_schedules_are_refused_at_the_call():
    for make in (
        lambda: schedule.every(-1),
        lambda: schedule.log_spaced(0),
        lambda: schedule.as_schedule("10"),
        lambda: schedule.as_schedule(True),
        lambda: schedule.as_schedule(lambda: True),
        lambda: schedule.as_schedule(lambda step, epoch: True),
        lambda: schedule.as_schedule(lambda *, step: True),
        lambda: schedule.either(schedule.at(1), lambda: True),
    ):
        with pytest.raises(InvalidValueError):
            make()
