"""Distributions as training makes them, and how wrong a histogram of them is drawn by TensorBoard."""

from __future__ import annotations

import numpy as np
import torch
from tensorboard.plugins.distribution.compressor import compress_histogram

from torchboard.capture.sketches import snapshot_of
from torchboard.values.histogram import Histogram

DISPLAY_BINS = 30
WIDER_RANGES = [(0.13, 0.0), (0.0, 0.21), (0.37, 0.61), (1.3, 0.9), (0.05, 0.03)]
"""What other steps of a tag do to its range, in parts of this step's."""


def datasets(seed: int, number: int = 20_000) -> dict[str, torch.Tensor]:
    """Name -> a tensor of the element type that such data have; float32 unless the name says otherwise."""
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
        "bfloat16": torch.from_numpy(0.02 * body).bfloat16(),
        "float16": (0.02 * body).astype(np.float16),
        "float8 e4m3": torch.from_numpy(body).to(torch.float8_e4m3fn),
        "float8 e5m2": torch.from_numpy(body).to(torch.float8_e5m2),
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
    return {name: _tensor(values) for name, values in data.items()}


def _tensor(values: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values
    narrow = values.astype(np.float32) if values.dtype == np.float64 else values
    return torch.from_numpy(narrow)


def sketched(tensor: torch.Tensor) -> Histogram:
    """The histogram that is written of a tensor."""
    return dict(snapshot_of("", tensor).settle())[""]


def thirty_equal_bins(values: np.ndarray) -> np.ndarray:
    """The buckets of ``tf.summary.histogram``, version 2."""
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


def misplaced_in(values: np.ndarray, buckets: np.ndarray, low: float, high: float) -> float:
    """Part of the mass that stands in a wrong one of 30 display bins between two ends."""
    exact = np.histogram(values, DISPLAY_BINS, (low, high))[0]
    return float(np.abs(exact - _drawn(buckets, low, high)).sum() / len(values) / 2)


def misplaced(values: np.ndarray, buckets: np.ndarray) -> float:
    """Likewise, on average over the ranges that other steps may cause."""
    low, extent = values.min(), np.ptp(values)
    ends = [(low - before * extent, low + (1 + after) * extent) for before, after in WIDER_RANGES]
    return float(np.mean([misplaced_in(values, buckets, *pair) for pair in ends])) if extent else 0.0


def percentile_errors(values: np.ndarray, buckets: np.ndarray) -> tuple[float, float]:
    """The worst error of TensorBoard's nine percentiles, as a part of the range, and of the seven inner ones, as a part of
    the distance between the outer two of these."""
    drawn = np.array(compress_histogram(buckets.tolist()))
    exact = np.quantile(values, drawn[:, 0] / 10_000, method="inverted_cdf")
    errors, extent, spread = np.abs(drawn[:, 1] - exact), float(np.ptp(values)), exact[-2] - exact[1]
    return float(errors.max() / (extent or 1.0)), float(errors[1:-1].max() / (spread if spread > 0 else extent or 1.0))
