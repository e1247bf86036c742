"""The runs of a monitor, one for each phase, and the curves that lie over each other in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict

from torch import Tensor

from torchboard.capture.guarded import Guarded
from torchboard.capture.metrics import VALIDATION, scalars
from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.posts import read_each
from torchboard.capture.recorder import TRAIN
from torchboard.resume import Progress, begin_log
from torchboard.run import Run, open_run
from torchboard.sink.null import NullSink
from torchboard.sink.protocol import Sink, check_sink
from torchboard.values import Pending


class Phases:
    """Writes the metrics of training, validation and whatever else there is to a run each.

    Args:
        run: that of training.
        name: what that phase is called.
        writes: False on a rank whose metrics are not written.

    Attributes:
        error: what a captured value raised on the sink's thread, if one did.
    """

    def __init__(self, run: Run, name: str, writes: bool = True) -> None:
        self.error: Exception | None = None
        self._root = run.root
        self._runs = {name: run}
        self._evaluated = -1
        self._writes = writes

    def run(self, phase: str) -> Run:
        """The run of a phase, below the log directory."""
        if phase not in self._runs:
            self._runs[phase] = self._root.sub(phase)
        return self._runs[phase]

    def write(self, phase: str, tag: str, metrics: dict[str, float | Tensor], step: int) -> None:
        """Writes checked metrics under ``tag``, in which ``{}`` stands for the name; nothing waits for those on a device."""
        if metrics and self._writes:
            pairs, pending = scalars({tag.format(name): value for name, value in metrics.items()})
            self.run(phase).write(step, pairs, pending=pending)

    def write_captured(self, phase: str, pending: Iterable[Pending], step: int, droppable: bool = False) -> None:
        """Writes what collectors have found. What they can still not have on the sink's thread is left out, and never raised
        into the training: the first such error is kept."""
        guarded = tuple(Guarded(one, self._fail) for one in pending)
        self.run(phase).write(step, (), pending=guarded, droppable=droppable)

    def end_epoch(self, metrics: dict[str, dict[str, float | Tensor]], epoch: int, steps: int) -> None:
        """Writes what an epoch came to, over epochs, and what validation found, over steps of training too.

        Args:
            metrics: phase -> checked metrics.
            epoch: the number of the epoch that ends.
            steps: how many steps of training there were by now; where there was none since the last evaluation, the
                second has no point over steps.
        """
        found = metrics.get(VALIDATION, {})
        if found and steps != self._evaluated:
            self._evaluated = steps
            self.write(VALIDATION, "evaluation_{}_vs_iterations", found, steps)
        for phase, values in metrics.items():
            self.write(phase, "epoch_{}", values, epoch)

    def _fail(self, error: Exception) -> None:
        self.error = self.error or error


def open_log(
    log_dir: str | os.PathLike[str] | None, resume: bool | int, on_error: str, sink: Sink | None, ranks: Ranks
) -> tuple[Run, Progress]:
    """The training run of a monitor, and how far its log has come: on every rank what rank 0 finds.

    Raises:
        InvalidValueError, RunError, OSError: as ``check_sink``, ``begin_log`` and ``open_run``.
    """
    if sink is not None:
        check_sink(sink)
    before = _begin(log_dir if sink is None else None, resume, ranks)
    if not ranks.writes:
        return Run(NullSink(), TRAIN), before
    if sink is None:
        return open_run(log_dir, TRAIN, purge_step=before.purge_step, exclusive=True, on_error=on_error), before
    return Run(sink, TRAIN), before


def _begin(log_dir: str | os.PathLike[str] | None, resume: bool | int, ranks: Ranks) -> Progress:
    said, heard = b"", []
    if resume is not False and not ranks.writes:
        said = ranks.from_first("progress", b"")
    if said:
        read_each({0: said}, ranks, lambda _, post: heard.append(_read(post)))
    if heard:
        return heard[0]
    try:
        before = begin_log(log_dir, TRAIN, resume, ranks.writes)
        said = json.dumps(asdict(before)).encode()
    finally:
        if resume is not False and ranks.writes:
            ranks.from_first("progress", said)
    return before


def _read(post: bytes) -> Progress:
    """What rank 0 sent; raises where it is no such thing."""
    return Progress(**{name: int(value) for name, value in json.loads(post).items() if value is not None})
