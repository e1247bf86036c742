"""Trainings that end as a crash does, and go on, for the tests of ``resume``."""

from __future__ import annotations

from torch import nn

from torchboard import Monitor

BATCHES = 3


def train(log_dir, epochs, extra_batches=0, mine=True, **options):
    """Trains from where the monitor begins, logs ``extra_batches`` of an epoch that does not end, and leaves as a crash does.

    Every metric is the number of its epoch, or of its batch; ``mine`` adds curves over an axis of the user's own.
    """
    monitor = Monitor(nn.Linear(2, 1), log_dir, update_freq=1, write_graph=False, feature_maps=False, **options)
    first = monitor.epoch
    for epoch in range(first, first + epochs):
        for _ in range(BATCHES):
            monitor.log_batch(loss=float(monitor._batch + 1))
            if mine:
                monitor.writer.add_scalar("mine", float(monitor._batch), 1000 + monitor._batch)
        with monitor.phase("validation"):
            monitor.log_batch(accuracy=float(epoch))
        monitor.log_epoch(val_loss=float(epoch))
    for _ in range(extra_batches):
        monitor.log_batch(loss=-1.0)
        if mine:
            monitor.writer.add_scalar("mine", -1.0, 1000 + monitor._batch)
            monitor.writer.add_scalar("new", -1.0, 5 + monitor._batch)
    monitor._run.flush()
    monitor._run.close()
    monitor._watch.release()
    return first


def straight(numbers, offset=0):
    return [(number + offset, float(number)) for number in numbers]
