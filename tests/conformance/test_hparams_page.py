"""Trials on the HParams dashboard, through both of TensorBoard's readers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import Board, tensorboard, until
from torch import nn

from torchboard import Monitor, SummaryWriter, proto
from torchboard.eventfile.framing import frame
from torchboard.hparams import Discrete, HParam, IntInterval, Metric, RealInterval, Trial, grid, hparams_config
from torchboard.values import Event, Scalar, Value, encode
from torchboard.values.hparams import SESSION_END_TAG, SESSION_START_TAG, SessionEnd, SessionStart

EVERY_STATUS = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
LISTING = {"aggregationType": "AGGREGATION_AVG", "startIndex": 0, "sliceSize": 100, "colParams": []}


@pytest.fixture
def page(loader: str, tmp_path: Path) -> Callable[[], Any]:
    """TensorBoard on ``tmp_path / "log"`` alone: one experiment is shown for all that a TensorBoard serves."""

    @contextmanager
    def opened() -> Iterator[Board]:
        with tensorboard(tmp_path / "log", loader, tmp_path / "output.txt") as board:
            yield board
            assert board.complaints() == []

    return opened


def experiment(board: Board) -> dict[str, Any]:
    """What the page makes its columns of."""
    return board.plugin("hparams", "experiment", request=json.dumps({"experimentName": ""}))


def rows(board: Board) -> dict[str, dict[str, Any]]:
    """Session -> row of the table: its hyperparameters, metrics and status."""
    request = json.dumps({"allowedStatuses": EVERY_STATUS, **LISTING})
    groups = board.plugin("hparams", "session_groups", request=request)["sessionGroups"]
    return {
        session["name"]: {
            "group": group["name"],
            "hparams": group["hparams"],
            "metrics": {
                (metric["name"]["group"], metric["name"]["tag"]): metric["value"] for metric in session["metricValues"]
            },
            "status": session["status"],
        }
        for group in groups
        for session in group["sessions"]
    }


def await_rows(board: Board, metrics: int) -> dict[str, dict[str, Any]]:
    """The rows, once there are so many metric values in all."""
    return until(lambda: rows(board), lambda found: sum(len(row["metrics"]) for row in found.values()) == metrics)


def columns(board: Board) -> dict[str, str]:
    """Hyperparameter -> type of every column."""
    return {info["name"]: info.get("type") for info in experiment(board)["hparamInfos"]}


def test_trials_are_rows_with_their_own_types_metrics_and_status(page, tmp_path):
    choices = [
        {"lr": 0.1, "bias": True, "optimizer": "adam", "depth": 2},
        {"lr": 0.01, "bias": False, "optimizer": "sgd", "depth": 4},
        {"lr": 0.01, "bias": False, "optimizer": "sgd", "depth": 4, "dropout": 0.5},
    ]
    for number, choice in enumerate(choices):
        log_dir = tmp_path / "log" / f"trial{number}"
        try:
            with Trial(log_dir, choice), SummaryWriter(log_dir) as writer:
                for step in range(3):
                    writer.add_scalar("accuracy", number + step / 8, step)
                if number == 1:
                    raise RuntimeError("out of memory")
        except RuntimeError:
            pass
    running = Trial(tmp_path / "log" / "trial3", {"lr": 1.0})
    with running, page() as board:
        found = await_rows(board, metrics=3)
        assert {name: row["hparams"] for name, row in found.items()} == {
            **{f"trial{number}": choice for number, choice in enumerate(choices)},
            "trial3": {"lr": 1.0},
        }
        assert found["trial0"]["hparams"]["bias"] is True
        assert {name: row["metrics"] for name, row in found.items()} == {
            "trial0": {("", "accuracy"): 0.25},
            "trial1": {("", "accuracy"): 1.25},
            "trial2": {("", "accuracy"): 2.25},
            "trial3": {},
        }
        assert [found[f"trial{number}"]["status"] for number in range(4)] == [
            "STATUS_SUCCESS",
            "STATUS_FAILURE",
            "STATUS_SUCCESS",
            "STATUS_UNKNOWN",
        ]
        assert columns(board) == {
            "lr": "DATA_TYPE_FLOAT64",
            "bias": "DATA_TYPE_BOOL",
            "optimizer": "DATA_TYPE_STRING",
            "depth": "DATA_TYPE_FLOAT64",
            "dropout": "DATA_TYPE_FLOAT64",
        }


def test_trials_added_by_hand_are_rows_and_a_later_hyperparameter_gets_its_column(page, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_hparams({"lr": 0.1, "bias": True}, {"hp/loss": 3.0}, run_name="first")
        writer.add_hparams({"lr": 0.1, "bias": True}, {"hp/loss": 2.0}, run_name="same")
        writer.add_hparams({"lr": 0.2, "name": "x"}, {"hp/loss": 1.0, "hp/accuracy": 0.5}, global_step=7)
    with page() as board:
        found = await_rows(board, metrics=4)
        (timed,) = set(found) - {"first", "same"}
        assert found["first"]["hparams"] == found["same"]["hparams"] == {"lr": 0.1, "bias": True}
        assert found["first"]["group"] != found["same"]["group"]
        assert found[timed]["metrics"] == {("", "hp/loss"): 1.0, ("", "hp/accuracy"): 0.5}
        assert {row["status"] for row in found.values()} == {"STATUS_SUCCESS"}
        assert set(columns(board)) == {"lr", "bias", "name"}
        assert board.points(timed, "hp/loss") == [(7, 1.0)]


def test_a_declared_experiment_gives_the_columns_their_domains_and_names(page, tmp_path):
    lr, depth = HParam("lr", RealInterval(0.001, 1.0), "learning rate"), HParam("depth", IntInterval(1, 2))
    optimizer = HParam("optimizer", Discrete(["sgd", "adam"]), description="which *one*")
    metrics = [
        Metric("epoch_loss", "validation", "validation loss", dataset_type=Metric.VALIDATION),
        Metric("epoch_loss", "train"),
    ]
    hparams_config(tmp_path / "log", [lr, depth, optimizer], metrics)
    for number, choice in enumerate(grid([depth, optimizer])):
        log_dir = tmp_path / "log" / str(number)
        with Monitor(nn.Linear(2, 1), log_dir, hparams={**choice, lr: 0.5}) as monitor:
            monitor.log_epoch(loss=number, val_loss=number + 0.5)
    with page() as board:
        found = await_rows(board, metrics=8)
        assert {name: row["metrics"] for name, row in found.items()} == {
            str(number): {("train", "epoch_loss"): number, ("validation", "epoch_loss"): number + 0.5}
            for number in range(4)
        }
        infos = {info["name"]: info for info in experiment(board)["hparamInfos"]}
        assert infos["lr"]["domainInterval"] == {"minValue": 0.001, "maxValue": 1.0}
        assert infos["lr"]["displayName"] == "learning rate"
        assert infos["optimizer"]["domainDiscrete"] == ["adam", "sgd"]
        names = [(info["name"]["group"], info["name"]["tag"]) for info in experiment(board)["metricInfos"]]
        assert names == [("validation", "epoch_loss"), ("train", "epoch_loss")]
        assert experiment(board)["metricInfos"][0]["displayName"] == "validation loss"


def test_a_trial_in_the_very_directory_that_is_served_has_the_metrics_declared_without_a_group(page, tmp_path):
    hparams_config(tmp_path / "log", [HParam("lr")], [Metric("loss")])
    with Trial(tmp_path / "log", {"lr": 0.5}), SummaryWriter(tmp_path / "log") as writer:
        writer.add_scalar("loss", 4.0, 0)
    with page() as board:
        (row,) = await_rows(board, metrics=1).values()
        assert row["metrics"] == {("", "loss"): 4.0} and row["hparams"] == {"lr": 0.5}


def test_repetitions_with_one_id_are_one_row(page, tmp_path):
    for number in range(3):
        log_dir = tmp_path / "log" / str(number)
        with Trial(log_dir, {"lr": 0.5}), SummaryWriter(log_dir) as writer:
            writer.add_scalar("loss", number, 0)
    with page() as board:
        found = await_rows(board, metrics=3)
        assert len({row["group"] for row in found.values()}) == 1
        request = json.dumps({"allowedStatuses": EVERY_STATUS, **LISTING})
        (group,) = board.plugin("hparams", "session_groups", request=request)["sessionGroups"]
        assert [metric["value"] for metric in group["metricValues"]] == [1.0]


def append(path: Path, *pairs: tuple[str, Value], status: str = "", again: bool = False) -> None:
    """Adds events to a file by hand: where the run starts again, and values, an end of a trial with another status."""
    path.parent.mkdir(parents=True, exist_ok=True)
    messages = [] if path.exists() else [proto.Event(wall_time=1.0, file_version="brain.Event:2")]
    if again:
        messages += 2 * [proto.Event(wall_time=2.0, session_log=proto.SessionLog(status=proto.SessionLog.START))]
    for step, pair in enumerate(pairs):
        (message,) = encode(Event(step, 2.0, (pair,)))
        if status and pair[0] == SESSION_END_TAG:
            (value,) = message.summary.value
            content = proto.HParamsPluginData.FromString(value.metadata.plugin_data.content)
            field = content.session_end_info.DESCRIPTOR.fields_by_name["status"]
            content.session_end_info.status = field.enum_type.values_by_name[status].number
            value.metadata.plugin_data.content = content.SerializeToString()
        messages.append(message)
    with path.open("ab") as stream:
        stream.write(b"".join(frame(message.SerializeToString()) for message in messages))


def test_a_trial_that_was_said_to_run_is_never_said_to_have_ended(page, tmp_path):
    """Why no end with the status RUNNING is written while a trial runs: no form of it can be taken back."""
    begin, end = (SESSION_START_TAG, SessionStart({"lr": 0.1}, "", 1.0)), (SESSION_END_TAG, SessionEnd(True, 3.0))
    trials = {name: tmp_path / "log" / name for name in ("silent", "same", "beside", "again")}
    for name, run in trials.items():
        append(
            run / "events.out.tfevents.1", begin, *([end] if name in ("same", "again") else []), status="STATUS_RUNNING"
        )
    append(trials["beside"] / "events.out.tfevents.2", end, status="STATUS_RUNNING")

    def statuses(board: Board) -> dict[str, str]:
        return {name: row["status"].removeprefix("STATUS_") for name, row in rows(board).items()}

    with page() as board:
        board.allowed = ["Purging"]
        before = {"silent": "UNKNOWN", "same": "RUNNING", "beside": "RUNNING", "again": "RUNNING"}
        until(lambda: statuses(board), lambda found: found == before)
        (trials["beside"] / "events.out.tfevents.2").unlink()
        for name, run in trials.items():
            append(run / "events.out.tfevents.3", begin, end, ("loss", Scalar(1.0)), again=name == "again")
        read = {"silent", "same", "again"}  # the Python loader reads no more of a run whose newest file was deleted
        until(lambda: rows(board), lambda found: all(found[name]["metrics"] for name in read))
        assert statuses(board) == {**before, "silent": "SUCCESS"}
    with page() as board:
        board.allowed = ["Purging"]
        await_rows(board, metrics=4)
        assert statuses(board) == {**before, "silent": "SUCCESS", "beside": "SUCCESS"}
