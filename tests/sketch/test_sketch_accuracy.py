"""From a tensor to what TensorBoard draws of it, held against tf.summary's 30 equal bins of the tensor's own range."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("tensorboard")

from sketch_scores import (  # noqa: E402
    DISPLAY_BINS,
    datasets,
    misplaced,
    percentile_errors,
    sketched,
    thirty_equal_bins,
)

SLACK = 0.001
"""A tenth of a percent of the mass, or of the range."""


def _narrow(tensor: torch.Tensor) -> torch.Tensor:
    """The same data where only float64 tells them apart."""
    values = tensor.double()
    return 2.0**20 + 2.0**-20 * values / (float(values.max() - values.min()) or 1.0)


@pytest.mark.parametrize("place", [torch.Tensor.clone, _narrow])
@pytest.mark.parametrize("name", datasets(0))
def test_never_worse_than_thirty_equal_bins(name, place):
    mine, theirs = [], []
    for seed in range(20 if len(datasets(0)[name]) < 1000 else 4):
        tensor = place(datasets(seed)[name])
        values = tensor.double().numpy()
        for scores, buckets in ((mine, sketched(tensor).buckets), (theirs, thirty_equal_bins(values))):
            scores.append((misplaced(values, buckets), percentile_errors(values, buckets)[0]))
    (wrong, percentile), (their_wrong, their_percentile) = np.mean(mine, 0), np.mean(theirs, 0)
    assert wrong <= their_wrong + SLACK
    assert percentile <= their_percentile + SLACK


@pytest.mark.parametrize(
    "name", ["weights", "relu", "95 % zeros", "lognormal", "1000 +- 1", "many normalisation weights", "an outlier"]
)
def test_far_better_where_thirty_equal_bins_fail(name):
    tensor = datasets(0)[name]
    values, buckets = tensor.double().numpy(), sketched(tensor).buckets
    assert misplaced(values, buckets) < 0.012
    assert percentile_errors(values, buckets)[0] < 0.002


def test_few_values_are_drawn_where_they_are():
    tensor = datasets(0)["digits"]
    assert misplaced(tensor.double().numpy(), sketched(tensor).buckets) < 1e-4


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
        buckets = sketched(torch.from_numpy(values)).buckets.tolist()
        assert _histograms_dashboard(buckets) == pytest.approx(len(values), rel=1e-6)
        assert _time_series_dashboard(buckets) == pytest.approx(len(values), rel=1e-6)
