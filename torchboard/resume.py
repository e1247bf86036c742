"""A monitor's log taken back to the moment when an epoch began, so that training can go on from there.

Runs hold tags over different axes: epochs, batches, and whatever else a user counts. No one step separates what an
interrupted epoch left of them from what was there before, but the order of the records does: all that stands behind
the last epoch that is kept came after it. So the files are cut there, and what is cut is kept beside them. Both of
TensorBoard's loaders then see curves without a fold, and so does every other reader.

Cost: one pass over all files below the log directory.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from torchboard import proto
from torchboard.errors import InvalidValueError, RunInUseError, TorchboardWarning
from torchboard.eventfile.framing import Fault
from torchboard.eventfile.scanning import walk
from torchboard.live import collect_forgotten
from torchboard.log_dir import SCHEME, check_log_dir, path_of
from torchboard.reader.index import event_files, runs_below
from torchboard.sink.cut import cut
from torchboard.sink.ownership import disown, own
from torchboard.values.hparams import SESSION_END_TAG

_EPOCH = "epoch_"
_BATCH = "batch_"
_EVALUATION = "evaluation_"
_CAPTURED = (
    "activations/ activation_gradients/ gradients/ parameters/ updates/ feature_maps/ weights/ predictions/ slices/"
)
_BY_EPOCH = (_EPOCH, *_CAPTURED.split())
"""How the tags begin that a monitor writes once an epoch, at the epoch's number."""
_TRIAL = "_hparams_/"
_GREATEST = 2**63 - 1


@dataclass(frozen=True)
class Progress:
    """How far a monitor's log has come.

    Attributes:
        epochs: how many epochs have ended; the number of the next one.
        batches: the last batch that has a point, or 0.
        steps: at which step of training the last evaluation was, or ``batches``.
        purge_step: behind every step that is kept, and no less than ``epochs``; None where there is nothing to go on from.
    """

    epochs: int = 0
    batches: int = 0
    steps: int = 0
    purge_step: int | None = None


@dataclass
class _Extent:
    """What of a run is kept: all up to the last epoch before ``epoch``, and what was written with that.

    Attributes:
        cut: file and offset of the first record that is not; None where all are.
        epochs: how many epochs have ended in what is kept.
        batches: the last batch in it.
        steps: of training, before the last evaluation in it.
        step: the greatest step in it.
        greatest: the greatest step in the run.
        by_epoch: whether the run has tags that a monitor writes once an epoch.
    """

    epoch: int
    cut: tuple[int, int] | None = None
    epochs: int = 0
    batches: int = 0
    steps: int = 0
    step: int = 0
    greatest: int = 0
    by_epoch: bool = False
    _batch: int = 0
    _steps: int = 0
    _kept: int | None = None

    def take(self, place: tuple[int, int], event: Any, tags: list[str]) -> None:
        """Notes the next record that holds anything."""
        by_epoch = any(tag.startswith(_BY_EPOCH) for tag in tags)
        self.by_epoch |= by_epoch
        self.greatest = max(self.greatest, event.step)
        if any(tag.startswith(_BATCH) for tag in tags):
            self._batch = event.step
        if any(tag.startswith(_EVALUATION) for tag in tags):
            self._steps = event.step
        if by_epoch and event.step < self.epoch:
            self.cut, self._kept = None, event.step
            self.batches, self.steps, self.step = self._batch, self._steps, self.greatest
            if any(tag.startswith(_EPOCH) for tag in tags):
                self.epochs = event.step + 1
        elif self.cut is None and event.step != self._kept:
            self.cut = place


def begin_log(log_dir: str | os.PathLike[str] | None, train: str, resume: bool | int, writes: bool = True) -> Progress:
    """Where a monitor begins to count: at 0, with a warning where there is a run already, or where an earlier one ended.

    Args:
        log_dir: the monitor's log directory; None where there is none to look in.
        train: the run that training is logged to.
        resume: whether to go on, or the epoch that comes next.
        writes: False to find out only, for the ranks that do not write.

    Raises:
        InvalidValueError: ``log_dir`` is no path, ``resume`` is neither, or there is no local directory to go on in.
        RunInUseError: somebody is writing in it.
        RunError: the directory cannot be used.
        OSError: it cannot be changed.
    """
    path = path_of(log_dir) if log_dir is not None else None
    path = path if writes else None
    if path is not None:
        collect_forgotten(path)
    if resume is False:
        if path is not None and _holds_a_run(os.path.join(path, train)):
            message = (
                f"log_dir={path!r} holds a run; it starts again at step 0, and what it held is hidden. Give "
                "resume=True to go on with it, or a directory that is new"
            )
            warnings.warn(message, TorchboardWarning, stacklevel=5)
        return Progress(purge_step=0)
    if not isinstance(resume, int) or resume < 0:
        raise InvalidValueError(f"resume={resume!r}", "it is True, or an epoch", "give checkpoint['epoch'] + 1, say")
    if log_dir is None or SCHEME in os.fspath(log_dir):
        raise InvalidValueError(f"resume={resume!r}", "there is no local log to go on with", "give a local log_dir")
    return _rewind(check_log_dir(log_dir), train, None if resume is True else resume, writes)


def _rewind(root: str, train: str, epoch: int | None, writes: bool) -> Progress:
    """Takes a log back to the beginning of an epoch, or to the end of the last one."""
    runs = [os.path.normpath(os.path.join(root, run)) for run in runs_below(root)]
    trained = os.path.join(root, train)
    with ExitStack() as owners:
        for run in runs if writes else ():
            if (owner := own(run)) is not None:
                owners.callback(disown, owner)
        if epoch is None:
            epoch = _extent(trained, _GREATEST).epochs if trained in runs else 0
        extents = {run: _extent(run, epoch) for run in runs}
        if writes:
            for run, extent in extents.items():
                if extent.cut is not None and extent.by_epoch:
                    cut(event_files(run)[extent.cut[0] :], extent.cut[1])
            if root in runs:
                _without_end(root)
    if not runs:
        return Progress(epoch)
    behind = max(epoch, *(extent.step + 1 for extent in extents.values()))
    batches = extents[trained].batches if trained in extents else 0
    steps = max(extent.steps for extent in extents.values()) or batches
    return Progress(epoch, batches, steps, behind if behind <= _GREATEST else None)


def _holds_a_run(directory: str) -> bool:
    """Whether somebody has logged there who is not doing so now."""
    if not os.path.isdir(directory) or not event_files(directory):
        return False
    try:
        owner = own(directory)
    except RunInUseError:
        return False
    if owner is not None:
        disown(owner)
    return True


def _extent(directory: str, epoch: int) -> _Extent:
    extent = _Extent(epoch)
    for place, event, tags in _contents(directory):
        extent.take(place, event, tags)
    if not extent.by_epoch:  # a run of the user's own: all of it is kept
        extent.cut, extent.step = None, extent.greatest
    return extent


def _contents(directory: str) -> Iterator[tuple[tuple[int, int], Any, list[str]]]:
    """``((file, offset), event, tags)`` of every record with a value or a graph, up to where its file is broken."""
    for number, path in enumerate(event_files(directory)):
        for record in walk(path):
            if isinstance(record, Fault):
                break
            event = proto.Event.FromString(record.data)
            tags = [value.tag for value in event.summary.value]
            if tags or event.HasField("graph_def"):
                yield (number, record.offset), event, tags


def reopen_trial(log_dir: str | os.PathLike[str]) -> None:
    """Lets the trial in a directory begin again, where there is one that ended and nobody writes there.

    Raises:
        OSError: the directory cannot be changed.
    """
    root = check_log_dir(log_dir)
    if SCHEME in root or not os.path.isdir(root) or not event_files(root):
        return
    with ExitStack() as owners, suppress(RunInUseError):
        if (owner := own(root)) is not None:
            owners.callback(disown, owner)
        if not _without_end(root):
            return
        message = (
            f"{os.fspath(log_dir)!r} holds a trial that has ended, and records after its end; TensorBoard will go on "
            "showing how it ended. Give the trial a directory of its own"
        )
        warnings.warn(message, TorchboardWarning, stacklevel=3)


def _without_end(root: str) -> bool:
    """Takes the end of a trial away, if it is the end of the file; whether one stays.

    TensorBoard keeps to the first that it reads.
    """
    stays = False
    end = None
    for place, _, tags in _contents(root):
        if SESSION_END_TAG in tags:
            end = end or place
        elif not all(tag.startswith(_TRIAL) for tag in tags):
            stays |= end is not None
            end = None
    if end is not None:
        cut(event_files(root)[end[0] :], end[1])
    return stays
