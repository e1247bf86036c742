"""The examples, run as a person runs them."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from digits_job import ROOT

import torchboard.proto as proto
from torchboard import read
from torchboard.eventfile.scanning import scan
from torchboard.values.hparams import SESSION_END_TAG, SESSION_START_TAG
from torchboard.values.projector import CONFIG, Embedding, entries


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


def test_the_grid_of_hyperparameters_is_sixteen_trials_that_learn(tmp_path):
    printed = run_example("hparams_grid", tmp_path)
    assert printed.endswith("tensorboard --logdir runs/hparams_grid\n")
    log = read(tmp_path / "runs" / "hparams_grid")
    trials = [f"{number:02}" for number in range(16)]
    assert set(log.runs) == {".", *(run for name in trials for run in (name, f"{name}/train", f"{name}/validation"))}
    starts = [log.values(SESSION_START_TAG, name).values[0].hparams for name in trials]
    assert len({tuple(start.items()) for start in starts}) == 16
    assert starts[0] == {"num_units": 16, "dropout": 0.1, "optimizer": "adam", "epochs": 2}
    assert all(log.values(SESSION_END_TAG, name).values[0].succeeded for name in trials)
    accuracies = [log.scalars("epoch_accuracy", f"{name}/validation").values for name in trials]
    assert [len(values) for values in accuracies] == [start["epochs"] for start in starts]
    assert min(values[-1] for values in accuracies) > 0.5 and max(values[-1] for values in accuracies) > 0.9


def test_the_scalars_of_two_models_lie_over_each_other(tmp_path):
    run_example("tutorial_scalars", tmp_path)
    log = read(tmp_path / "runs" / "scalars")
    assert set(log.runs) == {f"lr={lr}/{phase}" for lr in (0.01, 0.1) for phase in ("train", "validation")}
    slow, fast = (log.scalars("epoch_loss", f"lr={lr}/validation").values for lr in (0.01, 0.1))
    assert len(slow) == len(fast) == 20 and fast[-1] < slow[0] and fast[4] < slow[4]


def test_a_scalar_of_ones_own_is_the_learning_rate_that_the_monitor_logs_too(tmp_path):
    run_example("tutorial_learning_rate", tmp_path)
    log = read(tmp_path / "runs" / "learning_rate")
    own, ours = log.scalars("learning rate", "metrics"), log.scalars("epoch_learning_rate", "train")
    assert list(own.steps) == list(ours.steps) == list(range(15))
    assert list(own.values) == list(ours.values) and own.values[0] == pytest.approx(20 * own.values[-1])


def test_pictures_figures_feature_maps_and_confusions_are_shown(tmp_path):
    run_example("tutorial_images", tmp_path)
    log = read(tmp_path / "runs" / "images")
    tags = log.tags("train")
    pictures = {"training data", "training data with labels", "feature_maps/0", "feature_maps/2"}
    assert pictures <= {tag for tag in tags if tags[tag] == "images"}
    steps = log.values("predictions/top_losses/images", "validation").steps
    assert list(steps) == [0, 1, 2] and log.scalars("predictions/accuracy", "validation").values[-1] > 0.8


def test_the_graph_of_a_model_is_shown(tmp_path):
    run_example("tutorial_graph", tmp_path)
    assert "graph" in written(tmp_path / "runs" / "graph")


def test_predictions_and_slices_get_better_over_the_epochs(tmp_path):
    run_example("predictions", tmp_path)
    log = read(tmp_path / "runs" / "predictions")
    runs = [f"validation{name}" for name in ("", "/slices_large", "/slices_small")]
    assert set(log.runs) == {"train", *runs}
    for run in runs:
        assert list(log.scalars("slices/accuracy", run).steps) == list(range(6))
    areas = log.scalars("predictions/roc_auc", "validation").values
    assert areas[-1] > 0.97


def embeddings_of(run):
    """Name -> embedding of all that a run lists."""
    listed = entries((run / CONFIG).read_bytes())
    return {entry.tensor_name: Embedding.decode(entry, lambda path: (run / path).read_bytes()) for entry in listed}


def test_words_of_a_text_are_points_that_move_over_the_epochs(tmp_path):
    run_example("word_embedding", tmp_path)
    found = embeddings_of(tmp_path / "runs" / "word_embedding" / "train")
    assert list(found) == [f"embeddings/0:{epoch:05}" for epoch in (0, 2, 4)]
    first, *_, last = found.values()
    assert first.labels == last.labels and ("array",) in last.labels and len(last.points) == 300
    assert abs(first.points - last.points).max() > 0.5
    losses = read(tmp_path / "runs" / "word_embedding").scalars("epoch_loss", "train").values
    assert losses[-1] < losses[0] - 0.5


def test_digits_are_points_with_pictures_that_come_to_lie_with_their_like(tmp_path):
    run_example("projector", tmp_path)
    found = embeddings_of(tmp_path / "runs" / "projector" / "train")
    assert list(found) == [f"activations/2:{epoch:05}" for epoch in range(4)]
    last = found["activations/2:00003"]
    assert last.points.shape == (297, 32) and last.pictures.shape == (297, 8, 8, 1)

    def alike(points):
        """How often the nearest other point has the same label."""
        distances = ((points[:, None] - points[None]) ** 2).sum(2) + 1e9 * (np.arange(297)[:, None] == np.arange(297))
        labels = np.array(last.labels)[:, 0]
        return (labels[distances.argmin(1)] == labels).mean()

    assert alike(last.points) > 0.8


def test_batches_are_profiled_for_all_viewers(tmp_path):
    run_example("profiler", tmp_path)
    train = tmp_path / "runs" / "profiler" / "train"
    (folder,) = (train / "plugins" / "profile").iterdir()
    assert sorted(path.name.partition(".")[2] for path in folder.iterdir()) == ["pt.trace.json.gz", "xplane.pb"]
    log = read(tmp_path / "runs" / "profiler")
    assert list(log.scalars("layer_time/4/backward_ms", "train").steps) == [5, 6, 7, 8]
    assert len(log.scalars("epoch_samples_per_second", "train").values) == 1
    assert "profile/operations" in log.tags("train")
