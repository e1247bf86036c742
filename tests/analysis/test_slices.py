"""Slices: rates by definition, gaps between them, runs that lie over each other, and charts that find their curves."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from torchboard import MemorySink, Monitor, read
from torchboard.analysis.predictions import predictions_of
from torchboard.analysis.slices import Rate, gap, rates_of
from torchboard.errors import InvalidValueError, TagError
from torchboard.values.custom_scalars import LAYOUT_TAG, MarginChart

TARGETS = [1, 1, 0, 0, 1, 1, 0, 0]
SCORES = [0.9, 0.2, 0.6, 0.1, 0.8, 0.7, 0.3, 0.2]
SEX = ["f", "f", "f", "f", "m", "m", "m", "m"]
RATES = ("accuracy", "positive_rate", "true_positive_rate", "false_positive_rate", "precision")


def logged(*arguments, **options):
    sink = MemorySink()
    with Monitor(nn.Linear(1, 1), sink=sink) as monitor:
        monitor.log_slices(*arguments, **options)
    return sink


def value(sink, tag, run="train"):
    ((_, found),) = sink.series(tag, run)
    return found.value


def runs(sink):
    return sorted({event.run for event in sink.events} - {"train", ""})


def test_rates_are_their_definitions():
    rates = rates_of(predictions_of(TARGETS[:4], SCORES[:4], None, False), 0.5)
    assert {name: (rate.hits, rate.of) for name, rate in rates.items()} == {
        "accuracy": (2, 4),
        "positive_rate": (2, 4),
        "true_positive_rate": (1, 2),
        "false_positive_rate": (1, 2),
        "precision": (1, 2),
    }


def test_limits_are_wilsons():
    low, high = Rate(8, 10).limits
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert Rate(0, 5).limits[0] == 0 and Rate(5, 5).limits[1] == 1
    assert math.isnan(Rate(0, 0).value) and all(map(math.isnan, Rate(0, 0).limits))
    assert gap([Rate(1, 4), Rate(0, 0), Rate(3, 4)]) == 0.5 and math.isnan(gap([Rate(1, 2), Rate(0, 0)]))


def test_every_slice_is_a_run_with_the_tags_of_the_whole():
    sink = logged(TARGETS, SCORES, SEX)
    assert runs(sink) == ["train/slices_f", "train/slices_m"]
    for run, rates in {
        "train": (0.75, 0.5, 0.75, 0.25, 0.75),
        "train/slices_f": (0.5, 0.5, 0.5, 0.5, 0.5),
        "train/slices_m": (1.0, 0.5, 1.0, 0.0, 1.0),
    }.items():
        assert tuple(value(sink, f"slices/{name}", run) for name in RATES) == rates
    assert [value(sink, f"slices/{name}/gap") for name in RATES] == [0.5, 0.0, 0.5, 0.5, 0.5]
    assert value(sink, "slices/accuracy/least") == 0.5 and value(sink, "slices/accuracy/greatest") == 1.0


def test_the_charts_find_the_curves():
    sink = logged(TARGETS, SCORES, SEX, tag="fair.ness")
    ((_, layout),) = sink.series(LAYOUT_TAG, "train/fair.ness_f")
    (category,) = layout.categories
    tags = {tag for run in ("train", "train/fair.ness_m") for tag in sink.tags(run) if "run/" not in tag}
    for chart in category.charts:
        if isinstance(chart, MarginChart):
            assert set(chart.series[0]) <= tags
            assert not set(chart.series[0]) & set(sink.tags("train/fair.ness_m")), "the page complains of some of three"
        else:
            found = [tag for tag in tags if re.match(chart.tags[0], tag)]
            expected = (
                [f"fair.ness/{name}/gap" for name in RATES] if chart.title == "gaps" else [f"fair.ness/{chart.title}"]
            )
            assert sorted(found) == sorted(expected)
    assert len(category.charts) == 1 + 2 * len(RATES)


def test_a_band_has_its_three_curves_at_the_same_steps():
    sink = MemorySink()
    with Monitor(nn.Linear(1, 1), sink=sink) as monitor:
        for scores in (SCORES, [0.9] + [0.1] * 7, SCORES):  # no precision among the men of the second epoch
            monitor.log_slices(TARGETS, scores, SEX)
            monitor.log_epoch()
    ((_, layout),) = sink.series(LAYOUT_TAG, "train/slices_f")[:1]
    bands = [chart.series[0] for chart in layout.categories[0].charts if isinstance(chart, MarginChart)]
    steps = {band: [[step for step, _ in sink.series(tag, "train")] for tag in band] for band in bands}
    assert all(least == middle == greatest for least, middle, greatest in steps.values())
    assert steps["slices/precision/all", "slices/precision/least", "slices/precision/greatest"][0] == [0, 2]
    assert [step for step, _ in sink.series("slices/precision", "train")] == [0, 1, 2]


def test_the_table_and_the_picture_hold_every_slice():
    sink = logged(TARGETS, SCORES, {"sex": SEX, "young": np.array(TARGETS, bool)})
    ((_, table),) = sink.series("slices/table", "train")
    rows = [row.split(" | ")[0].strip("| ") for row in table.markdown.splitlines() if row.startswith("|")]
    assert rows == ["slice", "---", "sex=f", "sex=m", "young", "all", "gap"]
    young = next(row for row in table.markdown.splitlines() if "young" in row)
    assert young.count("–") == 1, "without a negative there is no false positive rate"
    assert sink.series("slices/figure", "train")[0][1].pixels.shape[2] > 500
    assert "slices/false_positive_rate" not in sink.tags("train/slices_young")


def test_masks_may_overlap_and_labels_may_be_numbers_tensors_and_batches():
    masks = {"all of it": torch.ones(8, dtype=torch.bool), "half": torch.arange(8) < 4}
    assert runs(logged(TARGETS, SCORES, masks)) == ["train/slices_all of it", "train/slices_half"]
    assert runs(logged(TARGETS, SCORES, torch.arange(8) % 2)) == ["train/slices_0", "train/slices_1"]
    assert runs(logged(TARGETS, SCORES, [True] * 4 + [False] * 4)) == ["train/slices_False", "train/slices_True"]
    parts = [list(torch.tensor(each).split(3)) for each in (TARGETS, SCORES, [0, 1] * 4)]
    batches = logged(*parts)
    assert value(batches, "slices/accuracy", "train/slices_1") == value(
        logged(TARGETS, SCORES, [0, 1] * 4), "slices/accuracy", "train/slices_1"
    )
    assert runs(logged(*parts[:2], SEX)) == ["train/slices_f", "train/slices_m"]


def test_a_threshold_decides_and_many_classes_have_their_accuracy():
    assert value(logged(TARGETS, SCORES, SEX, threshold=0.95), "slices/positive_rate") == 0
    scores = np.eye(3)[[0, 1, 2, 2]]
    sink = logged([0, 1, 2, 0], scores, ["a", "a", "b", "b"])
    assert [value(sink, "slices/accuracy", f"train/slices_{name}") for name in "ab"] == [1.0, 0.5]
    assert not any("positive" in tag for tag in sink.tags("train"))


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ({"none": [False] * 8}, {}, "no member"),
        (SEX[:-1], {}, "one label"),
        ([0.5] * 8, {}, "bins"),
        (np.zeros((8, 2), int), {}, "one label"),
        ({}, {}, "0 slices"),
        ({"a/b": [True] * 8, "a_b": [True] * 8}, {}, "another slice"),
        (SEX, {"threshold": 2}, "probability"),
        (SEX, {"threshold": "0.5"}, "probability"),
        (["x" * 300, *SEX[1:]], {}, "length"),
    ],
)
def test_bad_groups_are_refused_in_three_parts_and_nothing_is_written(groups, options, message):
    sink = MemorySink()
    with Monitor(nn.Linear(1, 1), sink=sink) as monitor:
        before = len(sink.events)
        with pytest.raises((InvalidValueError, TagError), match=message) as error:
            monitor.log_slices(TARGETS, SCORES, groups, **options)
        assert "; " in str(error.value) and len(sink.events) == before


def test_labels_as_many_as_examples_are_refused():
    with pytest.raises(InvalidValueError, match="101 slices"):
        logged([0, 1] + [0] * 99, [0.5] * 101, np.arange(101))


def test_slices_over_epochs_are_curves_on_disk(tmp_path):
    with Monitor(nn.Linear(1, 1), tmp_path / "run") as monitor:
        for _ in range(3):
            with monitor.phase("validation"):
                monitor.log_slices(TARGETS, SCORES, SEX)
            monitor.log_epoch()
    log = read(tmp_path / "run")
    assert {"validation", "validation/slices_f", "validation/slices_m"} <= set(log.runs)
    for run in ("validation", "validation/slices_f"):
        assert list(log.scalars("slices/accuracy", run).steps) == [0, 1, 2]
