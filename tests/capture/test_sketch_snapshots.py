"""A sketch that was packed on its device becomes the histogram that its rows would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchboard.capture.sketches import SketchSnapshot, to_host
from torchboard.sketch.table import SketchTable

_RANDOM = torch.Generator().manual_seed(0)
DATA = {
    "gauss": torch.randn(10_000, generator=_RANDOM),
    "relu": torch.randn(10_000, generator=_RANDOM).relu(),
    "constant": torch.full((100,), -7.5),
    "one": torch.tensor([3.0]),
    "broken": torch.tensor([float("nan"), float("inf"), 1.0, 2.0]),
    "nothing": torch.empty(0),
}


def cumulative(buckets, at):
    """The share of the mass up to each point, straight inside a bucket."""
    edges = np.append(buckets[:1, 0], buckets[:, 1])
    mass = np.append(0, buckets[:, 2].cumsum())
    return np.interp(at, edges, mass / mass[-1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="rows of a GPU are packed by themselves")
@pytest.mark.parametrize("name", DATA)
def test_packed_rows_give_the_histograms_that_plain_rows_give(name):
    table = SketchTable(torch.device("cpu"))
    table.add_row()
    table.observe_(0, DATA[name])
    rows = table.read()
    plain, packed = (dict(SketchSnapshot((name,), to_host(rows, packed)).settle()) for packed in (False, True))
    assert list(plain) == list(packed)
    assert plain.get(f"nonfinite/{name}") == packed.get(f"nonfinite/{name}")
    if name in plain:
        ours, theirs = plain[name].buckets, packed[name].buckets
        assert ours[:, 2].sum() == theirs[:, 2].sum()
        assert (ours[0, 0], ours[-1, 1]) == (theirs[0, 0], theirs[-1, 1])
        assert np.abs(cumulative(ours, theirs[:, 1]) - cumulative(theirs, theirs[:, 1])).max() <= 1 / 128
