"""Metrics: one real number each, averaged where it lies."""

from __future__ import annotations

import fractions
import math

import numpy as np
import pytest
import torch

from torchboard.capture.metrics import RunningMeans, check_metric, scalars
from torchboard.errors import InvalidValueError
from torchboard.values import Event


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0.5, 0.5),
        (3, 3.0),
        (True, 1.0),
        (fractions.Fraction(1, 4), 0.25),
        (np.float32(0.5), 0.5),
        (np.array([[2]]), 2.0),
        (np.bool_(True), 1.0),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([3], dtype=torch.int64), 3.0),
        (torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), 0.5),
        (torch.tensor([[0.5]], dtype=torch.float64), 0.5),
        (torch.tensor([0.5]).to_sparse(), 0.5),
        (torch.nn.Parameter(torch.tensor(0.5)), 0.5),
        (torch.complex(torch.tensor(1.0), torch.tensor(0.5)).conj().imag, -0.5),
    ],
    ids=repr,
)
def test_numbers_of_any_kind_are_metrics(value, number):
    assert float(check_metric("loss", value)) == number


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)], ids=str)
def test_nan_and_infinities_are_data(value):
    assert str(float(check_metric("loss", value))) == str(float(value))


@pytest.mark.parametrize(
    "value",
    [
        "0.5",
        None,
        [1.0],
        1j,
        torch.zeros(2),
        torch.zeros(0),
        torch.zeros((), device="meta"),
        torch.tensor(1j),
        np.zeros(2),
        np.array("a"),
        {},
    ],
    ids=repr,
)
def test_anything_else_is_refused_in_three_parts(value):
    with pytest.raises(InvalidValueError, match=r"metric 'loss' = .*: .*; "):
        check_metric("loss", value)


def settled(metrics):
    pairs, pending = scalars(metrics)
    return {tag: value.value for tag, value in Event(0, 0.0, pairs, "", pending).settled().pairs}


def test_means_are_taken_in_double_precision_and_begin_anew():
    means = RunningMeans()
    for value in (torch.tensor(16777216.0), torch.tensor(1.0), 1.0):
        means.add({"loss": check_metric("loss", value), "other": 2.0})
    assert settled(means.take()) == {"loss": 16777218.0 / 3, "other": 2.0}
    assert means.take() == {}


def test_a_metric_may_change_between_numbers_tensors_and_inference_tensors():
    means = RunningMeans()
    with torch.inference_mode():
        means.add({"loss": check_metric("loss", torch.ones(()) * 2)})
    means.add({"loss": 4.0})
    means.add({"loss": check_metric("loss", torch.ones((), requires_grad=True) * 6)})
    assert settled(means.take()) == {"loss": 4.0}


def test_a_mean_holds_no_graph_and_does_not_follow_the_tensor():
    loss = torch.ones((), requires_grad=True) * 2
    means = RunningMeans()
    means.add({"loss": check_metric("loss", loss)})
    with torch.no_grad():
        loss.fill_(7)
    (mean,) = means.take().values()
    assert type(mean) is float and mean == 2.0
