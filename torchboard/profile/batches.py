"""A profiler over some batches of training, started and stopped by their ends.

The guarantee: one profiler, once, that this starts and this stops; one of somebody else's is left alone, and a fault of
the profiler is a warning. It costs what ``torch.profiler`` costs in the batches asked for and two hooks a layer, writing
what it saw at their end (about 0.1 ms an operation), and nothing before or after.
"""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from torchboard.errors import InvalidValueError, TorchboardWarning
from torchboard.profile.layer_marks import LayerMarks
from torchboard.profile.report import write_profile
from torchboard.profile.trace import STEP
from torchboard.run import Run

Batches = int | str | tuple[int, int] | list[int]
"""One batch, counted from 1, or the first and the last of several: ``5``, ``(5, 8)``, ``"5,8"``; 0 for none."""


def batches_of(value: Batches) -> tuple[int, int] | None:
    """First and last batch to profile; None for none.

    Raises:
        InvalidValueError: it is neither a number nor two, they do not go up, or they are not counted from 1.
    """
    first_last = value
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*,\s*\d+\s*", value):
        first_last = [int(number) for number in value.split(",")]
    elif isinstance(value, int):
        first_last = (value, value)
    whole = isinstance(first_last, (tuple, list)) and len(first_last) == 2
    if not whole or any(isinstance(number, bool) or not isinstance(number, int) for number in first_last):
        raise _refused(value, "it is neither a batch nor the first and the last of some")
    first, last = first_last
    if first == last == 0:
        return None
    if first < 1:
        raise _refused(value, "batches are counted from 1")
    if last < first:
        raise _refused(value, f"batch {last} comes before batch {first}")
    return first, last


class BatchProfiler:
    """Profiles from the end of the batch before the first to the end of the last, and writes what it saw to a run.

    A batch ends where ``end_batch`` is called. In a training that never calls it, a batch is a step.

    Args:
        batches: the first and the last, counted from 1; None for none. From batch 1 on it begins at once.
        run: gets what ``write_profile`` writes.
        model: whose layers are told apart in it.

    Attributes:
        is_over: whether there is nothing left to profile: no end of a batch or a step needs to be told then.
    """

    def __init__(self, batches: tuple[int, int] | None, run: Run, model: nn.Module) -> None:
        self._run = run
        self._model = model
        self._first, self._last = batches or (0, 0)
        self.is_over = batches is None
        self._batches = self._steps = self._number = 0
        self._profile: profile | None = None
        self._mark: Any = None
        self._marks: LayerMarks | None = None
        if not self.is_over:
            self._begin_if_due(0)

    @property
    def runs(self) -> bool:
        """Whether its profiler is active."""
        return self._profile is not None

    def end_batch(self) -> None:
        """A batch has ended."""
        self._batches += 1
        if not self.is_over:
            self._end(self._batches)

    def end_step(self) -> None:
        """A step of training has ended, of a batch that ends with it or later."""
        self._steps += 1
        if self.is_over:
            return
        if self._batches < self._steps - 1:  # nobody says where batches end
            self._end(self._steps)
        else:
            self._begin_if_due(self._steps)

    def finish(self) -> None:
        """Stops, if it runs, and writes what it has seen."""
        profiled = self.stop()
        if profiled is None:
            return
        layers = {} if self._marks is None else self._marks.layers
        last = min(self._number, self._last)
        try:
            write_profile(self._run, profiled, layers, self._first, last)
        except Exception as error:
            _warn(
                f"of the profile of batches {self._first} to {last} something is lost ({type(error).__name__}: {error})"
            )

    def stop(self) -> profile | None:
        """Stops, if it runs; gives the profiler that has stopped."""
        stopped, self._profile, self.is_over = self._profile, None, True
        if self._marks is not None:
            self._marks.remove()
        if stopped is not None:
            with suppress(Exception):
                self._mark.__exit__(None, None, None)
            if not torch.autograd._profiler_enabled():  # to ask it for a trace would end the process
                _warn(f"somebody else has stopped the profiler: the profile of batch {self._first} on is lost")
                return None
            try:
                stopped.stop()
            except Exception as error:
                _warn(f"the profiler could not be stopped ({type(error).__name__}: {error})")
                return None
        return stopped

    def _end(self, number: int) -> None:
        """The batch of that number has ended."""
        self._begin_if_due(number)
        if not self.runs or number < self._number:
            return
        if number >= self._last:
            self.finish()
        else:
            self._mark.__exit__(None, None, None)
            self._mark_batch(number + 1)

    def _begin_if_due(self, number: int) -> None:
        if self.runs or number < self._first - 1:
            return
        self.is_over = True  # unless it starts
        if torch.autograd._profiler_enabled():
            _warn(f"another profiler is active: batches {self._first} to {self._last} are not profiled")
            return
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        started = profile(activities=kinds, profile_memory=True)
        try:
            started.start()
        except Exception as error:
            _warn(f"the profiler could not be started ({type(error).__name__}: {error})")
            return
        self._profile, self.is_over = started, False
        self._marks = LayerMarks(self._model)
        self._mark_batch(number + 1)

    def _mark_batch(self, number: int) -> None:
        """Names what follows as torch's own profiler names a step, which is what viewers look for."""
        self._number = number
        self._mark = record_function(f"{STEP}{number}")
        self._mark.__enter__()


def _refused(value: object, wrong: str) -> InvalidValueError:
    return InvalidValueError(
        f"profile_batch={value!r}", wrong, "give a batch such as 5, two such as (5, 8), or 0 for none"
    )


def _warn(message: str) -> None:
    warnings.warn(message, TorchboardWarning, stacklevel=5)
