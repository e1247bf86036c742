"""A container that only passes on its last child's output is not recorded; one with a pass of its own is."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrizations

from torchboard.capture.options import Capture
from torchboard.capture.recorder import Recorder
from torchboard.values import Event


class Dense(nn.ModuleDict):
    """As the blocks of a DenseNet are: a dict with a pass of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features[-1]))
        return torch.cat(features, 1)


class Pooled(nn.Sequential):
    """As a pooling branch of a segmentation head: a sequence that does something to its end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).repeat(2, 1)


def elements_seen(model: nn.Module, x: torch.Tensor) -> dict[str, int]:
    recorder = Recorder(model, Capture())
    recorder.arm(True)
    try:
        model(x).sum().backward()
        pairs = Event(0, 0.0, (), "", tuple(recorder.collect("train"))).settled().pairs
    finally:
        recorder.arm(False)
    return {tag: round(value.buckets[:, 2].sum()) for tag, value in pairs if value.plugin == "histograms"}


def both_kinds(sizes: dict[str, int]) -> dict[str, int]:
    return {f"{kind}/{name}": size for kind in ("activations", "activation_gradients") for name, size in sizes.items()}


def test_a_container_with_a_pass_of_its_own_is_recorded():
    model = nn.Sequential(Dense({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}), Pooled(nn.Linear(12, 3)))
    seen = elements_seen(model, torch.randn(2, 4))
    assert seen == both_kinds({"0/a": 8, "0/b": 8, "0": 24, "1/0": 6, "1": 12, "Sequential": 12})


def test_plain_containers_are_left_out_wherever_they_are():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    assert set(elements_seen(model, torch.randn(2, 4))) == set(both_kinds({"0/0": 8, "0/1": 8, "Sequential": 8}))


def test_a_parametrized_weight_is_the_output_of_its_parametrization():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    seen = elements_seen(model, torch.randn(2, 4))
    assert seen["activations/0/parametrizations/weight"] == 12
    assert seen["activation_gradients/0/parametrizations/weight"] == 12
