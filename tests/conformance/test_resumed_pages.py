"""A training that was interrupted and goes on, as TensorBoard's two readers show it."""

from __future__ import annotations

import pytest
from resumed_jobs import BATCHES, straight, train

from torchboard import SummaryWriter

RESTARTED = ["Purging", "more than one graph event"]


def test_a_resumed_monitor_shows_one_curve_of_every_tag(show, tmp_path):
    train(tmp_path / "log", epochs=3, extra_batches=2)
    train(tmp_path / "log", epochs=2, resume=True)
    board = show(tmp_path / "log")
    assert board.await_points("train", "batch_loss", last=5 * BATCHES) == straight(range(1, 5 * BATCHES + 1))
    assert board.await_points("train", "mine", last=1000 + 5 * BATCHES) == straight(range(1, 5 * BATCHES + 1), 1000)
    assert board.await_points("validation", "epoch_loss", last=4) == straight(range(5))
    assert "new" not in board.tags("scalars", "train")


def test_a_board_that_was_open_all_the_time_shows_one_curve_too(board):
    board.allowed += [*RESTARTED, "file truncat", "EOF"]
    log_dir = board.log_dir / board.above / "log"
    train(log_dir, epochs=3, extra_batches=2, mine=False)
    board.await_points("log/train", "batch_loss", last=3 * BATCHES + 2)
    train(log_dir, epochs=2, mine=False, resume=True)
    assert board.await_points("log/train", "batch_loss", last=5 * BATCHES) == straight(range(1, 5 * BATCHES + 1))
    assert board.await_points("log/validation", "epoch_loss", last=4) == straight(range(5))


@pytest.mark.parametrize("peer", [False, True], ids=["after torchboard", "after torch"])
def test_purge_step_leaves_one_curve(show, tmp_path, peer):
    from torch.utils.tensorboard import SummaryWriter as TorchWriter

    with (TorchWriter if peer else SummaryWriter)(str(tmp_path / "log")) as writer:
        for step in range(60):
            writer.add_scalar("loss", -1.0 if step >= 40 else float(step), step)
    with SummaryWriter(tmp_path / "log", purge_step=40) as writer:
        for step in range(40, 50):
            writer.add_scalar("loss", float(step), step)
    board = show(tmp_path / "log")
    board.allowed += RESTARTED
    assert board.await_points(".", "loss", last=49, value=49.0) == straight(range(50))
