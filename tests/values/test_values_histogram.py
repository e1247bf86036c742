from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.histogram import MAX_BUCKETS, Histogram


def _of(values: np.ndarray, edges: np.ndarray, spike: float | None = None, max_buckets: int = MAX_BUCKETS) -> Histogram:
    """The values counted in bins, those equal to ``spike`` apart."""
    values = np.sort(np.asarray(values, np.float64))
    apart = values == spike
    others = values[~apart]
    counts = np.diff(np.append(np.searchsorted(others, edges[:-1], "left"), len(others)))
    extremes = (values[0], values[-1]) if len(values) else (np.nan, np.nan)
    return Histogram.from_bins(
        edges, counts, extremes=extremes, spike=(spike or 0.0, int(apart.sum())), max_buckets=max_buckets
    )


def _side(pivot: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Edges with infinite ends, 8 to a binade, around a pivot."""
    positive = np.concatenate(
        [[0.0], (np.ldexp(1.0, np.arange(-40, 24))[:, None] * (1 + np.arange(8) / 8)).ravel(), [np.inf]]
    )
    return pivot + np.concatenate([-positive[:0:-1], positive]) / scale


def _float32_beyond(value: float, direction: int) -> float:
    """The next float32 number from here, the number itself if it is one; infinite where there is none."""
    if abs(value) > float(np.finfo(np.float32).max):
        return direction * np.inf
    nearest = np.float32(value)
    inside = (float(nearest) - value) * direction < 0
    return float(np.nextafter(nearest, np.float32(direction * np.inf)) if inside else nearest)


def tensor_of(histogram: Histogram) -> Any:
    event = proto.Event()
    histogram.encode("a/b", event)
    return event.summary.value[0].tensor


def _check(histogram: Histogram, values: np.ndarray, max_buckets: int = MAX_BUCKETS) -> None:
    left, right, count = histogram.buckets.T
    assert 1 <= len(histogram.buckets) <= max_buckets
    assert np.isfinite(histogram.buckets).all()
    assert count.sum() == len(values) and (count >= 0).all() and (count == count.round()).all()
    assert np.array_equal(left[1:], right[:-1])
    assert count[0] > 0 and count[-1] > 0
    assert tensor_of(histogram).ByteSize() <= 12 * max_buckets + 20
    if values.min() < values.max():
        assert left[0] in (values.min(), _float32_beyond(values.min(), -1))
        assert right[-1] in (values.max(), _float32_beyond(values.max(), 1))
        assert (right > left).all()
    else:
        assert left[0] <= values.min() <= right[-1]


finite_floats = st.floats(allow_nan=False, allow_infinity=False)
lists = st.lists(
    st.one_of(finite_floats, st.floats(-2, 2), st.integers(-5, 5).map(float), st.sampled_from([0.0, 1.0, -1.0])),
    min_size=1,
    max_size=300,
)


@given(
    lists,
    st.sampled_from([8, 64]),
    st.sampled_from([(0.0, 1.0), (1.0, 2.0**10), (0.0, 2.0**-900), (-3.0, 2.0**30)]),
    st.booleans(),
)
def test_any_values_make_drawable_buckets(values, max_buckets, place, apart):
    pivot, scale = place
    values = np.array(values)
    _check(_of(values, _side(pivot, scale), pivot if apart else None, max_buckets), values, max_buckets)


@pytest.mark.parametrize("seed", range(8))
def test_counts_are_those_of_the_values_between_the_edges(seed):
    values = np.random.default_rng(seed).standard_normal(5000).astype(np.float32)
    buckets = _of(values, np.linspace(-8, 8, 4097)).buckets
    inner = buckets[1:-1]
    assert np.array_equal(inner[:, 2], [((values > low) & (values <= high)).sum() for low, high, _ in inner])


def test_no_bucket_takes_much_more_than_its_share_of_range_or_mass():
    values = np.random.default_rng(1).standard_t(2, 100_000)
    buckets = _of(values, _side(), max_buckets=64).buckets
    full = buckets[buckets[:, 2] > 0]
    assert (full[:, 2] <= 3 / 64 * len(values)).all()
    assert (np.diff(full[:, :2], axis=1) <= 4 / 64 * np.ptp(values)).all()


@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_a_spike_is_a_thin_bucket_of_its_own(factor):
    values = factor * np.concatenate([np.zeros(500), np.linspace(-1, 3, 100)])
    buckets = _of(values, _side(), spike=0.0).buckets
    left, right, count = buckets[buckets[:, 2] >= 500][0]
    assert left < 0 < right and count == 500
    assert 1e-7 < (right - left) / np.ptp(values) < 1e-6


def test_a_bin_that_holds_much_is_not_smeared_over_its_neighbours():
    values = np.concatenate([np.linspace(0, 3, 1000), np.full(1000, 1.0105)])
    buckets = _of(values, np.linspace(0, 3, 3001)).buckets
    left, right, count = buckets[buckets[:, 2] >= 1000][0]
    assert left < 1.0105 < right and right - left < 0.005 and count <= 1002


def test_a_spike_at_the_end_of_the_range_is_thin_too():
    buckets = _of(np.concatenate([np.zeros(500), np.linspace(0.1, 3, 100)]), _side(), spike=0.0).buckets
    assert buckets[0, 0] == 0 < buckets[0, 1] < 2e-6 and buckets[0, 2] == 500


def test_two_values_are_two_thin_buckets():
    buckets = _of(np.array([-1.0] * 3 + [1.0] * 5), _side()).buckets
    assert buckets[:, 2].tolist() == [3, 0, 5]
    assert buckets[0, 1] <= -0.9375 and 0.999999 < buckets[2, 0] < 1


@pytest.mark.parametrize("value", [0.0, 1.0, -4.0, -6.0, 1e30, -1e30, -1.7976931348623157e308, 5e-324])
def test_a_constant_is_one_bucket(value):
    values = np.full(7, value)
    for histogram in (_of(values, _side(), spike=value), _of(values, _side())):
        _check(histogram, values)
        assert len(histogram.buckets) == 1


def test_no_values_are_no_buckets():
    assert _of(np.zeros(0), _side()).buckets.shape == (0, 3)


NORMAL = np.random.default_rng(0).standard_normal(100_000)
DATA = {
    "float32": NORMAL.astype(np.float32),
    "float64": NORMAL,
    "float64 with outliers": NORMAL**9,
    "beyond float32": NORMAL * 1e200,
    "below float32": NORMAL * 1e-200,
    "narrow": 1e6 + 1e-6 * NORMAL,
    "narrow with a spike": 1e6 + 1e-6 * np.maximum(NORMAL, 0),
    "uniform and narrow": 1e6 + 1e-6 * np.linspace(0, 1, 100_000),
}


@pytest.mark.parametrize("times", [1, 1_000_003])
@pytest.mark.parametrize("name", DATA)
def test_a_histogram_takes_at_most_900_bytes_on_disk(name, times):
    values = DATA[name].astype(np.float64)
    scale = np.ptp(values)
    low, high = float(values.min()), float(values.max())
    edges = np.unique(
        np.concatenate([[low], np.quantile(values, np.linspace(0, 1, 4000)), low + scale * _FINE, [high]])
    )
    counts = np.histogram(values, edges)[0] * times
    histogram = Histogram.from_bins(edges, counts, extremes=(low, high))
    event = proto.Event(wall_time=1.7e9, step=10**6)
    histogram.encode("parameters/layer1/0/conv1/weight", event)
    assert len(event.SerializeToString()) + 16 <= 900
    back = Histogram.decode(event.summary.value[0])
    assert back == histogram and back.buckets[:, 2].sum() == times * len(values)
    _check(Histogram(back.buckets * [1, 1, 1 / times]), values)


_FINE = np.linspace(0, 1, 1000)


def test_counts_and_edges_of_ordinary_data_are_float32():
    for values in (NORMAL, NORMAL.astype(np.float32)):
        assert tensor_of(_of(values, _side())).dtype == proto.DataType["DT_FLOAT"].number


@pytest.mark.parametrize("value", [0.1, -0.1, 1 / 3, 3.4e38, 1e-40])
def test_ends_that_are_no_float32_numbers_move_outwards_to_the_next(value):
    values = np.linspace(0, value, 1000) if value > 0 else np.linspace(value, 0, 1000)
    buckets = _of(values, _side(scale=1 / abs(value))).buckets
    assert np.array_equal(buckets, buckets.astype(np.float32))
    end = buckets[-1, 1] if value > 0 else buckets[0, 0]
    assert 0 <= (end - value) * np.sign(value) <= np.spacing(np.float32(abs(value)))


def test_edges_that_float32_would_confuse_stay_float64():
    values = 1e6 + np.random.default_rng(0).standard_normal(1000) * 1e-3
    histogram = _of(values, np.linspace(1e6 - 1, 1e6 + 1, 5000))
    assert tensor_of(histogram).dtype == proto.DataType["DT_DOUBLE"].number
    assert histogram.buckets[0, 0] == values.min() and histogram.buckets[-1, 1] == values.max()
    _check(histogram, values)


def test_where_float64_is_needed_alike_neighbours_are_joined_and_the_others_kept():
    edges = 2.0**20 + 2.0**-20 * np.arange(65)
    counts = np.where(np.arange(64) < 40, 1000, np.arange(64) ** 2)
    buckets = Histogram.from_bins(edges, counts, extremes=(edges[0], edges[-1])).buckets
    assert len(buckets) == 32 and buckets[:, 2].sum() == counts.sum()
    steep = np.stack([edges[40:-1], edges[41:], counts[40:]], axis=1)
    assert np.array_equal(buckets[-24:], steep)


def _round_trip(histogram: Histogram) -> Histogram:
    event = proto.Event()
    histogram.encode("a/b", event)
    (value,) = proto.Event.FromString(event.SerializeToString()).summary.value
    assert value.tag == "a/b"
    assert value.metadata.plugin_data.plugin_name == "histograms"
    assert [size.size for size in value.tensor.tensor_shape.dim] == list(histogram.buckets.shape)
    return Histogram.decode(value)


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 20), st.just(3)),
        elements=st.one_of(finite_floats, st.floats(width=32, allow_nan=False, allow_infinity=False)),
    ),
    st.text(st.characters(codec="utf-8"), max_size=10),
)
def test_decode_gives_what_encode_was_given(buckets, description):
    histogram = Histogram(buckets, description)
    again = _round_trip(histogram)
    assert again == histogram and hash(again) == hash(histogram)
    assert again.buckets.shape == buckets.shape and again.buckets.dtype == np.float64


def test_histograms_differ_by_their_content():
    one = Histogram(np.array([[0.0, 1.0, 2.0]]))
    assert one == Histogram(np.array([[0.0, 1.0, 2.0]]))
    assert one != Histogram(np.array([[0.0, 1.0, 3.0]])) and one != Histogram(one.buckets, "x") and one != 3
    assert one.nbytes == 24


def test_decode_reads_values_spelled_out():
    value = proto.Event().summary.value.add(tag="x")
    value.tensor.dtype = proto.DataType["DT_DOUBLE"].number
    value.tensor.double_val.extend([0.0, 1.0, 5.0, 1.0, 2.0, 6.0])
    assert Histogram.decode(value).buckets.tolist() == [[0, 1, 5], [1, 2, 6]]


def test_decode_reads_the_older_form():
    value = proto.Event().summary.value.add(tag="x")
    value.histo.CopyFrom(
        proto.HistogramProto(min=-1, max=4, num=6, bucket_limit=[-2, 0, 2, 5, 9], bucket=[0, 1, 0, 5, 0])
    )
    assert Histogram.decode(value).buckets.tolist() == [[-1, 0, 1], [0, 2, 0], [2, 4, 5]]


def test_counted_data_are_taken_as_they_are():
    assert Histogram.from_counts([0, 1, 4], [2, 0.5]).buckets.tolist() == [[0, 1, 2], [1, 4, 0.5]]


@pytest.mark.parametrize(
    ("edges", "counts", "wrong"),
    [
        ([0, 1], [1, 2], "between"),
        ([0, np.inf], [1], "finite"),
        ([0, np.nan], [1], "finite"),
        ([1, 0], [1], "ascending"),
        ([0, 1], [-1], "from 0 up"),
        ([0, 1], [np.inf], "from 0 up"),
    ],
)
def test_counted_data_that_cannot_be_drawn_are_refused(edges, counts, wrong):
    with pytest.raises(InvalidValueError, match=wrong):
        Histogram.from_counts(edges, counts)
