"""Feature maps of a fixed probe, and a model that is left as it was."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from torchboard.capture.feature_maps import FeatureMaps, feature_grid, first_example
from torchboard.capture.options import Capture
from torchboard.values import Event


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.up = nn.ConvTranspose2d(6, 2, 3)

    def forward(self, x):
        return self.up(self.drop(self.norm(self.conv(x)).relu()))


def pictures(maps):
    return {tag: value.pixels.shape for tag, value in Event(0, 0.0, (), "", tuple(maps.collect())).settled().pairs}


def test_each_convolution_shows_its_maps_of_the_first_training_example():
    net = Net()
    maps = FeatureMaps(net, Capture(), None)
    maps.arm(True)
    assert maps.collect() == []
    net(torch.randn(4, 1, 8, 8))
    assert pictures(maps) == {"feature_maps/conv": (1, 61, 92, 3), "feature_maps/up": (1, 32, 65, 3)}
    assert not net._forward_pre_hooks and not net.conv._forward_hooks


def test_the_probe_stays_the_first_example_of_the_first_batch():
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    maps = FeatureMaps(net, Capture(), None)
    maps.arm(True)
    batch = torch.rand(3, 1, 4, 4)
    first = batch[0].clone()
    net(batch)
    batch.zero_()
    net(torch.rand(3, 1, 4, 4))
    (snapshot,) = maps.collect()
    (map_,) = snapshot.copy.wait()
    assert np.allclose(map_, (first * net[0].weight.detach()[0, 0]).numpy())


def test_a_pass_of_the_probe_leaves_modes_buffers_and_random_state_as_they_were():
    net = Net()
    net.norm.eval()
    maps = FeatureMaps(net, Capture(), torch.randn(1, 1, 8, 8))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    random = torch.random.get_rng_state()
    assert len(pictures(maps)) == 2
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_model_that_cannot_run_on_the_probe_is_left_in_peace():
    class WantsTargets(Net):
        def forward(self, x, targets=None):
            if not self.training:
                raise ValueError("targets")
            return super().forward(x)

    net = WantsTargets()
    maps = FeatureMaps(net, Capture(), torch.randn(1, 1, 8, 8))
    assert maps.collect() == [] and str(maps.error) == "targets"
    assert net.training and not net.conv._forward_hooks


def test_a_model_without_convolutions_gets_no_hook():
    net = nn.Linear(2, 2)
    maps = FeatureMaps(net, Capture(), None)
    maps.arm(True)
    assert not net._forward_pre_hooks


def test_the_first_example_is_cut_out_of_all_that_is_as_long_as_the_batch():
    args, kwargs = first_example(
        (torch.ones(4, 3), "name"), {"mask": torch.ones(4), "table": torch.ones(7, 2), "scale": torch.tensor(2.0)}
    )
    assert args[0].shape == (1, 3) and args[1] == "name"
    assert {name: tuple(value.shape) for name, value in kwargs.items()} == {"mask": (1,), "table": (7, 2), "scale": ()}


def test_each_map_is_scaled_by_itself_and_odd_values_are_drawn_dark():
    maps = np.stack(
        [
            np.arange(4.0).reshape(2, 2),
            100 + np.arange(4.0).reshape(2, 2),
            np.full((2, 2), 5.0),
            np.full((2, 2), np.nan),
        ]
    )
    maps[0, 0, 1] = np.inf
    sheet = feature_grid(maps)
    assert sheet.shape == (65, 65, 3) and sheet.dtype == np.uint8
    bright, dark = [253, 231, 36], [68, 1, 84]
    assert sheet[31, 31].tolist() == bright and sheet[31, 64].tolist() == bright
    assert all(sheet[row, column].tolist() == dark for row, column in ((0, 0), (0, 33), (33, 0), (33, 33), (0, 31)))
