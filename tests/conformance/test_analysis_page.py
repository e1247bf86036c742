"""Predictions and slices on TensorBoard's pages, through both of its readers."""

from __future__ import annotations

import numpy as np
from serving import tensorboard, until
from torch import nn

from torchboard import Monitor

RATES = ("accuracy", "positive_rate", "true_positive_rate", "false_positive_rate", "precision")


def test_predictions_and_slices_are_on_every_page_that_they_belong_to(loader, tmp_path):
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, 200)
    scores = np.clip(targets * 0.4 + generator.random(200) * 0.6, 0, 1)
    groups = np.array(["a.b", "c d"])[generator.integers(0, 2, 200)]
    with Monitor(nn.Linear(1, 1), tmp_path / "log") as monitor:
        for _ in range(2):
            with monitor.phase("validation"):
                monitor.log_predictions(targets, scores, ["no", "yes"], images=generator.random((200, 1, 4, 4)))
                monitor.log_slices(targets, scores, groups)
            monitor.log_epoch(val_loss=1.0)
    slices = [f"validation/slices_{name}" for name in ("a.b", "c d")]
    with tensorboard(tmp_path / "log", loader, tmp_path / "output.txt") as board:
        for run in ("validation", *slices):
            assert [step for step, _ in board.await_points(run, "slices/accuracy", 1)] == [0, 1]
        assert "predictions/pr_curve/yes" in board.tags("pr_curves", "validation")
        for tag in ("roc", "confusion", "confusion_normalised", "reliability", "top_losses/images"):
            query = {"run": "validation", "tag": f"predictions/{tag}", "sample": 0}
            until(lambda query=query: len(board.plugin("images", "images", **query)) == 2)
        tables = board.tags("text", "validation")
        assert {"predictions/most_confused", "predictions/top_losses/table", "slices/table"} <= set(tables)
        (category,) = until(lambda: board.plugin("custom_scalars", "layout")["category"])
        assert category["title"] == "slices"
        charts = {chart["title"]: chart for chart in category["chart"]}
        for rate in RATES:
            (pattern,) = charts[rate]["multiline"]["tag"]
            for run in ("validation", *slices):
                found = board.plugin("custom_scalars", "scalars", run=run, tag=pattern)
                assert found["regex_valid"] and list(found["tag_to_events"]) == [f"slices/{rate}"]
        (pattern,) = charts["gaps"]["multiline"]["tag"]
        found = board.plugin("custom_scalars", "scalars", run="validation", tag=pattern)
        assert sorted(found["tag_to_events"]) == sorted(f"slices/{rate}/gap" for rate in RATES)
        assert board.complaints() == []
