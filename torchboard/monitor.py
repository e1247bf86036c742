"""Monitor: schedule x collectors x sink. No algorithm lives here.

Hooks sit on the model only in armed windows. A window runs from the end of one optimizer step to the end of the next; in
it, hooks fold tensors into sketches on their device. At the end of an epoch the monitor pulls every collector that is
due and hands one event to the sink, whose thread does the rest.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchboard.capture.clock import Clock
from torchboard.capture.facts import run_facts
from torchboard.capture.feature_maps import FeatureMaps
from torchboard.capture.graphs import FirstPassGraph
from torchboard.capture.metrics import RunningMeans, check_metric, scalars
from torchboard.capture.options import Capture
from torchboard.capture.parameters import Parameters
from torchboard.capture.recorder import TRAIN, Recorder
from torchboard.capture.steps import StepWatcher, WeightsVersion, learning_rates
from torchboard.errors import ClosedError, InvalidValueError, TorchboardWarning
from torchboard.run import Run, check_run_name, open_run
from torchboard.schedule import as_schedule, every
from torchboard.sink.null import NullSink
from torchboard.sink.protocol import Sink
from torchboard.values import Pending
from torchboard.writer import SummaryWriter

VALIDATION = "validation"
_VALIDATION_PREFIX = "val_"


class Monitor:
    """Watches a model while it trains, and writes what TensorBoard shows.

    Runs are laid out as Keras lays them out: ``<log_dir>/train``, ``<log_dir>/validation``, so that their curves lie over
    each other. In a distributed job, rank 0 watches and writes; on other ranks every call is accepted and does nothing.

    Args:
        model: the model that is trained. Nothing of it changes but hooks, and those are gone after ``close``.
        log_dir: where to write; None makes a directory below ``runs/`` named after the time and this machine. Runs that it
            already holds start again from step 0.
        optimizer: whose learning rate is logged before it has stepped. Optimizers are found when they step.
        histogram_freq: how many epochs lie between histograms and feature maps; 0 for none.
        write_graph: write the graph of the first training pass, its operations and its layers.
        write_steps_per_second: log ``epoch_steps_per_second`` (validation left out) and, with batch metrics,
            ``batch_steps_per_second``.
        update_freq: ``"epoch"``, or how many batches lie between ``batch_<metric>`` scalars; ``"batch"`` for each.
        feature_maps: what the convolutions make of the first training example, as pictures; a tensor to use that input
            instead, a batch of one.
        capture: which tensors are sketched, and how often.
        sink: where events go instead of event files below ``log_dir``; closed with the monitor.

    Raises:
        InvalidValueError: an argument is of the wrong kind.
        RunError: the directory cannot be used.
        RunInUseError: another process or monitor is writing in it.

    Example:
        >>> monitor = Monitor(model, "runs/resnet")
        >>> for epoch in range(epochs):
        ...     for images, labels in loader:
        ...         loss = criterion(model(images), labels)
        ...         optimizer.zero_grad(); loss.backward(); optimizer.step()
        ...         monitor.log_batch(loss=loss)
        ...     monitor.log_epoch(val_loss=evaluate(model))
        >>> monitor.close()
    """

    def __init__(
        self,
        model: nn.Module,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        optimizer: Optimizer | None = None,
        histogram_freq: int = 1,
        write_graph: bool = True,
        write_steps_per_second: bool = False,
        update_freq: int | str = "epoch",
        feature_maps: bool | Tensor = True,
        capture: Capture = Capture(),
        sink: Sink | None = None,
    ) -> None:
        _check_model(model)
        self._histograms = every(_check_count("histogram_freq", histogram_freq))
        self._batches = every(_check_count("update_freq", {"epoch": 0, "batch": 1}.get(update_freq, update_freq)))
        self._steps = as_schedule(capture.every)
        self._write_steps_per_second = write_steps_per_second
        writes = _rank() == 0
        self._run = _open(log_dir, sink if writes else NullSink())
        self._runs = {TRAIN: self._run}
        self._means: dict[str, RunningMeans] = {}
        self.epoch = 0
        self.step = 0
        self.phase_name = TRAIN
        self._batch = 0
        self._weights = WeightsVersion(model)
        self._watches = writes
        self._closed = False
        self._warned: set[str] = set()
        self._stepped: list[int] = []
        self._clock = Clock()
        self._recorder = Recorder(model, capture)
        self._parameters = Parameters(model, capture)
        self._feature_maps = FeatureMaps(model, capture, feature_maps if isinstance(feature_maps, Tensor) else None)
        self._shows_maps = feature_maps is not False
        self._graph = FirstPassGraph(model) if write_graph and writes else None
        self._watcher = StepWatcher(model, self._before_step, self._after_step, optimizer)
        if writes:
            shown = f"tensor {list(feature_maps.shape)}" if isinstance(feature_maps, Tensor) else feature_maps
            options = {
                "histogram_freq": histogram_freq,
                "update_freq": update_freq,
                "feature_maps": shown,
                "capture": capture,
            }
            self._run.write(0, (), pending=(run_facts(model, options),))
            self._arm(True)

    # ---- what a user calls

    def log_batch(self, **metrics: Any) -> None:
        """Ends a batch of the current phase: its metrics count towards the epoch's means.

        Metrics are numbers, or tensors and arrays with one element, on any device; device tensors stay there until the
        epoch ends, and nothing waits for them. With ``update_freq``, every so many training batches it also writes
        ``batch_<name>``, counted from 1. Where the weights have changed and no optimizer was seen to step (a compiled step,
        say, or one inside the backward pass), the batch ends a training step.

        Raises:
            InvalidValueError: a metric is not one real number; nothing of the batch is counted then.
            ClosedError: the monitor was closed.
        """
        self._check_open("log_batch")
        checked = {name: check_metric(name, value) for name, value in metrics.items()}
        self._means.setdefault(self.phase_name, RunningMeans()).add(checked)
        if self.phase_name != TRAIN:
            return
        self._batch += 1
        if self._batch and self._batches(self._batch):
            if self._write_steps_per_second:
                checked = {**checked, "steps_per_second": self._clock.batch_rate()}
            self._write_scalars(TRAIN, "batch_", checked, self._batch)
        self._clock.batch()
        if self._weights.changed():
            self._end_step()

    def log_epoch(self, **metrics: Any) -> None:
        """Ends an epoch and writes it: everything logged is on disk when this returns.

        Writes ``epoch_<name>`` for the means of the batch metrics and for the metrics given here (a key that starts with
        ``val_`` goes to the validation run, without the prefix; what is given wins over a mean),
        ``epoch_learning_rate``, and, every ``histogram_freq`` epochs, histograms and feature maps. Epochs count from 0.

        Raises:
            InvalidValueError: a metric is not one real number; the epoch is not ended then.
            ClosedError: the monitor was closed.
        """
        self._check_open("log_epoch")
        given = {name: check_metric(name, value) for name, value in metrics.items()}
        for phase, values in self._epoch_metrics(given).items():
            self._write_scalars(phase, "epoch_", values, self.epoch)
        self._write_graph()
        if self._watches and self._histograms(self.epoch):
            self._write_histograms()
        self._warn_of_errors()
        self._run.flush()
        self.epoch += 1
        self._clock.epoch()
        self._arm(True)

    @contextmanager
    def phase(self, name: str) -> Iterator[Monitor]:
        """Forward passes and metrics inside belong to the run ``<log_dir>/<name>``.

        The layers' outputs of the first forward pass inside are captured, in epochs that write histograms.

        Raises:
            TagError: the name is not one of a directory below the log directory.
            ClosedError: the monitor was closed.
        """
        self._check_open("phase")
        check_run_name(name)
        before = self.phase_name
        self.phase_name = self._recorder.phase = name
        self._recorder.arm(False)
        if name != TRAIN and self._watches and self._histograms(self.epoch):
            self._recorder.arm_for_one_pass()
        self._clock.pause()
        try:
            yield self
        finally:
            self._clock.resume()
            self.phase_name = self._recorder.phase = before
            self._recorder.arm(before == TRAIN and self._parameters.armed)

    @property
    def writer(self) -> SummaryWriter:
        """A writer on the run of the current phase, for anything else; a step not given is the epoch."""
        return SummaryWriter.on_run(self._run_of(self.phase_name), lambda: self.epoch)

    def flush(self) -> None:
        """Returns when everything written before is on disk."""
        self._check_open("flush")
        self._run.flush()

    def close(self) -> None:
        """Takes every hook off the model, writes what waits and lets go of the files. A second call does nothing.

        Metrics of batches since the last ``log_epoch`` belong to an epoch that did not end and are not written.
        """
        if self._closed:
            return
        self._write_graph()
        self._closed = True
        if self._graph is not None:
            self._graph.close()
        self._watcher.close()
        self._arm(False)
        self._warn_of_errors()
        self._run.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- the boundary of a step

    def _before_step(self, optimizer: Optimizer) -> None:
        self._parameters.before_step(optimizer)

    def _after_step(self, optimizer: Optimizer) -> None:
        """A step ends when every optimizer seen has stepped in it, or one of them steps again."""
        self._parameters.after_step(optimizer)
        again = id(optimizer) in self._stepped
        self._stepped.append(id(optimizer))
        if again or {id(other) for other in self._watcher.live_optimizers()} <= set(self._stepped):
            self._end_step()

    def _end_step(self) -> None:
        self.step += 1
        self._weights.changed()
        self._stepped.clear()
        self._arm(self._steps(self.step))

    def _arm(self, on: bool) -> None:
        """Opens or closes the window of the next step; in epochs without histograms it stays closed."""
        on = on and self._watches and not self._closed and self._histograms(self.epoch)
        if self.phase_name == TRAIN:
            self._recorder.arm(on)
        self._parameters.arm(on)
        self._feature_maps.arm(on and self._shows_maps)

    # ---- writing

    def _epoch_metrics(self, given: dict[str, float | Tensor]) -> dict[str, dict[str, float | Tensor]]:
        """Phase -> metrics of the epoch that ends: means, what the user gave, learning rates and speed."""
        phases = {phase: means.take() for phase, means in self._means.items()}
        train = phases.setdefault(TRAIN, {})
        for name, value in given.items():
            if name.startswith(_VALIDATION_PREFIX):
                phases.setdefault(VALIDATION, {})[name.removeprefix(_VALIDATION_PREFIX)] = value
            else:
                train[name] = value
        for suffix, rate in learning_rates(self._watcher.live_optimizers()).items():
            train.setdefault(f"learning_rate{suffix}", check_metric("learning_rate", rate))
        if self._write_steps_per_second:
            train.setdefault("steps_per_second", self._clock.epoch_rate())
        return phases

    def _write_scalars(self, phase: str, prefix: str, metrics: dict[str, float | Tensor], step: int) -> None:
        if metrics:
            pairs, pending = scalars({prefix + name: value for name, value in metrics.items()})
            self._run_of(phase).write(step, pairs, pending=pending)

    def _write_histograms(self) -> None:
        train: list[Pending] = [*self._recorder.collect(TRAIN), *self._parameters.collect()]
        if self._shows_maps:
            train += self._feature_maps.collect()
        phases: dict[str, Sequence[Pending]] = {
            phase: self._recorder.collect(phase) for phase in self._recorder.phases()
        }
        for phase, pending in {**phases, TRAIN: train}.items():
            if pending:
                self._run_of(phase).write(self.epoch, (), pending=tuple(pending), droppable=True)

    def _write_graph(self) -> None:
        if self._graph is not None and (pending := self._graph.collect()) is not None:
            self._run.write(0, (), pending=(pending,))
            self._graph = None

    def _run_of(self, phase: str) -> Run:
        if phase not in self._runs:
            self._runs[phase] = self._run.root.sub(phase)
        return self._runs[phase]

    def _warn_of_errors(self) -> None:
        """Says once what a collector could not do; said here, so that nothing is ever raised from a forward pass."""
        for collector, lost in (
            (self._recorder, "activations"),
            (self._feature_maps, "feature maps"),
            (self._graph, "the graph"),
        ):
            error = collector and collector.error
            if error is not None and lost not in self._warned:
                self._warned.add(lost)
                message = f"{lost} of this model cannot be captured and are left out ({type(error).__name__}: {error})"
                warnings.warn(message, TorchboardWarning, stacklevel=3)

    def _check_open(self, call: str) -> None:
        if self._closed:
            raise ClosedError(f"{call}() on a closed monitor", "its hooks and files are gone", "call it before close()")


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidValueError(
            f"model of type {type(model).__name__}",
            "a monitor watches a torch.nn.Module",
            "give the module that is trained",
        )


def _check_count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidValueError(
            f"{name}={value!r}", "it is a frequency", "give a whole number such as 1, or 0 for never"
        )
    return value


def _open(log_dir: str | os.PathLike[str] | None, sink: Sink | None) -> Run:
    if sink is None:
        return open_run(log_dir, TRAIN, purge_step=0, exclusive=True)
    return Run(sink, TRAIN)


def _rank() -> int:
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
