"""The same numbers, logged by Keras' TensorBoard callback and by a monitor, give the same runs, tags, steps and values.

What Keras' callback wrote is in ``tests/golden/keras_callback.json``, which ``tests/golden/keras_callback.py`` made.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accumulated import accumulated
from torch import nn

from torchboard import Capture, Monitor

GOLDEN = json.loads(Path(__file__).parents[1].joinpath("golden", "keras_callback.json").read_text())["cases"]
KERAS_LOOKS_AT = Capture(activations=False, gradients=False, updates=False)
LOSSY = "every third batch, with speed"
"""Four batches an epoch: Keras leaves out what belongs to the end of an epoch whose last batch it does not write."""


def replay(case, log_dir):
    """Logs with a monitor what Keras said in a training."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    options = {"histogram_freq": 0, "capture": KERAS_LOOKS_AT, **case["options"]}
    with Monitor(model, log_dir, write_graph=False, feature_maps=False, **options) as monitor:
        for epoch in case["epochs"]:
            optimizer.param_groups[0]["lr"] = epoch["learning_rate"]
            for batch in epoch["batches"]:
                optimizer.zero_grad()
                model(torch.ones(2, 3)).sum().backward()
                optimizer.step()
                monitor.log_batch(**batch)
            monitor.log_epoch(**epoch["logs"])


def logged(log_dir, plugin="scalars"):
    """Run -> tag -> steps and values, as TensorBoard reads them; those that depend on the clock as None."""
    found = {}
    for (run, tag), curve in accumulated(log_dir).items():
        tags = found.setdefault(run, {})
        if curve.plugin == plugin:
            timed = plugin != "scalars" or "per_second" in tag
            tags[tag] = [(step, None if timed else float(value)) for step, value in zip(curve.steps, curve.values)]
    return found


def told(series):
    """Steps and values as a test compares them."""
    return [(step, None if value is None else pytest.approx(value, rel=1e-6)) for step, value in series]


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != LOSSY])
def test_runs_tags_steps_and_values_are_those_of_keras(name, tmp_path):
    case = GOLDEN[name]
    replay(case, tmp_path)
    runs = logged(tmp_path)
    assert set(runs) == set(case["runs"])
    for run, tags in case["runs"].items():
        assert set(runs[run]) == set(tags)
        for tag, series in tags.items():
            assert runs[run][tag] == told(series), tag


def test_no_epoch_is_left_out_where_keras_leaves_some_out(tmp_path):
    case = GOLDEN[LOSSY]
    replay(case, tmp_path)
    whole = GOLDEN["epochs"]["runs"]
    for run, tags in case["runs"].items():
        ours = logged(tmp_path)[run]
        assert set(ours) == set(tags)
        for tag, series in tags.items():
            expected = whole[run].get(tag, series if tag.startswith("batch_") else [(0, None), (1, None), (2, None)])
            assert ours[tag] == told(expected), tag
            assert set(map(tuple, series)) <= set(map(tuple, expected))


def test_histograms_are_of_the_epochs_that_keras_takes(tmp_path):
    case = GOLDEN["histograms of every second epoch"]
    replay(case, tmp_path)
    histograms = logged(tmp_path, "histograms")["train"]
    assert [step for step, _ in histograms["parameters/weight"]] == case["histogram_steps"] == [0, 2]
