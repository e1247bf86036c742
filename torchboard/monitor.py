"""Monitor: schedule x collectors x sink. No algorithm lives here.

Hooks sit on the model only in armed windows. A window runs from the end of one optimizer step to the end of the next; in
it, hooks fold tensors into sketches on their device. At the end of an epoch the monitor pulls every collector that is
due and hands one event to the sink, whose thread does the rest.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchboard.capture.clock import Clock
from torchboard.capture.facts import run_facts
from torchboard.capture.metrics import RunningMeans, check_metric, scalars
from torchboard.capture.model_watch import ModelWatch
from torchboard.capture.options import Capture
from torchboard.capture.recorder import TRAIN
from torchboard.errors import ClosedError, InvalidValueError, TorchboardWarning
from torchboard.hparams.trials import Choice, end_session, plain_hparams, start_session, trial_id_of
from torchboard.run import Run, check_run_name, open_run
from torchboard.schedule import as_schedule, every
from torchboard.sink.null import NullSink
from torchboard.sink.protocol import Sink
from torchboard.values.hparams import Plain
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
        hparams: what this run was given, for the HParams dashboard of a TensorBoard pointed at a directory above
            ``log_dir``: ``HParam`` or name -> boolean, number or text. The trial succeeds with ``close`` and fails where an
            exception leaves the ``with`` block.
        trial_id: runs with one id are one row there; by default a hash of the hyperparameters.
        sink: where events go instead of event files below ``log_dir``; closed with the monitor.

    Raises:
        InvalidValueError: an argument is of the wrong kind, or a hyperparameter is outside its domain.
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
        hparams: Choice | None = None,
        trial_id: str | None = None,
        sink: Sink | None = None,
    ) -> None:
        _check_model(model)
        self._histograms = every(_check_count("histogram_freq", histogram_freq))
        self._batches = every(_check_count("update_freq", {"epoch": 0, "batch": 1}.get(update_freq, update_freq)))
        self._steps = as_schedule(capture.every)
        self._write_steps_per_second = write_steps_per_second
        trial = _check_trial(hparams, trial_id)
        writes = _rank() == 0
        self._run = _open(log_dir, sink if writes else NullSink())
        self._runs = {TRAIN: self._run}
        self._means: dict[str, RunningMeans] = {}
        self.epoch = 0
        self.step = 0
        self._batch = 0
        self._writes = writes
        self._is_trial = trial is not None
        self._failed = False
        self._closed = False
        self._warned: set[str] = set()
        self._clock = Clock()
        self._watch = ModelWatch(
            model,
            capture,
            self._step_ended,
            optimizer=optimizer,
            feature_maps=feature_maps,
            graph=write_graph and writes,
        )
        self._release = weakref.finalize(self, _release, self._watch, self._run)
        if writes:
            options = {
                "histogram_freq": histogram_freq,
                "update_freq": update_freq,
                "write_graph": write_graph,
                "feature_maps": feature_maps,
                "capture": capture,
            }
            self._run.write(0, (), pending=(run_facts(model, options),))
        if trial is not None:
            start_session(self._run.root, *trial)
        self._begin_epoch()

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
        if self._batches(self._batch):
            if self._write_steps_per_second:
                checked = {**checked, "steps_per_second": self._clock.batch_rate()}
            self._write_scalars(TRAIN, "batch_", checked, self._batch)
        self._clock.batch()
        self._watch.end_batch()

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
        if self._due:
            self._write_captured()
        self._warn_of_errors()
        self._run.flush()
        self.epoch += 1
        self._begin_epoch()

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
        before = self._watch.enter(name, self._due)
        self._clock.pause()
        try:
            yield self
        finally:
            self._clock.resume()
            self._watch.enter(before, False)

    @property
    def phase_name(self) -> str:
        """The phase that forward passes and metrics belong to now."""
        return self._watch.phase

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
        if self._is_trial:
            end_session(self._run.root, succeeded=not self._failed)
        self._closed = True
        self._release()
        self._warn_of_errors()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._failed = kind is not None
        self.close()

    # ---- when to look

    def _begin_epoch(self) -> None:
        """The first step of an epoch that writes histograms is always captured."""
        self._due = self._writes and self._histograms(self.epoch)
        self._clock.epoch()
        self._watch.arm(self._due)

    def _step_ended(self) -> None:
        self.step += 1
        self._watch.arm(self._due and self._steps(self.step))

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
        for suffix, rate in self._watch.learning_rates().items():
            train.setdefault(f"learning_rate{suffix}", check_metric("learning_rate", rate))
        if self._write_steps_per_second:
            train.setdefault("steps_per_second", self._clock.epoch_rate())
        return phases

    def _write_scalars(self, phase: str, prefix: str, metrics: dict[str, float | Tensor], step: int) -> None:
        if metrics:
            pairs, pending = scalars({prefix + name: value for name, value in metrics.items()})
            self._run_of(phase).write(step, pairs, pending=pending)

    def _write_captured(self) -> None:
        for phase, pending in self._watch.collect().items():
            self._run_of(phase).write(self.epoch, (), pending=pending, droppable=True)

    def _write_graph(self) -> None:
        if (graph := self._watch.take_graph()) is not None:
            self._run.write(0, (), pending=(graph,))

    def _run_of(self, phase: str) -> Run:
        if phase not in self._runs:
            self._runs[phase] = self._run.root.sub(phase)
        return self._runs[phase]

    def _warn_of_errors(self) -> None:
        """Says once what a collector could not do; said here, so that nothing is ever raised from a forward pass."""
        for lost, error in self._watch.errors():
            if lost not in self._warned:
                self._warned.add(lost)
                message = f"{lost} of this model cannot be captured and are left out ({type(error).__name__}: {error})"
                warnings.warn(message, TorchboardWarning, stacklevel=3)

    def _check_open(self, call: str) -> None:
        if self._closed:
            raise ClosedError(f"{call}() on a closed monitor", "its hooks and files are gone", "call it before close()")


def _release(watch: ModelWatch, run: Run) -> None:
    """Takes every hook away and lets go of the run: at ``close``, or when the monitor is forgotten."""
    watch.release()
    run.close()


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise InvalidValueError(
            f"model of type {type(model).__name__}",
            "a monitor watches a torch.nn.Module",
            "give the module that is trained",
        )


def _check_trial(hparams: Choice | None, trial_id: str | None) -> tuple[dict[str, Plain], str] | None:
    if hparams is None:
        if trial_id is not None:
            raise InvalidValueError(f"trial_id={trial_id!r}", "there are no hyperparameters", "give hparams too")
        return None
    plain = plain_hparams(hparams)
    return plain, trial_id_of(trial_id, plain)


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
