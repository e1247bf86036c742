"""Precision and recall: counted as defined, and as the peer counts them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.pr_curve import metadata as their_metadata
from tensorboard.util import tensor_util
from torch.utils.tensorboard.summary import compute_curve, pr_curve_raw

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values import Event, PrCurve, encode

ROW = st.floats(0, 1e6, width=32)


def wire(value):
    (message,) = encode(Event(0, 1.0, (("curve", value),)))
    return message.SerializeToString()


@given(st.integers(2, 40).flatmap(lambda n: st.lists(st.lists(ROW, min_size=n, max_size=n), min_size=6, max_size=6)))
def test_a_curve_comes_back_as_it_was(rows):
    curve = PrCurve(np.array(rows, np.float32), "about")
    back = PrCurve.decode(proto.Event.FromString(wire(curve)).summary.value[0])
    assert np.array_equal(back.table, curve.table) and back.description == "about"


def test_tensorboard_finds_a_float32_table_and_the_number_of_thresholds():
    value = event_pb2.Event.FromString(wire(PrCurve(np.ones((6, 200), np.float32)))).summary.value[0]
    content = their_metadata.parse_plugin_metadata(value.metadata.plugin_data.content)
    array = tensor_util.make_ndarray(value.tensor)
    assert (value.metadata.plugin_data.plugin_name, content.version, content.num_thresholds) == ("pr_curves", 0, 200)
    assert (array.dtype, array.shape) == (np.float32, (6, 200))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 9, width=16)), min_size=1, max_size=60),
    st.integers(2, 30),
)
def test_each_threshold_counts_the_predictions_at_it_or_above(samples, thresholds):
    labels, scores, weights = (np.array(column) for column in zip(*samples))
    table = PrCurve.from_predictions(labels, scores, thresholds, weights).table
    for i, column in enumerate(table.T):
        positive = scores >= i / (thresholds - 1)
        tp, fp, tn, fn = (
            math.fsum(weights[mask])
            for mask in (positive & labels, positive & ~labels, ~positive & ~labels, ~positive & labels)
        )
        expected = [tp, fp, tn, fn, tp / (tp + fp) if tp + fp else 0, tp / (tp + fn) if tp + fn else 0]
        np.testing.assert_allclose(column, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_counts_are_those_of_the_peer(weighted):
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 5000), random.random(5000)
    weights = random.random(5000) if weighted else None
    ours = PrCurve.from_predictions(labels, scores, 101, weights).table
    np.testing.assert_allclose(ours, compute_curve(labels, scores, 101, weights), rtol=1e-5, atol=1e-4)


def test_curves_of_the_peer_are_read():
    rows = np.arange(24.0).reshape(6, 4)
    message = proto.Summary.FromString(pr_curve_raw("tag", *rows, num_thresholds=4).SerializeToString()).value[0]
    assert np.array_equal(PrCurve.decode(message).table, rows)


def test_any_shape_and_type_of_labels_and_predictions_will_do():
    expected = PrCurve.from_predictions(np.array([1, 0, 1, 1]), np.array([0.9, 0.4, 0.6, 0.1]), 5).table
    labels, scores = np.array([[True, False], [True, True]]), np.array([[0.9, 0.4], [0.6, 0.1]], np.float16)
    assert np.array_equal(PrCurve.from_predictions(labels, scores, 5).table, expected)
    assert expected[0].tolist() == [3, 2, 2, 1, 0] and expected[1].tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "words"),
    [
        ([1, 0], [0.5, 1.5], None, "predictions with 1.5"),
        ([1, 0], [0.5, -0.1], None, "sigmoid"),
        ([1, 0], [0.5, math.nan], None, "predictions with nan"),
        ([1, 2], [0.5, 0.1], None, "labels with 2"),
        ([1, 0, 1], [0.5, 0.1], None, "3 labels for 2 predictions"),
        ([], [], None, "at least one"),
        ([1, 0], [0.5, 0.1], [1.0], "1 weights for 2 predictions"),
        ([1, 0], [0.5, 0.1], [1.0, -1.0], "weights with -1"),
        ([1, 0], [0.5, 0.1], [1.0, math.inf], "weights with inf"),
        (["a", "b"], [0.5, 0.1], None, "labels of <U1"),
        ([1, 0], [0.5j, 0.1], None, "complex"),
    ],
)
def test_what_no_classifier_gives_is_refused(labels, scores, weights, words):
    with pytest.raises(InvalidValueError, match="; ") as caught:
        PrCurve.from_predictions(np.array(labels), np.array(scores), 10, None if weights is None else np.array(weights))
    assert words in str(caught.value)


@pytest.mark.parametrize("thresholds", [1, 0, -3, 2.5, None, "10"])
def test_a_number_of_thresholds_that_makes_no_curve_is_refused(thresholds):
    with pytest.raises(InvalidValueError, match="two points"):
        PrCurve.from_predictions(np.array([1]), np.array([0.5]), thresholds)


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 2]] * 5 + [[1, 2, 3]],
        [[1]] * 6,
        [[1, 2]] * 5 + [[1, math.nan]],
        [[1, 2]] * 5 + [[1, -1]],
        [[1, 2]] * 5 + [[1, 1e300]],
        [["a", "b"]] * 6,
    ],
    ids=["lengths", "one_threshold", "nan", "negative", "huge", "text"],
)
def test_rows_that_make_no_curve_are_refused(rows):
    with pytest.raises(InvalidValueError, match="; "):
        PrCurve.from_rows(*rows)
