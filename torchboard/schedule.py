"""When to look: pure functions from a step number to yes or no.

A schedule depends on nothing but the step, so every rank of a distributed job gives the same answer without a message.
All schedules are frozen, comparable and picklable, and their ``repr`` is the expression that makes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torchboard.errors import InvalidValueError

Schedule = Callable[[int], bool]
"""A pure function of the step, counted from 0. What it gives is a yes where it counts as true."""


@dataclass(frozen=True, repr=False)
class _Every:
    interval: int
    start: int

    def __call__(self, step: int) -> bool:
        return self.interval > 0 and step >= self.start and (step - self.start) % self.interval == 0

    def __repr__(self) -> str:
        return f"every({self.interval}, start={self.start})" if self.start else f"every({self.interval})"


@dataclass(frozen=True, repr=False)
class _At:
    steps: frozenset[int]

    def __call__(self, step: int) -> bool:
        return step in self.steps

    def __repr__(self) -> str:
        return f"at({', '.join(map(str, sorted(self.steps)))})"


@dataclass(frozen=True, repr=False)
class _Window:
    start: int
    stop: int

    def __call__(self, step: int) -> bool:
        return self.start <= step < self.stop

    def __repr__(self) -> str:
        return f"window({self.start}, {self.stop})"


@dataclass(frozen=True, repr=False)
class _LogSpaced:
    per_decade: int

    def __call__(self, step: int) -> bool:
        if step < 1:
            return step == 0
        return self._index(step) > self._index(step - 1) if step > 1 else True

    def _index(self, step: int) -> int:
        """How many of the marks ``ceil(10 ** (i / per_decade))`` are at most ``step``; exact in integers."""
        count, power = 0, step**self.per_decade
        while 10**count <= power:
            count += 1
        return count

    def __repr__(self) -> str:
        return f"log_spaced({self.per_decade})"


@dataclass(frozen=True, repr=False)
class _Either:
    schedules: tuple[Schedule, ...]

    def __call__(self, step: int) -> bool:
        return any(schedule(step) for schedule in self.schedules)

    def __repr__(self) -> str:
        return f"either({', '.join(map(repr, self.schedules))})"


def every(interval: int, start: int = 0) -> Schedule:
    """Yes at ``start``, ``start + interval``, ``start + 2 * interval``…; never for an interval of 0."""
    if interval < 0:
        raise InvalidValueError(
            f"every({interval})", "an interval cannot be negative", "give 0 for never, or a positive step count"
        )
    return _Every(int(interval), int(start))


def at(*steps: int) -> Schedule:
    """Yes at the steps named, and only there."""
    return _At(frozenset(map(int, steps)))


def window(start: int, stop: int) -> Schedule:
    """Yes from ``start`` up to, but not including, ``stop``."""
    return _Window(int(start), int(stop))


def first(count: int) -> Schedule:
    """Yes for the first ``count`` steps."""
    return _Window(0, int(count))


def log_spaced(per_decade: int = 10) -> Schedule:
    """Yes at step 0 and then ``per_decade`` times in each tenfold of steps, evenly on a logarithmic axis.

    Early in a decade two marks may fall on the same step; such a step counts once.
    """
    if per_decade < 1:
        raise InvalidValueError(f"log_spaced({per_decade})", "a decade needs at least one step", "give 1 or more")
    return _LogSpaced(int(per_decade))


def either(*schedules: int | Schedule) -> Schedule:
    """Yes where any of the schedules, each as for ``as_schedule``, says yes."""
    return _Either(tuple(map(as_schedule, schedules)))


def as_schedule(value: int | Schedule) -> Schedule:
    """A step count as ``every(count)``; a schedule as it is, without being called.

    Raises:
        InvalidValueError: ``value`` is neither a whole number nor a function of one argument.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return every(value)
    if takes(value, 1):
        return value
    raise InvalidValueError(
        f"schedule {value!r}",
        "a schedule is a step count or a function of the step",
        "give 10, or torchboard.schedule.every(10)",
    )


def takes(function: object, count: int) -> bool:
    """Whether it can be called with so many arguments; yes where a callable does not tell. It is not called."""
    try:
        signature = inspect.signature(function)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return callable(function)
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
