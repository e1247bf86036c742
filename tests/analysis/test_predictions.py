"""What is logged of predictions: the numbers are those of scikit-learn, the pictures show them, and bad input writes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from torch import nn

from torchboard import MemorySink, Monitor
from torchboard.analysis.calibration import calibration_of
from torchboard.analysis.confusion import confusion_of, most_confused
from torchboard.analysis.curves import micro_pr_curve, operating_points
from torchboard.analysis.figures import confusion_figure, to_image
from torchboard.analysis.predictions import predictions_of
from torchboard.analysis.report import top_losses
from torchboard.errors import ClosedError, InvalidValueError
from torchboard.values import PrCurve


def classified(count=200, classes=4, seed=0, dtype=torch.float64):
    """Targets, and logits that are right more often than not."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator, dtype=dtype)
    logits[torch.arange(count), targets] += 1.5
    return targets, logits


def logged(*arguments, run="train", **options):
    """Tag -> value of one call, and the sink."""
    sink = MemorySink()
    with Monitor(nn.Linear(1, 1), sink=sink) as monitor:
        monitor.log_predictions(*arguments, **options)
    return {tag: sink.series(tag, run)[0][1] for tag in sink.tags(run) if not tag.startswith("run/")}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=60))
def test_areas_and_corners_are_those_of_scikit_learn_ties_included(pairs):
    truth, scores = np.array([pair[0] for pair in pairs]), np.array([pair[1] / 8 for pair in pairs])
    points = operating_points(truth, scores)
    if truth.any():
        assert points.average_precision == pytest.approx(metrics.average_precision_score(truth, scores))
    else:
        assert math.isnan(points.average_precision)
    if truth.all() or not truth.any():
        assert math.isnan(points.auc)
        return
    false, true = points.roc()
    assert points.auc == pytest.approx(metrics.roc_auc_score(truth, scores))
    assert np.trapezoid(true, false) == pytest.approx(points.auc) if hasattr(np, "trapezoid") else True
    theirs = metrics.roc_curve(truth, scores, drop_intermediate=False)
    for x, y in zip(*theirs[:2]):
        assert (np.hypot(false - x, true - y) < 1e-12).any() or y == np.interp(x, false, true)


def test_scalars_of_several_classes_are_those_of_scikit_learn():
    targets, logits = classified()
    scores = torch.softmax(logits, 1).numpy()
    found = logged(targets, scores)
    assert found["predictions/accuracy"].value == pytest.approx((scores.argmax(1) == targets.numpy()).mean())
    area = metrics.roc_auc_score(targets, scores, multi_class="ovr")
    assert found["predictions/roc_auc"].value == pytest.approx(area)
    precision = metrics.average_precision_score(np.eye(4)[targets], scores)
    assert found["predictions/average_precision"].value == pytest.approx(precision)
    assert {tag: type(value).__name__ for tag, value in found.items()} == {
        **{f"predictions/pr_curve/{number}": "PrCurve" for number in range(4)},
        **dict.fromkeys(("predictions/roc", "predictions/reliability"), "Image"),
        **dict.fromkeys(("predictions/confusion", "predictions/confusion_normalised"), "Image"),
        **dict.fromkeys(("predictions/most_confused", "predictions/top_losses/table"), "Text"),
        **{
            f"predictions/{name}": "Scalar"
            for name in ("roc_auc", "average_precision", "accuracy", "expected_calibration_error")
        },
    } | {tag: type(value).__name__ for tag, value in found.items() if not tag.startswith("predictions/")}
    row = PrCurve.from_predictions(targets.numpy() == 2, scores[:, 2])
    np.testing.assert_array_equal(found["predictions/pr_curve/2"].table, row.table)


@pytest.mark.parametrize("shape", ["[N]", "[N, 1]", "[N, 2]", "logit", "logits", "batches", "float16", "list"])
def test_binary_scores_mean_the_same_in_every_shape(shape):
    targets, logits = classified(120, 2)
    single = logits[:, 1] - logits[:, 0]
    scores = torch.sigmoid(single)
    given = {
        "[N]": (targets, scores),
        "[N, 1]": (targets[:, None], scores[:, None]),
        "[N, 2]": (targets.bool(), torch.softmax(logits, 1)),
        "logit": (targets.double(), single.requires_grad_()),
        "logits": (targets.numpy(), logits.numpy()),
        "batches": (list(targets.split(50)), list(scores.split(50))),
        "float16": (targets.to(torch.uint8), scores.half()),
        "list": (targets.tolist(), scores.tolist()),
    }[shape]
    found = logged(*given, logits=shape.startswith("logit"))
    near = {"abs": 1e-3 if shape == "float16" else 1e-9}
    area = metrics.roc_auc_score(targets, scores)
    assert found["predictions/roc_auc"].value == pytest.approx(area, **near)
    accuracy = metrics.accuracy_score(targets, scores > 0.5)
    assert found["predictions/accuracy"].value == pytest.approx(accuracy, **near)
    assert [tag for tag in found if "pr_curve" in tag] == ["predictions/pr_curve/1"]


def test_the_calibration_error_is_the_definition_bin_by_bin():
    targets, logits = classified(500, 3)
    scores = torch.softmax(logits, 1).numpy()
    confidence, right = scores.max(1), scores.argmax(1) == targets.numpy()
    error = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    predictions = predictions_of(targets, scores, None, False)
    assert calibration_of(predictions).error == pytest.approx(error)
    edge = calibration_of(predictions_of([1], [5 / 15], None, False))
    assert edge.counts.tolist() == [0, 0, 0, 0, 1, *[0] * 10], "a bin holds its upper edge"
    perfect = predictions_of([0, 1, 1, 0], [0.0, 1.0, 1.0, 0.0], None, False)
    assert calibration_of(perfect).error == 0 and calibration_of(perfect).counts.tolist() == [2, *[0] * 13, 2]


def test_confusions_are_counted_by_true_class_and_guess():
    targets, logits = classified(300, 5)
    predictions = predictions_of(targets, logits, list("abcde"), True)
    counts = confusion_of(predictions).counts
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(targets, logits.argmax(1)))
    shares = metrics.confusion_matrix(targets, logits.argmax(1), normalize="true")
    np.testing.assert_allclose(confusion_of(predictions).shares, shares)
    pairs = most_confused(predictions, 3)
    assert [counts[true, guess] for true, guess, _ in pairs] == [count for *_, count in pairs]
    assert pairs[0][2] == (counts - np.diag(np.diag(counts))).max()


def test_a_picture_of_a_thousand_classes_has_a_pixel_for_every_cell():
    scores = np.zeros((1000, 1000))
    guesses = np.arange(1000)
    guesses[300] = 700
    scores[np.arange(1000), guesses] = 1
    confusion = confusion_of(predictions_of(np.arange(1000), scores, None, False))
    before, after = (
        to_image(confusion_figure(each, shares)).pixels[0].astype(int)
        for shares in (False,)
        for each in (confusion, confusion_of(predictions_of(np.arange(1000), np.eye(1000), None, False)))
    )
    changed = np.argwhere((before != after).any(2))
    assert len(changed) == 2, "one cell became empty, and another one did not stay so"
    (row, column), (same_row, diagonal) = changed.tolist()
    assert row == same_row and abs(column - diagonal) == 400


def test_more_classes_than_pixels_are_put_together():
    targets = np.arange(2500)
    scores = np.eye(2500, dtype=np.float32)
    confusion = confusion_of(predictions_of(targets, scores, None, False))
    assert confusion.size == 3 and confusion.counts.shape == (834, 834) and confusion.counts.sum() == 2500
    assert np.trace(confusion.counts) == 2500


def test_many_classes_share_one_curve_and_the_mean_of_their_areas():
    targets, logits = classified(400, 30)
    scores = torch.softmax(logits, 1).numpy()
    found = logged(targets, scores)
    assert [tag for tag in found if "pr_curve" in tag] == ["predictions/pr_curve/all_classes"]
    area = metrics.roc_auc_score(targets, scores, multi_class="ovr")
    assert found["predictions/roc_auc"].value == pytest.approx(area)
    pairs = np.eye(30)[targets]
    whole = PrCurve.from_predictions(pairs, scores)
    np.testing.assert_allclose(micro_pr_curve(targets.numpy(), scores).table, whole.table, rtol=1e-6)


def test_top_losses_are_the_worst_and_come_with_their_pictures():
    targets, logits = classified(100, 3)
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    predictions = predictions_of(targets, logits, None, True)
    worst = losses.argsort(descending=True)[:16]
    assert top_losses(predictions).tolist() == worst.tolist()
    images = torch.zeros(100, 1, 6, 6)
    without = logged(targets, logits, images=images, logits=True)
    images[worst[5]] = 1.0
    others = [number for number in range(100) if number not in worst]
    images[others] = 0.5
    found = logged(targets, logits, images=images, logits=True)
    tag = "predictions/top_losses/images"
    assert (found[tag].pixels != without[tag].pixels).any()
    rows = found["predictions/top_losses/table"].markdown.splitlines()[2:]
    assert [int(row.split("|")[1]) for row in rows] == worst.tolist()
    in_batches = logged(list(targets.split(40)), list(logits.split(40)), images=list(images.split(40)), logits=True)
    np.testing.assert_array_equal(in_batches[tag].pixels, found[tag].pixels)
    np.testing.assert_array_equal(
        logged(targets, logits, images=list(images.numpy()[:, 0]), logits=True)[tag].pixels, found[tag].pixels
    )


def test_they_belong_to_the_run_of_the_phase_and_the_epoch():
    sink = MemorySink()
    with Monitor(nn.Linear(1, 1), sink=sink) as monitor:
        for _ in range(2):
            with monitor.phase("validation"):
                monitor.log_predictions([0, 1], [0.2, 0.9], tag="head")
            monitor.log_epoch()
    assert [step for step, _ in sink.series("head/accuracy", "validation")] == [0, 1]
    assert not any(tag.startswith("head") for tag in sink.tags("train"))


def test_one_class_only_has_no_area_and_is_no_error():
    found = logged([1, 1], [0.2, 0.9])
    assert found["predictions/accuracy"].value == 0.5 and "predictions/expected_calibration_error" in found
    assert not {"predictions/roc_auc", "predictions/roc", "predictions/average_precision"} & set(found)


def test_names_show_where_there_is_no_formula_markdown_or_directory_in_them():
    names = ["a/b", "$x^{", "a|b", "same", "same"]
    targets, logits = classified(60, 5)
    found = logged(targets, logits, classes=names, logits=True)
    curves = [tag for tag in found if "pr_curve" in tag]
    assert curves == [f"predictions/pr_curve/{name}" for name in ("a_b", "$x^{", "a|b", "same (3)", "same (4)")]
    assert "a\\|b" in found["predictions/most_confused"].markdown


NAN = float("nan")


@pytest.mark.parametrize(
    ("targets", "scores", "options", "message"),
    [
        ([0, 1], [0.5, NAN], {}, r"nan at \[1\]"),
        ([0, 1], [0.5, math.inf], {"logits": True}, "not finite"),
        ([0, 1], [0.5, 1.5], {}, "logits=True"),
        ([0, 1], [[0.5, 0.9], [0.5, 0.5]], {}, "add up to 1"),
        ([0, 1, 1], [0.5, 0.4], {}, "each example has one"),
        ([0, 2], [0.5, 0.4], {}, r"0\.\.1"),
        ([0, -1], [0.5, 0.4], {}, r"target -1"),
        ([0, 0.5], [0.5, 0.4], {}, r"target 0\.5"),
        ([0, NAN], [0.5, 0.4], {}, "target nan"),
        ([], [], {}, "N is 1 or more"),
        ([0], [["a", "b"]], {}, "real numbers"),
        ([0, 1], [0.5, 0.4], {"classes": ["one"]}, "2 classes"),
        ([0, 1], [0.5, 0.4], {"classes": "no"}, "2 classes"),
        ([0, 1], [0.5, 0.4], {"classes": ["no", 5]}, "2 classes"),
        ([0, 1], [0.5, 0.4], {"images": np.zeros((3, 1, 2, 2))}, "3 images"),
        ([0, 1], [0.5, 0.4], {"images": np.zeros((2, 5, 2, 2))}, "channels"),
        ([0, 1], [0.5, 0.4], {"images": 7}, "0 images"),
        ([torch.tensor([0, 1])], [torch.tensor([0.5])], {}, "batches"),
        ([torch.tensor([0, 1])], torch.tensor([0.5, 0.5]), {}, "batches"),
        ([0, 1], [0.5, 0.4], {"tag": ""}, "tag"),
    ],
)
def test_bad_input_is_refused_in_three_parts_and_nothing_is_written(targets, scores, options, message):
    sink = MemorySink()
    with Monitor(nn.Linear(1, 1), sink=sink) as monitor:
        before = len(sink.events)
        with pytest.raises(ValueError, match=message) as error:
            monitor.log_predictions(targets, scores, **options)
        assert "; " in str(error.value) and len(sink.events) == before
        monitor.log_predictions([0, 1], [0.5, 0.4])
    assert "predictions/accuracy" in sink.tags("train")


def test_scores_that_are_not_finite_are_an_invalid_value():
    with Monitor(nn.Linear(1, 1), sink=MemorySink()) as monitor, pytest.raises(InvalidValueError):
        monitor.log_predictions([0, 1], [0.5, NAN])
    with pytest.raises(ClosedError):
        monitor.log_predictions([0, 1], [0.5, 0.5])
    with pytest.raises(ClosedError):
        monitor.log_slices([0, 1], [0.5, 0.5], [0, 1])
