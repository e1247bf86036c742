"""Histograms that were counted elsewhere keep their buckets and are drawn whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.plugins.distribution import compressor
from torch.utils.tensorboard.summary import histogram_raw as peer

from torchboard.errors import InvalidValueError
from torchboard.values import Event, Histogram, encode
from torchboard.values.prebinned import from_limits

LIMITS = st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20, unique=True).map(sorted)


def test_buckets_between_the_extremes_are_those_given():
    histogram = from_limits([0, 1, 2, 3, 4], [0, 2, 0, 1, 0], 0.5, 2.5)
    assert histogram.buckets.tolist() == [[0.5, 1, 2], [1, 2, 0], [2, 2.5, 1]]


@given(LIMITS, st.data())
def test_the_mass_is_kept_and_the_outer_buckets_hold_something(limits, data):
    counts = data.draw(st.lists(st.integers(0, 1000), min_size=len(limits), max_size=len(limits)))
    buckets = from_limits(limits, counts).buckets
    assert buckets[:, 2].sum() == sum(counts)
    if sum(counts):
        assert buckets[0, 2] > 0 and buckets[-1, 2] > 0
        assert (buckets[1:, 0] == buckets[:-1, 1]).all() and (buckets[:, 0] <= buckets[:, 1]).all()
        widths = buckets[:, 1] - buckets[:, 0]
        assert len(buckets) == 1 or (widths[buckets[:, 2] > 0] > 0).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(1, 30))
def test_what_numpy_counts_comes_back_and_is_drawn(values, bins):
    counts, edges = np.histogram(values, bins)
    histogram = from_limits(edges[1:], counts, min(values), max(values))
    (message,) = encode(Event(0, 1.0, (("tag", histogram),)))
    back = Histogram.decode(message.summary.value[0])
    assert back.buckets[:, 2].sum() == len(values)
    assert back.buckets[0, 0] <= min(values) and back.buckets[-1, 1] >= max(values)
    quantiles = [value for _, value in compressor.compress_histogram(back.buckets)]
    assert np.isfinite(quantiles).all() and quantiles == sorted(quantiles)


@pytest.mark.parametrize("bins", [1, 10, 64, 500])
def test_they_take_no_more_bytes_than_the_peers(bins):
    values = np.random.default_rng(0).standard_normal(10_000)
    counts, edges = np.histogram(values, bins)
    ours = Event(7, 1.0, (("weights", from_limits(edges[1:], counts, values.min(), values.max())),))
    facts = [values.min(), values.max(), len(values), values.sum(), (values**2).sum()]
    theirs = peer("weights", *facts, edges[1:].tolist(), counts.tolist())
    assert encode(ours)[0].summary.value[0].ByteSize() <= theirs.value[0].ByteSize()


def test_equal_limits_are_one_bucket():
    assert from_limits([1, 1, 2], [3, 5, 2], 0, 2).buckets.tolist() == [[0, 1, 8], [1, 2, 2]]


def test_a_bucket_without_a_width_gets_one_where_there_are_others():
    buckets = from_limits([1, 2, math.inf], [0, 5, 2], 1.5).buckets
    assert buckets[1, 1] > buckets[1, 0] == 2 and buckets[1, 1] < 2.001
    assert from_limits([1, 2], [0, 4], 2, 2).buckets.tolist() == [[2, 2, 4]]


def test_extremes_may_be_off_by_their_rounding_and_no_more():
    assert from_limits([0.1, 1], [1, 1], np.float32(0.1), 1).buckets[0, 1] == pytest.approx(0.1)
    with pytest.raises(InvalidValueError, match="below 0.1"):
        from_limits([0.1, 1], [1, 1], 0.2, 1)
