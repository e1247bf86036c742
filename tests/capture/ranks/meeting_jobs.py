"""What each process of a job does in ``test_meeting``: monitors that find each other, or do not, and ranks that miss epochs."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from rank_jobs import Keeping, _granted_waits, _set_up
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

import torchboard
from torchboard import Capture, Monitor
from torchboard.errors import InvalidValueError, RunError, TorchboardWarning


def on_two_ranks(rank: int, directory: str) -> None:
    """Runs every job; what rank 0 was given to write, what was told and for how long it may have waited is saved."""
    if rank == 1:
        _watched("trial")[0].close()
    _set_up(rank, 2, directory)
    os.makedirs(f"{directory}/disk {rank}")
    os.chdir(f"{directory}/disk {rank}")
    jobs = (
        after_a_trial,
        every_second,
        first_every_third,
        ahead,
        tried_again,
        tried_again_to_resume,
        skips,
        skips_without_steps,
        raises,
        other_options,
        none_on_first,
        classes,
        no_dir,
        swapped,
        others,
        one_more,
        pipeline,
        empty,
        fewer,
    )
    for job in jobs:
        dist.barrier()
        with warnings.catch_warnings(record=True) as caught, _granted_waits() as waits:
            warnings.simplefilter("always")
            result = job(rank)
        told = [str(warning.message) for warning in caught if warning.category is TorchboardWarning]
        torch.save((result, told, sum(waits)), f"{directory}/{job.__name__}-{rank}")
    dist.barrier()
    os._exit(0)


def _watched(log_dir: str | None = "log", seed: int = 0, kind: type = nn.Sequential, **options):
    """A monitor, what it writes, and a function that trains a step on some examples."""
    sink, model = Keeping(), kind(nn.Linear(2, 2))
    capture = Capture(every=1, rank_timeout=options.pop("timeout", 60.0))
    common = {"sink": sink, "feature_maps": False, "write_graph": False, "capture": capture}
    monitor = Monitor(model, log_dir, **(common | options))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(examples: int) -> None:
        model(torch.ones(examples, 2)).sum().backward()
        optimizer.step()
        monitor.log_batch(loss=float(examples))

    return monitor, sink, step


def _train(rank: int, epochs: int, end: Callable[[Monitor, int], None], steps: int = 1, **options) -> Keeping:
    """So many epochs; in each a rank sees as many examples as ten times the rank, and the epoch's number."""
    monitor, sink, step = _watched(**options)
    dist.barrier()
    for epoch in range(epochs):
        for _ in range(steps):
            step(10 * (1 + rank) + epoch)
        end(monitor, epoch)
        dist.barrier()
    monitor.close()
    return sink.kept


def after_a_trial(rank: int):
    """Rank 1 has made a monitor before the job was set up."""
    return _train(rank, 2, lambda monitor, _: monitor.log_epoch(), log_dir=None)


def every_second(rank: int):
    """Rank 1 leaves every second end of an epoch out, and comes first to the others."""

    def end(monitor: Monitor, epoch: int) -> None:
        if rank == 1 and epoch % 2:
            monitor.log_epoch()
        dist.barrier()
        if rank == 0:
            monitor.log_epoch()

    return _train(rank, 6, end, timeout=3.0)


def first_every_third(rank: int):
    """Rank 0 ends every third epoch of rank 1."""
    return _train(rank, 9, lambda monitor, epoch: (rank or epoch % 3 == 2) and monitor.log_epoch(), timeout=0.3)


def ahead(rank: int):
    """Rank 1 ends the first epoch of its second training when rank 0 is not through with the first."""
    _watched(f"former of {rank}")[0].close()
    first, _, _ = _watched("first")
    dist.barrier()
    if rank == 0:
        dist.barrier()
    monitor, sink, step = _watched("second")
    for examples in (1, 2):
        step(examples)
        monitor.log_epoch()
    if rank == 1:
        dist.barrier()
    monitor.close()
    first.close()
    return sink.kept


def tried_again(rank: int, resume: bool = False):
    """Rank 0's monitor is made at the second try."""
    log_dir = f"tried again {resume}"
    if rank == 0:
        with open(log_dir, "w"), contextlib.suppress(RunError):
            Monitor(nn.Linear(2, 2), log_dir, resume=resume)
        os.remove(log_dir)
        dist.barrier()
    with _watched(log_dir, sink=None, resume=resume)[0] as monitor:
        if rank == 1:
            dist.barrier()
        dist.barrier()
        monitor.log_batch(loss=float(rank))
        monitor.log_epoch()
    return float(torchboard.read(log_dir).scalars("epoch_loss").values[0]) if rank == 0 else None


def tried_again_to_resume(rank: int):
    """The same where the ranks talk before the monitor is made."""
    return tried_again(rank, resume=True)


def skips(rank: int):
    """Rank 1 leaves one end of an epoch out."""
    epochs = []

    def end(monitor: Monitor, epoch: int) -> None:
        if rank == 0 or epoch != 1:
            monitor.log_epoch()
            epochs.append(monitor.epoch)

    return _train(rank, 8, end, timeout=1.0, histogram_freq=2), epochs


def skips_without_steps(rank: int):
    """The same of a monitor that sees no training."""
    monitor, sink, _ = _watched(timeout=1.0)
    dist.barrier()
    for epoch in range(8):
        monitor.log_batch(loss=float(rank))
        if rank == 0 or epoch != 1:
            monitor.log_epoch()
        dist.barrier()
    monitor.close()
    return sink.kept


def raises(rank: int):
    """Rank 0's first end of an epoch is refused."""
    epochs = []

    def end(monitor: Monitor, epoch: int) -> None:
        try:
            monitor.log_epoch(**({"wrong": "text"} if rank == epoch == 0 else {}))
        except InvalidValueError:
            pass
        epochs.append(monitor.epoch)

    return _train(rank, 4, end, timeout=2.0), epochs


def other_options(rank: int):
    """Rank 1 writes no histograms."""
    return _train(rank, 4, lambda monitor, _: monitor.log_epoch(), histogram_freq=1 - rank)


def none_on_first(rank: int):
    """Rank 0 writes no histograms."""
    return _train(rank, 4, lambda monitor, _: monitor.log_epoch(), histogram_freq=rank)


class First(nn.Sequential):
    """A stage of a pipeline, or a generator."""


class Last(nn.Sequential):
    """Another."""


def classes(rank: int):
    """The models of the ranks are of different classes."""
    return _train(rank, 2, lambda monitor, _: monitor.log_epoch(), kind=Last if rank else First)


def one_more(rank: int):
    """Rank 0 has one more monitor, made before."""
    average = _watched("average")[0] if rank == 0 else None
    kept = _train(rank, 2, lambda monitor, _: monitor.log_epoch(), log_dir="trained")
    if average is not None:
        average.log_epoch()
        average.close()
    return kept


def swapped(rank: int):
    """Two monitors, made in another order on each rank."""
    names = ["left", "right"]
    made = {name: _watched(name) for name in (names if rank else names[::-1])}
    dist.barrier()
    for name, examples in zip(names, (1, 2)):
        made[name][2](examples)
        made[name][0].log_epoch()
        made[name][0].close()
    return {name: made[name][1].kept for name in names}


def others(rank: int):
    """Each rank trains for itself."""
    return _train(rank, 4, lambda monitor, _: monitor.log_epoch(), log_dir=f"log of {rank}")


def no_dir(rank: int):
    """Only rank 0 says where to write."""
    return _train(rank, 2, lambda monitor, _: monitor.log_epoch(), log_dir=None if rank else "log of the first")


def pipeline(rank: int):
    """Two stages, which find the shapes of their outputs out by a pass of their own before the first of training."""
    sink, stage = Keeping(), nn.Sequential()
    stage.add_module(f"stage{rank}", nn.Conv1d(1, 1, 1, bias=False))
    nn.init.ones_(stage[0].weight)
    if rank:
        stage.add_module("gate", nn.ReLU())
    monitor = Monitor(stage, "pipeline", sink=sink, capture=Capture(every=1), write_graph=False)
    made = PipelineStage(stage, rank, 2, torch.device("cpu"))
    schedule = ScheduleGPipe(made, n_microbatches=2, loss_fn=nn.functional.mse_loss)
    optimizer = torch.optim.SGD(stage.parameters(), 0.0)
    for _ in range(2):
        optimizer.zero_grad()
        schedule.step(
            *([torch.ones(4, 1, 3)] if rank == 0 else []), **({"target": torch.zeros(4, 1, 3)} if rank else {})
        )
        optimizer.step()
    monitor.log_epoch()
    monitor.close()
    return sink.kept


def empty(rank: int):
    """Rank 0 has nothing to train on in the first epoch."""
    monitor, sink, step = _watched("empty")
    dist.barrier()
    for epoch in range(2):
        if rank or epoch:
            step(4)
        monitor.log_epoch()
    monitor.close()
    return sink.kept


def fewer(rank: int):
    """Rank 0 has fewer batches than rank 1 in the second epoch, and more in the third."""
    monitor, sink, step = _watched("fewer")
    dist.barrier()
    for steps in ((2, 2), (1, 3), (3, 2)):
        for _ in range(steps[rank]):
            step(4)
        monitor.log_epoch()
    monitor.close()
    return sink.kept
