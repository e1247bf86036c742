"""The examples, run as a person runs them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from digits_job import ROOT

import torchboard.proto as proto
from torchboard.eventfile.scanning import scan


def run_example(name, directory, *arguments):
    """What an example prints; it runs in a directory of its own, and must not warn."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "PYTHONWARNINGS": "error::UserWarning"}
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def written(run):
    """Tag -> steps of everything in the one event file of a run."""
    (file,) = run.iterdir()
    steps = {}
    for record in scan(file):
        event = proto.Event.FromString(record.data)
        for value in event.summary.value:
            steps.setdefault(value.tag, []).append(event.step)
        if event.graph_def:
            steps["graph"] = [event.step]
    return steps


@pytest.mark.parametrize(
    ("name", "epochs", "arguments"),
    [("quickstart", 8, ()), ("digits", 2, ("--epochs", "2"))],
    ids=["quickstart", "digits"],
)
def test_an_example_trains_and_says_where_its_run_is(tmp_path, name, epochs, arguments):
    printed = run_example(name, tmp_path, *arguments)
    assert printed == f"The run is in runs/{name}. To look at it: tensorboard --logdir runs\n"
    assert sorted(path.name for path in (tmp_path / "runs" / name).iterdir()) == ["train", "validation"]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    train, validation = (written(tmp_path / "runs" / name / run) for run in ("train", "validation"))
    every_epoch = list(range(epochs))
    for tag in ("epoch_loss", "epoch_accuracy"):
        assert train[tag] == validation[tag] == every_epoch
    assert train["epoch_learning_rate"] == validation["confusion_matrix"] == every_epoch
    for kind in ("parameters", "gradients", "updates", "activations", "feature_maps"):
        tags = [tag for tag in train if tag.startswith(kind + "/")]
        assert tags and all(train[tag] == every_epoch for tag in tags), kind
    for tag in ("run/facts", "run/model", "model", "graph"):
        assert train[tag] == [0]


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_the_log_directory_and_the_number_of_epochs_can_be_chosen(tmp_path, absolute):
    log_dir = tmp_path / "elsewhere" / "first"
    given = str(log_dir if absolute else log_dir.relative_to(tmp_path))
    printed = run_example("digits", tmp_path, "--epochs", "1", "--log-dir", given)
    assert f"The run is in {given}." in printed
    to_look_at = tmp_path / printed.split("--logdir ")[1].strip()
    assert to_look_at in (log_dir, log_dir.parent)
    assert written(log_dir / "train")["epoch_loss"] == [0]
