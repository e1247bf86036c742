"""What a copy of a monitor is: silent, as a copy of a model is.

A model that holds its monitor is copied and pickled with it: an averaged copy, a checkpoint. What the copy then holds has
no file, no hook and no model, and takes the calls that the copy's own code makes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchboard.errors import TorchboardWarning
from torchboard.run import Run
from torchboard.sink.null import NullSink
from torchboard.writer import SummaryWriter


class SilentWhenCopied:
    """Part of ``Monitor``: copied or pickled it is a ``SilentMonitor``."""

    epoch: int
    step: int

    @property
    def phase_name(self) -> str:
        """The phase that calls belong to now."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        return SilentMonitor, (self.epoch, self.step, self.phase_name)


class SilentMonitor:
    """Takes every call that a ``Monitor`` takes, checks nothing and writes nothing.

    Args:
        epoch, step, phase_name: as the monitor had them when it was copied.
    """

    def __init__(self, epoch: int, step: int, phase_name: str) -> None:
        self.epoch = epoch
        self.step = step
        self.phase_name = phase_name
        self._told = False

    def log_batch(self, samples: int | None = None, /, **metrics: Any) -> None:
        """Does nothing."""

    def log_epoch(self, **metrics: Any) -> None:
        """Counts the epoch, and warns the first time: whoever ends epochs trains the copy, and may wait for its curves."""
        self.epoch += 1
        if not self._told:
            self._told = True
            message = (
                "this monitor came with a copy of a model and writes nothing; to log the copy, make a Monitor for it"
            )
            warnings.warn(message, TorchboardWarning, stacklevel=2)

    def log_predictions(self, *arguments: Any, **options: Any) -> None:
        """Does nothing."""

    def log_embeddings(self, *arguments: Any, **options: Any) -> None:
        """Does nothing."""

    def log_slices(self, *arguments: Any, **options: Any) -> None:
        """Does nothing."""

    @contextmanager
    def phase(self, name: str) -> Iterator[SilentMonitor]:
        """Names the phase inside."""
        before, self.phase_name = self.phase_name, name
        try:
            yield self
        finally:
            self.phase_name = before

    @property
    def writer(self) -> SummaryWriter:
        """A writer that keeps nothing."""
        return SummaryWriter.on_run(Run(NullSink(), self.phase_name), lambda: self.epoch)

    def summary(self) -> str:
        """An empty text."""
        return ""

    def show(self) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    def __enter__(self) -> SilentMonitor:
        return self

    def __exit__(self, *exception: object) -> None:
        pass
