"""Random tensors, as both of TensorBoard's readers hand their histograms to the pages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from serving import until

from torchboard import SummaryWriter

STEPS = 12


def _draw(generator: np.random.Generator, kind: str) -> torch.Tensor:
    number = int(10 ** generator.uniform(0, 3.5))
    normal = generator.standard_normal(number)
    made = {
        "gauss": normal * 10 ** generator.uniform(-12, 6),
        "relu": np.maximum(normal, 0),
        "far from zero": normal + 10 ** generator.uniform(1, 6),
        "spike": np.where(generator.random(number) < 0.7, 0, normal),
        "two values": np.sign(normal),
        "heavy tails": np.exp(normal * generator.uniform(0, 8)),
        "constant": np.full(number, 100 * normal[0]),
        "narrow": -2 + 1e-6 * normal,
    }
    if kind == "digits":
        return torch.from_numpy(generator.integers(-4, 6, number))
    if kind == "float8":
        return torch.from_numpy(normal).to(torch.float8_e4m3fn)
    if kind == "bfloat16":
        return torch.from_numpy(normal).bfloat16()
    if kind in DOUBLES:
        return torch.from_numpy(DOUBLES[kind](normal))
    return torch.from_numpy(made[kind]).float()


DOUBLES = {
    "float64": lambda normal: normal,
    "large float64": lambda normal: normal * 1e200,
    "narrow float64": lambda normal: 1e6 + 1e-6 * normal,
}
"""Data that float64 tells apart, and not, or not all, float32."""

KINDS = [
    "gauss", "relu", "far from zero", "spike", "two values", "heavy tails", "constant", "narrow", "digits", "float8",
    "bfloat16", *DOUBLES,
]  # fmt: skip


@pytest.fixture
def drawn(tmp_path, show):
    """What was written, by tag and step, and the board that shows it."""
    generator = np.random.default_rng(5)
    tensors = {kind: [_draw(generator, kind) for _ in range(STEPS)] for kind in KINDS}
    with SummaryWriter(tmp_path / "log" / "run") as writer:
        for kind, steps in tensors.items():
            for step, tensor in enumerate(steps):
                writer.add_histogram(kind.replace(" ", "_"), tensor, step)
    board = show(tmp_path / "log")
    for kind in KINDS:
        board.await_histograms("run", kind.replace(" ", "_"), STEPS - 1)
    return tensors, board


def test_every_histogram_arrives_whole_and_drawable(drawn):
    tensors, board = drawn
    for kind in KINDS:
        tag = kind.replace(" ", "_")
        series = board.series("histograms", "run", tag)
        assert [step for _, step, _ in series] == list(range(STEPS))
        for (_, _, buckets), tensor in zip(series, tensors[kind]):
            assert len(buckets) <= (32 if kind in ("large float64", "narrow float64") else 64)
            _check(np.array(buckets, np.float64), tensor.double().numpy(), 2.0**-23 if kind == "float64" else 0)
        percentiles = until(lambda tag=tag: board.series("distributions", "run", tag), lambda got: len(got) == STEPS)
        for (_, _, points), tensor in zip(percentiles, tensors[kind]):
            _check_percentiles(np.array(points, np.float64)[:, 1], tensor.double().numpy())


def _check(buckets: np.ndarray, values: np.ndarray, rounding: float) -> None:
    """``rounding``: how far outside of the values the ends may lie, in parts of themselves."""
    left, right, count = buckets.T
    low, high = values.min(), values.max()
    assert count.sum() == len(values) and count[0] > 0 and count[-1] > 0
    assert (left[1:] == right[:-1]).all() and (right >= left).all()
    if low == high:
        assert len(buckets) == 1 and left[0] <= low <= right[0]
        assert low >= -5 or left[0] < right[0], "the page's own widening would be reversed"
        return
    assert (right > left).all(), "a bucket without a width may not be drawn"
    assert low - rounding * abs(low) <= left[0] <= low and high <= right[-1] <= high + rounding * abs(high)
    often, times = max(zip(*np.unique(values, return_counts=True)), key=lambda pair: pair[1])
    if times > len(values) / 2:
        spike = np.flatnonzero((left <= often) & (often <= right) & (count >= times))
        assert len(spike) and (right - left)[spike].min() < (high - low) / 25, "a spike is drawn where it is"


def _check_percentiles(drawn: np.ndarray, values: np.ndarray) -> None:
    """Between the values on either side of where the percentile falls, give or take a bucket."""
    assert (np.diff(drawn) >= 0).all()
    shares = np.array([0, 0.0668, 0.1587, 0.3085, 0.5, 0.6915, 0.8413, 0.9332, 1])
    allowed = np.ptp(values) / 15 + 2e-6 * np.abs(values).max()
    for aside, sign in ((-1 / len(values), 1), (1 / len(values), -1)):
        beside = np.quantile(values, np.clip(shares + aside, 0, 1), method="inverted_cdf")
        assert (sign * (drawn - beside) >= -allowed).all()
