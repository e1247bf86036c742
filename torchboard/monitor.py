"""Monitor: schedule x collectors x sink. No algorithm lives here.

Hooks sit on the model only in armed windows. A window runs from the end of one optimizer step to the end of the next; in
it, hooks fold tensors into sketches on their device. At the end of an epoch the monitor pulls every collector that is
due and hands one event to the sink, whose thread does the rest.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from torchboard.analysis.methods import AnalysisMethods
from torchboard.capture.clock import Clock, check_samples
from torchboard.capture.embeddings import EmbeddingLayers, Metadata
from torchboard.capture.facts import run_facts
from torchboard.capture.metrics import PhaseMetrics, check_metric, check_metrics
from torchboard.capture.model_watch import ModelWatch
from torchboard.capture.models import as_model
from torchboard.capture.options import Capture, check_flags, check_update_freq, frequency, texts_of
from torchboard.capture.pictures.weight_images import WeightImages
from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.pooled import greeting
from torchboard.capture.recorder import TRAIN
from torchboard.capture.watchable import check_watched
from torchboard.errors import ClosedError, TorchboardWarning
from torchboard.forgotten import Release
from torchboard.hparams.sessions import start_session
from torchboard.hparams.trials import Choice, trial_of
from torchboard.notebook import NotebookMethods
from torchboard.phases import Phases, open_log
from torchboard.profile.batches import Batches, BatchProfiler, batches_of
from torchboard.run import check_run_name
from torchboard.schedule import as_schedule
from torchboard.silent import SilentWhenCopied
from torchboard.sink.protocol import Sink
from torchboard.writer import SummaryWriter


class Monitor(AnalysisMethods, NotebookMethods, SilentWhenCopied):
    """Watches a model while it trains, and writes what TensorBoard shows.

    Runs are laid out as Keras lays them out: ``<log_dir>/train``, ``<log_dir>/validation``, so that their curves lie over
    each other. In a distributed job every rank makes a monitor alike and calls the same; rank 0's writes, for all of them.

    Args:
        model: the model that is trained, or a dict of several (a GAN's), whose keys then begin the names of their layers.
            Nothing of it changes but hooks, and those are gone after ``close``.
        log_dir: where to write; None makes a directory below ``runs/`` named after the time and this machine. Runs that it
            already holds start again from step 0, with a warning, unless they are resumed.
        optimizer: whose learning rate is logged before it has stepped. Optimizers are found when they step.
        histogram_freq: how many epochs lie between histograms and feature maps; 0 for none.
        write_graph: write the graph of the first training pass, its operations, its layers and what they cost, and to
            the run of every other phase that of its first pass; ``"step"`` for one of a training step too: with loss,
            backward pass and optimizers, under the tag ``train_step``.
        write_images: with the histograms, write every weight as a picture, ``weights/<name>``: vectors, matrices, kernels.
        write_steps_per_second: log ``epoch_steps_per_second`` (validation left out) and, with batch metrics,
            ``batch_steps_per_second``; and ``…_samples_per_second`` where ``log_batch`` is told the number of samples.
        update_freq: ``"epoch"``, or how many batches lie between ``batch_<metric>`` scalars; ``"batch"`` for each.
        profile_batch: the batch, counted from 1 as this monitor sees them, or the first and last of several, ``(5, 8)`` or
            ``"5,8"``, that ``torch.profiler`` runs over: a trace below ``train/plugins/profile`` for Perfetto and for
            TensorBoard with ``xprof``, the longest operations in the Text tab, and scalars of each layer's time.
        embeddings_freq: how many epochs lie between the points of every ``nn.Embedding`` in the Projector tab; 0 for none.
        embeddings_metadata: a label for each of their rows: a list, the path of a file with a line each (with a header, if
            it has several columns, parted by tabs), or a dict of layer name -> either.
        feature_maps: what the convolutions make of the first training example, as pictures; a tensor to use that input
            instead, a batch of one, for a lone model.
        capture: which tensors are sketched, and how often.
        hparams: what this run was given, for the HParams dashboard of a TensorBoard pointed at a directory above
            ``log_dir``: ``HParam`` or name -> boolean, number or text. The trial succeeds with ``close`` and fails where an
            exception leaves the ``with`` block.
        trial_id: runs with one id are one row there; by default a hash of the hyperparameters.
        resume: go on with the log in ``log_dir``, if there is one: behind its last epoch that ended, or, given a number,
            from the beginning of that epoch (0-based), as the checkpoint has it. Records that came later are put aside.
        on_error: what a full disk or a failing file system does: ``"warn"`` warns once, and training goes on while
            writing is tried again; ``"raise"`` raises ``SinkError`` at the next call.
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
        model: nn.Module | Mapping[str, nn.Module],
        log_dir: str | os.PathLike[str] | None = None,
        *,
        optimizer: Optimizer | None = None,
        histogram_freq: int = 1,
        write_graph: bool | str = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: int | str = "epoch",
        profile_batch: Batches = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: Metadata | Mapping[str, Metadata] | None = None,
        feature_maps: bool | Tensor = True,
        capture: Capture = Capture(),
        hparams: Choice | None = None,
        trial_id: str | None = None,
        resume: bool | int = False,
        on_error: str = "warn",
        sink: Sink | None = None,
    ) -> None:
        model = as_model(model)
        check_watched(model, capture, optimizer, feature_maps, write_graph)
        check_flags(write_images=write_images, write_steps_per_second=write_steps_per_second)
        self._histograms = frequency("histogram_freq", histogram_freq)
        self._update_every = check_update_freq(update_freq)
        self._projections = frequency("embeddings_freq", embeddings_freq)
        self._embeddings = EmbeddingLayers(model, embeddings_metadata)
        profiled = batches_of(profile_batch)
        self._steps = as_schedule(capture.every)
        self._write_steps_per_second = write_steps_per_second
        trial = trial_of(hparams, trial_id)
        self._ranks = Ranks(capture.rank_timeout, log_dir, greeting(model), texts_of(capture, histogram_freq))
        self._writes = writes = self._ranks.writes
        self._run, before = open_log(log_dir, resume, on_error, sink, self._ranks)
        self._phases = Phases(self._run, TRAIN, writes)
        self._metrics = PhaseMetrics()
        self.epoch, self._batch, self.step = before.epochs, before.batches, before.steps
        self._error: BaseException | None = None
        self._closed = False
        self._warned: set[str] = set()
        self._clock = Clock()
        self._watch = ModelWatch(
            model,
            capture,
            self._step_ended,
            optimizer=optimizer,
            feature_maps=feature_maps if writes else False,
            graph=write_graph if writes else False,
        )
        if resume is not False:
            self._embeddings.go_on(self._run, before.epochs)
        if write_images and writes:
            self._watch.add(WeightImages(model))
        self._profiler = BatchProfiler(profiled if writes else None, self._run, model)
        self._release = Release(self._profiler.stop, self._watch.release, self._run.close)
        if writes:
            options = {
                "histogram_freq": histogram_freq,
                "update_freq": update_freq,
                "write_graph": write_graph,
                "feature_maps": feature_maps,
                "capture": capture,
            }
            self._phases.write_captured(TRAIN, (run_facts(model, options),), self.epoch)
        self._trial = None if trial is None else start_session(self._run.root, *trial)
        self._ranks.join()
        self._begin_epoch()

    # ---- what a user calls

    def log_batch(self, samples: int | None = None, /, **metrics: Any) -> None:
        """Ends a batch of the current phase: its metrics count towards the epoch's means.

        Metrics are numbers, or tensors and arrays with one element, on any device; device tensors stay there until the
        epoch ends, and nothing waits for them. With ``update_freq``, every so many training batches it also writes
        ``batch_<name>``, counted from 1. Where the weights have changed since the last training step ended (by a compiled
        optimizer, say, or one that steps inside the backward pass, or by some of several), the batch ends one.

        Args:
            samples: how many samples the batch has, such as ``len(images)``, for ``samples_per_second`` (of this process)
                beside ``steps_per_second``; it may be left out, and is given without a name.
            metrics: name -> value.

        Raises:
            InvalidValueError, TagError: a metric is not one real number, or its name no tag; nothing of the batch counts then.
            ClosedError: the monitor was closed.
        """
        if self._closed:  # looked at here: what is called in every step, on cold caches, calls as little as can be
            self._check_open("log_batch")
        samples = None if samples is None else check_samples(samples)
        for name, value in metrics.items():
            metrics[name] = check_metric(name, value)
        self._metrics.means[self._watch.phase].add(metrics)
        if self._watch.phase != TRAIN:
            return
        self._batch += 1
        if self._update_every and self._batch % self._update_every == 0:
            if self._write_steps_per_second:
                metrics = {**metrics, **self._clock.batch_rates(samples)}
            self._phases.write(TRAIN, "batch_{}", metrics, self._batch)
        if not self._profiler.is_over:
            self._profiler.end_batch()
        if self._write_steps_per_second:
            self._clock.batch(samples)
        self._watch.end_batch()

    def log_epoch(self, *unnamed: Any, **metrics: Any) -> None:
        """Ends an epoch and writes it: everything logged is on disk when this returns.

        Writes ``epoch_<name>`` for the means of the batch metrics and for the metrics given here (a key that starts with
        ``val_`` goes to the validation run, without the prefix; what is given wins over a mean),
        ``epoch_learning_rate`` as the last step used it, ``evaluation_<name>_vs_iterations`` for those of validation, at the
        number of training steps, and, every ``histogram_freq`` epochs, histograms and feature maps. Epochs count from 0. In a
        distributed job every rank calls it; means are over the batches of all ranks, what is given is rank 0's, and so is
        ``epoch``; rank 0 waits.

        Raises:
            InvalidValueError, TagError: a metric is not one real number, or its name no tag; the epoch is not ended then.
            ClosedError: the monitor was closed.
        """
        self._check_open("log_epoch")
        self.epoch = self._ranks.end_epoch(self.epoch, self.step, self._due)
        given = check_metrics(unnamed, metrics)
        self._phases.end_epoch(self._epoch_metrics(given), self.epoch, self.step)
        self._write_graphs()
        if self._due:
            self._write_captured()
        if self._writes and self._projections(self.epoch):
            self._embeddings.write(self._run, self.epoch)
        self._watch.overhead.wait(self._run.flush)
        self._warn_of_errors()
        self.epoch += 1
        self._begin_epoch()

    @contextmanager
    def phase(self, name: str) -> Iterator[Monitor]:
        """Forward passes and metrics inside (a validation's, an agent's rollouts) belong to the run ``<log_dir>/<name>``.

        The layers' outputs of the first forward pass inside are captured, of several models of that of each, in epochs that
        write histograms. Steps of optimizers are counted, and not captured.

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
            if not self._closed:
                self._watch.enter(before, False)

    @property
    def phase_name(self) -> str:
        """The phase that forward passes and metrics belong to now."""
        return self._watch.phase

    @property
    def writer(self) -> SummaryWriter:
        """A writer on the run of the current phase, for anything else; a step not given is the epoch."""
        return SummaryWriter.on_run(self._phases.run(self.phase_name), lambda: self.epoch)

    def summary(self) -> str:
        """The layers by parameters, FLOPs, time and activation memory of the first training pass, as a Markdown table.

        FLOPs count a multiplication and an addition as two. Before that pass, and with ``write_graph=False``, only the
        parameters are known. The same table is in the Text tab, as ``run/layers``.
        """
        return self._watch.costs().markdown()

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
        self._profiler.finish()
        self._write_graphs(last=True)
        if self._trial is not None:
            self._trial.end(self._error)
        self._closed = True
        self._ranks.close()
        self._release()
        self._warn_of_errors()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._error = exception[0] if exception else None  # type: ignore[assignment]
        self.close()

    # ---- when to look

    def _begin_epoch(self) -> None:
        """The first step of an epoch that writes histograms is always captured."""
        self._due = self._ranks.watches and self._histograms(self.epoch)
        self._clock.epoch()
        self._watch.begin_epoch(self._due)

    def _step_ended(self) -> bool:
        self.step += 1
        if not self._profiler.is_over:
            self._profiler.end_step()
        return self._due and self._steps(self.step - self._watch.lag) and self._watch.overhead.affords()

    # ---- writing

    def _epoch_metrics(self, given: dict[str, float | Tensor]) -> dict[str, dict[str, float | Tensor]]:
        """Phase -> metrics of the epoch that ends: means, what the user gave, learning rates and speed."""
        phases = self._metrics.take(given, self._ranks)
        speed = self._clock.epoch_rates() if self._write_steps_per_second else {}
        rates = {f"learning_rate{suffix}": rate for suffix, rate in self._watch.learning_rates().items()}
        phases[TRAIN] = {**speed, **rates, **phases[TRAIN]}
        return phases

    def _write_captured(self) -> None:
        for phase, pending in self._watch.collect(self._ranks).items():
            self._phases.write_captured(phase, pending, self.epoch, droppable=True)

    def _write_graphs(self, last: bool = False) -> None:
        for phase, graph in self._watch.take_graphs(last):
            self._phases.write_captured(phase, (graph,), self.epoch)

    def _warn_of_errors(self) -> None:
        """Says once what a collector could not do; said here, so that nothing is ever raised from a forward pass."""
        others = ("embeddings", self._embeddings.error), ("some values", self._phases.error)
        for lost, error in (*self._watch.errors(), *others):
            if error is not None and lost not in self._warned:
                self._warned.add(lost)
                message = f"{lost} of this model cannot be captured: left out ({type(error).__name__}: {error})"
                warnings.warn(message, TorchboardWarning, stacklevel=3)

    def _check_open(self, call: str) -> None:
        if self._closed:
            raise ClosedError(f"{call}() on a closed monitor", "its hooks and files are gone", "call it before close()")
