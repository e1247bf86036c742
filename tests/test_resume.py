"""A training that goes on writes on behind its last whole epoch, and every reader sees one curve."""

from __future__ import annotations

import os

import pytest
import torch
from resumed_jobs import BATCHES, straight, train
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from torch import nn

import torchboard
from torchboard import Monitor, SummaryWriter
from torchboard.errors import InvalidValueError, RunInUseError, TorchboardWarning
from torchboard.sink.memory import MemorySink


def seen(log_dir, run, tag):
    """``(step, value)`` of a curve as TensorBoard's Python loader has it, once our own reader agrees."""
    log = EventAccumulator(str(log_dir / run), {"tensors": 0}).Reload()
    points = [(event.step, event.tensor_proto.float_val[0]) for event in log.Tensors(tag)]
    ours = torchboard.read(log_dir).scalars(tag, run)
    assert points == list(zip(ours.steps.tolist(), ours.values.tolist()))
    return points


def has(log_dir, run, tag):
    return tag in EventAccumulator(str(log_dir / run)).Reload().Tags()["tensors"]


def test_a_training_that_died_in_an_epoch_goes_on_as_if_it_had_not(tmp_path):
    assert train(tmp_path, epochs=3, extra_batches=2) == 0
    assert train(tmp_path, epochs=2, resume=True) == 3
    assert [step for step, _ in seen(tmp_path, "train", "epoch_loss")] == [0, 1, 2, 3, 4]
    assert seen(tmp_path, "train", "batch_loss") == straight(range(1, 5 * BATCHES + 1))
    assert seen(tmp_path, "train", "mine") == straight(range(1, 5 * BATCHES + 1), 1000)
    assert seen(tmp_path, "validation", "epoch_loss") == straight(range(5))
    assert seen(tmp_path, "validation", "epoch_accuracy") == straight(range(5))
    assert not has(tmp_path, "train", "new")


def test_a_training_may_go_on_from_an_earlier_epoch_and_more_than_once(tmp_path):
    train(tmp_path, epochs=4)
    assert train(tmp_path, epochs=1, extra_batches=1, resume=2) == 2
    assert train(tmp_path, epochs=3, resume=True) == 3
    assert train(tmp_path, epochs=1, resume=5) == 5
    assert seen(tmp_path, "train", "batch_loss") == straight(range(1, 6 * BATCHES + 1))
    assert seen(tmp_path, "train", "mine") == straight(range(1, 6 * BATCHES + 1), 1000)
    assert seen(tmp_path, "validation", "epoch_loss") == straight(range(6))


def test_what_came_later_is_put_aside_and_can_be_brought_back(tmp_path):
    train(tmp_path, epochs=2, extra_batches=2)
    train(tmp_path, epochs=1, resume=True)
    (aside,) = [path for path in (tmp_path / "train").iterdir() if "rewound" in path.name]
    aside.rename(tmp_path / "events.out.tfevents.brought-back")
    log = torchboard.read(tmp_path)
    assert log.scalars("batch_loss", ".").values.tolist() == [-1.0, -1.0]
    assert log.problems == ()


@pytest.mark.parametrize(("resume", "epochs"), [(True, 2), (1, 3)])
def test_evaluations_go_on_at_the_step_of_training_where_they_were(tmp_path, resume, epochs):
    def job(resume, epochs):
        model = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with Monitor(model, tmp_path, resume=resume, histogram_freq=0, write_graph=False) as monitor:
            for _ in range(epochs):
                for _ in range(5):
                    model(torch.ones(1, 1)).sum().backward()
                    optimizer.step()
                monitor.log_epoch(val_loss=1.0)

    job(False, 2)
    job(resume, epochs)
    assert seen(tmp_path, "validation", "evaluation_loss_vs_iterations") == [(step, 1.0) for step in (5, 10, 15, 20)]
    assert seen(tmp_path, "validation", "epoch_loss") == [(epoch, 1.0) for epoch in range(4)]


def test_there_need_be_nothing_to_go_on_with(tmp_path):
    assert train(tmp_path / "new", epochs=2, resume=True) == 0
    assert seen(tmp_path / "new", "train", "batch_loss") == straight(range(1, 2 * BATCHES + 1))


def test_a_torn_file_is_gone_on_behind(tmp_path):
    train(tmp_path, epochs=2, extra_batches=1)
    (path,) = (tmp_path / "train").glob("*tfevents*")
    os.truncate(path, path.stat().st_size - 5)
    assert train(tmp_path, epochs=1, resume=True) == 2
    assert seen(tmp_path, "train", "batch_loss") == straight(range(1, 3 * BATCHES + 1))
    assert torchboard.read(tmp_path).problems == ()


def test_epochs_that_were_hidden_by_a_fresh_start_do_not_count(tmp_path):
    train(tmp_path, epochs=5)
    with pytest.warns(TorchboardWarning, match="resume=True"):
        train(tmp_path, epochs=2)
    assert train(tmp_path, epochs=1, resume=True) == 2
    assert seen(tmp_path, "validation", "epoch_loss") == straight(range(3))
    assert seen(tmp_path, "train", "batch_loss") == straight(range(1, 3 * BATCHES + 1))


def test_runs_of_the_users_own_below_the_directory_are_left_as_they_are(tmp_path):
    train(tmp_path, epochs=2)
    with SummaryWriter(tmp_path / "evaluation") as writer:
        for step in range(200):
            writer.add_scalar("score", float(step), step)
    train(tmp_path, epochs=1, resume=1)
    assert seen(tmp_path, "evaluation", "score") == straight(range(200))


def test_histograms_of_epochs_that_are_kept_are_kept(tmp_path):
    def job(resume, epochs):
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        monitor = Monitor(model, tmp_path, resume=resume)
        for _ in range(epochs):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            monitor.log_epoch()
        monitor.close()

    job(False, 3)
    job(2, 2)
    log = EventAccumulator(str(tmp_path / "train"), {"tensors": 0}).Reload()
    for tag in ("parameters/weight", "gradients/weight", "epoch_learning_rate", "activations/output"):
        if tag in log.Tags()["tensors"]:
            assert [event.step for event in log.Tensors(tag)] == [0, 1, 2, 3], tag
    assert "parameters/weight" in log.Tags()["tensors"]


def test_what_was_written_with_the_last_epoch_is_kept(tmp_path):
    model = nn.Linear(2, 1)
    with Monitor(model, tmp_path, histogram_freq=0) as monitor:
        model(torch.ones(1, 2)).sum().backward()
        monitor.log_epoch(loss=1.0)
    Monitor(model, tmp_path, resume=True).close()
    assert len(torchboard.read(tmp_path).graphs(run="train")) == 1


def test_a_trial_that_failed_and_went_on_is_no_failure(tmp_path):
    for resume, error in ((False, ValueError), (True, None)):
        try:
            with Monitor(nn.Linear(1, 1), tmp_path, hparams={"lr": 0.1}, resume=resume) as monitor:
                monitor.log_epoch(loss=1.0)
                if error is not None:
                    raise error
        except ValueError:
            pass
    log = torchboard.read(tmp_path)
    assert len(log.values("_hparams_/session_end_info", ".")) == 1
    (ended,) = log.values("_hparams_/session_end_info", ".").values
    assert ended.succeeded


def test_a_directory_that_somebody_writes_in_is_not_changed(tmp_path):
    train(tmp_path, epochs=2, extra_batches=2)
    with SummaryWriter(tmp_path / "train"), pytest.raises(RunInUseError):
        Monitor(nn.Linear(1, 1), tmp_path, resume=True)
    assert [path.name for path in (tmp_path / "train").iterdir() if "rewound" in path.name] == []


@pytest.mark.parametrize("resume", [-1, "yes", 1.5, None])
def test_anything_else_than_an_epoch_is_refused(tmp_path, resume):
    with pytest.raises(InvalidValueError, match="resume"):
        Monitor(nn.Linear(1, 1), tmp_path, resume=resume)


@pytest.mark.parametrize("options", [{"sink": MemorySink()}, {"log_dir": None}, {"log_dir": "memory://runs"}])
def test_there_must_be_a_local_directory_to_go_on_in(tmp_path, options):
    with pytest.raises(InvalidValueError, match="resume"):
        Monitor(nn.Linear(1, 1), **{"log_dir": tmp_path, "resume": True, **options})


def test_a_run_that_is_there_is_warned_of_and_starts_again(tmp_path):
    train(tmp_path, epochs=3)
    with pytest.warns(TorchboardWarning, match="holds a run"):
        train(tmp_path, epochs=1)
    assert seen(tmp_path, "validation", "epoch_loss") == [(0, 0.0)]


def test_the_policy_for_errors_reaches_the_sink(tmp_path):
    with pytest.raises(InvalidValueError, match="on_error"):
        Monitor(nn.Linear(1, 1), tmp_path / "a", on_error="ignore")
    monitor = Monitor(nn.Linear(1, 1), tmp_path / "b", on_error="raise")
    with pytest.raises(InvalidValueError, match="another policy"):
        SummaryWriter(tmp_path / "c")
        SummaryWriter(tmp_path / "c", on_error="raise")
    monitor.close()
