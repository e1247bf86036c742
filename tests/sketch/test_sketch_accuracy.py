"""From a tensor to what TensorBoard draws of it, held against tf.summary's 30 equal bins of the tensor's own range."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchboard.sketch import layout
from torchboard.sketch.table import sketch_of
from torchboard.values.histogram import Histogram

compressor = pytest.importorskip("tensorboard.plugins.distribution.compressor")

DISPLAY_BINS = 30
SLACK = 0.001
"""A tenth of a percent of the mass, or of the range."""
WIDER_RANGES = [(0.13, 0.0), (0.0, 0.21), (0.37, 0.61), (1.3, 0.9), (0.05, 0.03)]
"""What other steps of a tag do to its range, in parts of this step's."""


def _datasets(seed: int, number: int = 20_000) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal
    body = normal(number)
    softmax = np.exp(3 * normal((number // 100, 100)))
    data = {
        "weights": 0.02 * body,
        "laplace gradients": generator.laplace(0, 1e-3, number),
        "lognormal": np.exp(2 * body) * 1e-6,
        "student t2 gradients": generator.standard_t(2, number) * 1e-5,
        "gradients of mixed scales": body * np.exp(3 * normal(number)) * 1e-7,
        "relu": np.maximum(body, 0),
        "95 % zeros": np.where(generator.random(number) < 0.95, 0, np.abs(body)),
        "gelu": body * 0.5 * (1 + np.tanh(0.79788 * (body + 0.044715 * body**3))),
        "sigmoid": 1 / (1 + np.exp(-2 * body)),
        "softmax": (softmax / softmax.sum(1, keepdims=True)).ravel(),
        "uniform": generator.random(number),
        "digits": generator.integers(0, 10, number),
        "tokens": generator.integers(0, 50257, number),
        "bfloat16": torch.from_numpy(0.02 * body).to(torch.bfloat16).double().numpy(),
        "float16": (0.02 * body).astype(np.float16),
        "float8 e4m3": torch.from_numpy(body).to(torch.float8_e4m3fn).double().numpy(),
        "float8 e5m2": torch.from_numpy(body).to(torch.float8_e5m2).double().numpy(),
        "normalisation weights": 1 + 1e-4 * normal(768),
        "many normalisation weights": 1 + 1e-4 * body,
        "bimodal normalisation weights": np.where(generator.random(4096) < 0.3, 0.8, 1.0) + 0.005 * normal(4096),
        "1000 +- 1": 1000 + body,
        "normalisation weights with outliers": np.concatenate([1 + 1e-3 * normal(4000), [0.3, 2.5]]),
        "variances": np.abs(0.9 + 0.3 * normal(2048)) + 1e-5,
        "narrow variances": 1 + 0.02 * normal(512),
        "from 5 to 6": 5 + generator.random(number),
        "ones": np.ones(1000),
        "zeros": np.zeros(1000),
        "minus six": np.full(1000, -6.0),
        "two values": np.where(generator.random(1000) < 0.2, -1.0, 1.0),
        "an outlier": np.append(0.01 * body, 5.0),
        "seven": normal(7),
        "-2 +- 0.01": -2 + 0.01 * body,
    }
    return {name: values.astype(np.float32) for name, values in data.items()}


def _histogram(values: np.ndarray) -> Histogram:
    rows = sketch_of(torch.from_numpy(values))
    counts, moments, (pivot, scale) = rows.counts[0].numpy(), rows.moments[0].numpy(), rows.parameters[0].numpy()
    return Histogram.from_bins(
        layout.edges(pivot, scale),
        layout.ascending(counts),
        extremes=(-moments[layout.NEGATED_MIN], moments[layout.MAX]),
        spike=(pivot, int(moments[layout.SPIKE])),
    )


def _thirty_equal_bins(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if low == high:
        return np.array([[low, high, len(values)]])
    counts, edges = np.histogram(values, DISPLAY_BINS, (low, high))
    return np.stack([edges[:-1], edges[1:], counts], 1)


def _drawn(buckets: np.ndarray, low: float, high: float) -> np.ndarray:
    """Mass of each display bin when every bucket is spread evenly over its width."""
    borders = np.linspace(low, high, DISPLAY_BINS + 1)
    left, right, count = buckets.T
    width = np.maximum(right - left, 1e-300)
    below = np.clip((borders[:, None] - left) / width, 0, 1)
    below[-1] = 1
    return np.diff((below * count).sum(1))


def _misplaced(values: np.ndarray, buckets: np.ndarray) -> float:
    """Part of the mass that stands in a wrong display bin, over the ranges that other steps may cause."""
    low, high = values.min(), values.max()
    errors = []
    for before, after in WIDER_RANGES:
        start, stop = low - before * (high - low), high + after * (high - low)
        if start < stop:
            exact = np.histogram(values, DISPLAY_BINS, (start, stop))[0]
            errors.append(np.abs(exact - _drawn(buckets, start, stop)).sum() / len(values) / 2)
    return float(np.mean(errors or [0.0]))


def _percentile_error(values: np.ndarray, buckets: np.ndarray) -> float:
    """Worst error of TensorBoard's nine percentiles, as a part of the range."""
    drawn = np.array(compressor.compress_histogram(buckets.tolist()))
    exact = np.quantile(values, drawn[:, 0] / 10_000, method="inverted_cdf")
    extent = float(np.ptp(values)) or 1.0
    return float(np.abs(drawn[:, 1] - exact).max()) / extent


@pytest.mark.parametrize("name", _datasets(0))
def test_never_worse_than_thirty_equal_bins(name):
    mine, theirs = [], []
    for seed in range(20 if len(_datasets(0)[name]) < 1000 else 2):
        values = _datasets(seed)[name].astype(np.float64)
        for scores, buckets in (
            (mine, _histogram(values.astype(np.float32)).buckets),
            (theirs, _thirty_equal_bins(values)),
        ):
            scores.append((_misplaced(values, buckets), _percentile_error(values, buckets)))
    (misplaced, percentile), (their_misplaced, their_percentile) = np.mean(mine, 0), np.mean(theirs, 0)
    assert misplaced <= their_misplaced + SLACK
    assert percentile <= their_percentile + SLACK


@pytest.mark.parametrize(
    "name", ["weights", "relu", "95 % zeros", "lognormal", "1000 +- 1", "many normalisation weights", "an outlier"]
)
def test_far_better_where_thirty_equal_bins_fail(name):
    values = _datasets(0)[name]
    assert _misplaced(values, _histogram(values).buckets) < 0.012
    assert _percentile_error(values, _histogram(values).buckets) < 0.002


def _histograms_dashboard(buckets: list[list[float]]) -> float:
    """Mass drawn by the Histograms dashboard (its re-binning loop, with its rounding)."""
    low, high = buckets[0][0], buckets[-1][1]
    if low == high:
        low, high = low / 1.1 - 1, low * 1.1 + 1
    step, index, drawn = (high - low) / DISPLAY_BINS, 0, 0.0
    for number in range(DISPLAY_BINS):
        start = low + number * step
        stop = start + step
        while index < len(buckets):
            left, right = max(low, buckets[index][0]), min(high, buckets[index][1])
            if right > left:
                drawn += max(min(right, stop) - max(left, start), 0) / (right - left) * buckets[index][2]
            elif start <= left and (right <= stop if stop >= high else right < stop):
                drawn += buckets[index][2]
            if right > stop:
                break
            index += 1
    return drawn


def _time_series_dashboard(buckets: list[list[float]]) -> float:
    """Mass drawn by the Time Series dashboard (its re-binning loop, with its rounding)."""
    low, high = buckets[0][0], buckets[-1][1]
    if low == high:
        low, high = low / 1.1 - 1, low * 1.1 + 1
    step, index, drawn, carried = (high - low) / DISPLAY_BINS, 0, 0.0, 0.0
    for number in range(DISPLAY_BINS):
        start, last = low + number * step, number == DISPLAY_BINS - 1
        stop = start + step
        drawn, carried = drawn + carried, 0.0
        while index < len(buckets):
            left, right, count = buckets[index]
            if left <= stop and right >= start:
                if left == right:
                    carried += count if not last and right >= stop else 0
                    drawn += 0 if not last and right >= stop else count
                else:
                    drawn += count * (min(right, stop) - max(left, start)) / (right - left)
            if right > stop:
                break
            index += 1
    return drawn


def _any_values(generator: np.random.Generator, kind: int) -> np.ndarray:
    number = int(10 ** generator.uniform(0, 3.5))
    normal = generator.standard_normal(number)
    values = [
        normal * 10 ** generator.uniform(-12, 6),
        np.maximum(normal, 0),
        normal + 10 ** generator.uniform(-3, 4),
        np.round(3 * normal),
        np.where(generator.random(number) < 0.5, 0, np.sign(normal)),
        np.exp(normal * generator.uniform(0, 8)),
        np.repeat(normal[:1] * 100, number),
        np.minimum(normal, 0),
    ][kind]
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", range(8))
def test_the_dashboards_draw_all_of_the_mass(kind):
    generator = np.random.default_rng(kind)
    for _ in range(60):
        values = _any_values(generator, kind)
        buckets = _histogram(values).buckets.tolist()
        assert _histograms_dashboard(buckets) == pytest.approx(len(values), rel=1e-6)
        assert _time_series_dashboard(buckets) == pytest.approx(len(values), rel=1e-6)
