"""Packed rows against what the host makes of all the bins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchboard.sketch import compact, layout, ops, reference
from torchboard.values.histogram import MAX_BUCKETS, Histogram


def _normal(number: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(number))


def _spikes(number: int) -> torch.Tensor:
    """A tenth of the elements each at 9 places, and clusters with holes between: many groups."""
    places = torch.arange(number) % 70
    return torch.where(places < 35, (places - 9.0) / 7, 40 + 3 * places + 1e-3 * _normal(number))


DATA = {
    "gauss": _normal(20_000),
    "few": _normal(12),
    "relu": _normal(5000).relu(),
    "constant": torch.full((9,), -6.0),
    "zeros": torch.zeros(5),
    "two values": torch.tensor([-1.0, 1.0, 1.0]),
    "negative": -_normal(300).abs(),
    "normalisation weights": 1 + 1e-4 * _normal(768),
    "1000 +- 1": 1000 + _normal(20_000),
    "digits": torch.arange(1000) % 10,
    "spikes and holes": _spikes(7000),
    "only spikes": (torch.arange(3200) % 32) ** 2 - 300,
    "lognormal": torch.exp(2 * _normal(20_000)),
    "an outlier": torch.cat([1e-2 * _normal(9000), torch.tensor([5.0])]),
    "not all finite": torch.cat([_normal(400), torch.tensor([torch.nan, torch.inf])]),
    "nothing finite": torch.full((4,), torch.nan),
    "empty": torch.zeros(0),
    "largest": torch.tensor([-1.7e308, 1.7e308, 3.0, 0.0], dtype=torch.float64),
    "smallest": torch.tensor([5e-324, 1e-323], dtype=torch.float64),
}


def _rows(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    counts = torch.zeros(len(tensors), layout.BINS, dtype=torch.int64)
    moments = torch.zeros(len(tensors), layout.SLOTS, dtype=torch.float64)
    moments[:, layout.ADDITIVE :] = -torch.inf
    parameters = torch.zeros(len(tensors), layout.PARAMETERS, dtype=torch.float64)
    for row, tensor in enumerate(tensors):
        reference.observe_(counts, moments, parameters, row, tensor)
    return counts, moments, parameters


def _both(tensor: torch.Tensor) -> tuple[Histogram, Histogram, int]:
    """The histogram of all bins, that of the packed row, and how many groups this has."""
    counts, moments, parameters = _rows([tensor])
    packed = compact.unpack(ops.pack(counts, moments, parameters)[0].numpy())
    assert np.array_equal(packed.moments, moments[0]) and np.array_equal(packed.parameters, parameters[0])
    assert packed.counts.sum() == counts.sum()
    pivot, scale = parameters[0, : layout.KIND].tolist()
    edges = layout.edges(pivot, scale)
    assert np.isin(packed.edges, edges).all()
    extremes = -float(moments[0, layout.NEGATED_MIN]), float(moments[0, layout.MAX])
    spike = pivot, int(moments[0, layout.SPIKE])
    whole = Histogram.from_bins(edges, layout.ascending(counts[0].numpy()), extremes=extremes, spike=spike)
    parts = Histogram.from_bins(packed.edges, packed.counts, extremes=extremes, spike=spike)
    return whole, parts, int((packed.counts > 0).sum())


def _cumulative(histogram: Histogram, where: np.ndarray) -> np.ndarray:
    left, right, count = histogram.buckets.T
    share = np.clip((where[:, None] - left) / np.maximum(right - left, 1e-300), 0, 1)
    return (share * count).sum(1) / count.sum()


RECUT = ["gauss", "negative", "normalisation weights", "1000 +- 1", "not all finite"]
"""Data whose first cut gives more than 64 buckets."""


@pytest.mark.parametrize("name", [name for name in DATA if name not in RECUT])
def test_a_histogram_of_groups_is_that_of_all_bins(name):
    whole, parts, _ = _both(DATA[name])
    assert parts == whole


@pytest.mark.parametrize("name", RECUT)
def test_a_second_cut_moves_edges_by_no_more_than_a_group(name):
    whole, parts, groups = _both(DATA[name])
    assert len(parts.buckets) <= MAX_BUCKETS < groups <= compact.GROUPS
    assert parts.buckets[:, 2].sum() == whole.buckets[:, 2].sum()
    where = np.linspace(whole.buckets[0, 0], whole.buckets[-1, 1], 200)
    assert np.abs(_cumulative(parts, where) - _cumulative(whole, where)).max() < 1 / compact.BUDGETS[0]


@pytest.mark.parametrize("seed", range(2))
def test_random_data_have_the_same_histogram_or_nearly(seed):
    generator = np.random.default_rng(seed)
    for _ in range(20):
        number = int(10 ** generator.uniform(0, 3.5))
        values = generator.standard_normal(number) * 10 ** generator.uniform(-12, 6) + generator.choice([0, 5, -1e3])
        kept = generator.choice([values, np.maximum(values, 0), np.round(values)])
        whole, parts, groups = _both(torch.from_numpy(kept.astype(np.float32)))
        assert groups <= compact.GROUPS and len(parts.buckets) <= MAX_BUCKETS
        assert parts.buckets[:, 2].sum() == number
        if len(whole.buckets):
            assert parts.buckets[0, 0] == whole.buckets[0, 0] and parts.buckets[-1, 1] == whole.buckets[-1, 1]


def _crowded() -> torch.Tensor:
    """62 bins near zero with a 64th of the mass each, one element between every two, and a wide range around."""
    place = torch.arange(124.0)
    near = 2.0 ** (place // 32 - 10) * (1 + place % 32 / 32)
    return torch.cat([near[::2].repeat_interleave(200), near[1::2], torch.linspace(-64, 64, 129)])


def test_a_row_that_needs_more_groups_than_fit_is_grouped_more_coarsely():
    fine, coarse = (int(compact._Cells(*_rows([_crowded()])).ends(budget).sum()) for budget in compact.BUDGETS)
    whole, parts, groups = _both(_crowded())
    assert fine > compact.GROUPS > groups == coarse
    assert len(parts.buckets) <= MAX_BUCKETS
    assert parts.buckets[:, 2].sum() == whole.buckets[:, 2].sum()


def test_rows_are_packed_each_by_itself_in_one_call():
    rows = _rows(list(DATA.values()))
    packed = ops.pack(*rows)
    assert packed.shape == (len(DATA), compact.WORDS) and packed.dtype == torch.int64
    assert packed[0].nbytes <= 1408
    for row in range(len(DATA)):
        assert torch.equal(packed[row], ops.pack(*(buffer[row : row + 1] for buffer in rows))[0])
    assert ops.pack(*(buffer[:0] for buffer in rows)).shape == (0, compact.WORDS)


def test_packing_brings_nothing_to_the_host(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise AssertionError("a tensor was brought to the host")

    rows = _rows([DATA["relu"], DATA["empty"]])
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__array__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    ops.pack(*rows)
