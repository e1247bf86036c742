"""Feature maps of a fixed probe, and a model that is left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from torchboard.capture.models import Models
from torchboard.capture.options import Capture
from torchboard.capture.pictures.feature_maps import FeatureMaps, check_feature_maps
from torchboard.errors import InvalidValueError
from torchboard.values import Event, Image


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.up = nn.ConvTranspose2d(6, 2, 3)

    def forward(self, x):
        return self.up(self.drop(self.norm(self.conv(x)).relu()))


def collected(model, *inputs, options=None, **named):
    """Tag -> what one pass of the inputs shows."""
    maps = FeatureMaps(model, options or Capture(), None)
    maps.keep(inputs, named)
    values = dict(Event(0, 0.0, (), "", tuple(maps.collect())).settled().pairs)
    assert maps.error is None
    return values


def test_each_convolution_shows_its_maps_of_the_first_training_example():
    net = Net()
    maps = FeatureMaps(net, Capture(), None)
    maps.arm(True)
    assert maps.collect() == []
    net(torch.randn(4, 1, 8, 8))
    (snapshot,) = maps.collect()
    assert dict(snapshot.plugins) == {"feature_maps/conv": "images", "feature_maps/up": "images"}
    assert [image.description for _, image in snapshot.settle()] == ["6 channels, 6 x 6", "2 channels, 8 x 8"]
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


class Attentive(nn.Module):
    """All that a pass is watched for: convolutions, attention, dropout, running means."""

    def __init__(self):
        super().__init__()
        self.net = Net()
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])

    def forward(self, x):
        return self.layers[0](self.net(x).flatten(1, 2))


def test_a_pass_of_the_probe_leaves_modes_buffers_and_random_state_as_they_were():
    model = Attentive()
    model.net.norm.eval()
    maps = FeatureMaps(model, Capture(), torch.randn(1, 1, 8, 8))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.random.get_rng_state()
    (snapshot,) = maps.collect()
    assert set(snapshot.tags) == {
        "feature_maps/net/conv",
        "feature_maps/net/up",
        "feature_maps/layers/0",
        "attention/layers/0/self_attn",
    }
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.overrides._get_current_function_mode_stack() == []
    assert torch.utils._python_dispatch._get_current_dispatch_mode_stack() == []


def test_a_model_that_cannot_run_on_the_probe_is_left_in_peace():
    class WantsTargets(Net):
        def forward(self, x, targets=None):
            if not self.training:
                raise ValueError("targets")
            return super().forward(x)

    net = WantsTargets()
    maps = FeatureMaps(net, Capture(), torch.randn(1, 1, 8, 8))
    assert maps.collect() == [] and str(maps.error) == "targets"
    assert net.training and not any(module._forward_hooks for module in net.modules())


def test_of_several_models_each_is_shown_with_the_first_example_that_it_gets():
    class Fails(Net):
        tries = 0

        def forward(self, x):
            x = super().forward(x)
            if not self.training:
                Fails.tries += 1
                raise ValueError("targets")
            return x

    parts = {"maker": Net(), "judge": Net(), "odd": Fails(), "plain": nn.Linear(2, 2)}
    maps = FeatureMaps(Models(parts), Capture(include=["*.conv", "plain"]), None)
    maps.arm(True)
    assert not parts["plain"]._forward_pre_hooks
    for sizes in ((8, 9), (6, 6)):
        parts["maker"](torch.randn(4, 1, *sizes))
    assert maps.waits
    maps.arm(False)
    parts["judge"](torch.randn(4, 1, 7, 7))
    (snapshot,) = maps.collect()
    assert {tag: image.description for tag, image in snapshot.settle()} == {
        "feature_maps/maker/conv": "6 channels, 6 x 7"
    }
    maps.arm(True)
    for key in ("odd", "judge"):
        parts[key](torch.randn(4, 1, 8, 8))
    assert not maps.waits and not any(part._forward_pre_hooks for part in parts.values())
    for _ in range(2):
        (snapshot,) = maps.collect()
        assert list(snapshot.plugins) == ["feature_maps/maker/conv", "feature_maps/judge/conv"]
        assert "ValueError: targets" in str(maps.error) and Fails.tries == 1, (
            "one that cannot run costs the others nothing"
        )


def test_one_input_for_several_models_is_refused():
    with pytest.raises(InvalidValueError, match="several models, a, b, and it does not say whose input it is"):
        check_feature_maps(torch.randn(1, 1, 8, 8), Models({"a": Net(), "b": Net()}))


@pytest.mark.parametrize("way, windows", [("graph", 8), ("eager", 99)])
def test_a_model_that_does_not_run_keeps_captured_steps_from_staying_compiled_for_a_while_only(way, windows):
    maps = FeatureMaps(Models({"a": Net(), "b": Net()}), Capture(compiled=way), None)
    waited = 0
    for _ in range(99):
        maps.arm(True)
        waited += maps.waits
        maps.arm(False)
    assert waited == windows


def test_a_model_with_nothing_to_show_gets_no_hook():
    net = nn.Linear(2, 2)
    maps = FeatureMaps(net, Capture(), None)
    maps.arm(True)
    assert not net._forward_pre_hooks


class Patches(nn.Module):
    """A vision transformer in small: 12 patches of 3 x 4, a class token before them."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

        def forward(self, x):
            return x + self.mlp(x)

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 2, stride=2)
        self.blocks = nn.Sequential(self.Block(), self.Block())

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.blocks(torch.cat([torch.zeros_like(tokens[:, :1]), tokens], 1))


class ChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 2, stride=2)
        self.blocks = nn.ModuleList([Patches.Block()])

    def forward(self, x):
        return self.blocks[0](self.embed(x).permute(0, 2, 3, 1))


class Recurrent(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=batch_first)

    def forward(self, x):
        return self.lstm(x if self.lstm.batch_first else x.transpose(0, 1))[0]


@pytest.mark.parametrize(
    ("model", "example", "drawn"),
    [
        (nn.Sequential(nn.Conv1d(2, 40, 3)), (2, 1502), {"0": "40 channels (down) x 1500 places (across)"}),
        (nn.Sequential(nn.Conv2d(1, 70, 1)), (1, 200, 10), {"0": "the first 64 of 70 channels, 200 x 10"}),
        (
            nn.Sequential(nn.Conv3d(1, 20, 1)),
            (1, 30, 4, 5),
            {"0": "the first 12 of 20 channels, a row each, 30 x 4 x 5"},
        ),
        (nn.Sequential(nn.Conv3d(1, 20, 1)), (1, 1, 4, 5), {"0": "20 channels, 4 x 5"}),
        (
            Patches(),
            (1, 6, 8),
            {"embed": "8 channels, 3 x 4", "blocks/0": "8 features, 3 x 4", "blocks/1": "8 features, 3 x 4"},
        ),
        (ChannelsLast(), (1, 6, 8), {"embed": "8 channels, 3 x 4", "blocks/0": "8 features, 3 x 4"}),
        (Recurrent(True), (7, 3), {"lstm": "7 tokens (down) x 5 features (across)"}),
        (Recurrent(False), (7, 3), {"lstm": "7 tokens (down) x 5 features (across)"}),
    ],
)
def test_every_kind_of_output_is_drawn_in_a_form_of_its_own(model, example, drawn):
    values = collected(model, torch.randn(3, *example))
    assert {tag: value.description.split(";")[0] for tag, value in values.items()} == {
        f"feature_maps/{name}": heading for name, heading in drawn.items()
    }
    assert all(isinstance(value, Image) and value.pixels.shape[3] == 3 for value in values.values())


def test_what_is_averaged_or_sampled_before_the_copy_is_said():
    (image,) = collected(nn.Sequential(nn.Conv2d(1, 70, 1)), torch.randn(3, 1, 200, 10)).values()
    assert image.description.endswith("; a pixel is the mean of 3 x 3")
    (image,) = collected(Recurrent(True), torch.randn(3, 1100, 3)).values()
    assert image.description.endswith("; every 3rd of the tokens")


def test_maps_are_averaged_over_squares_and_slices_are_spread_over_the_depth():
    class Same(nn.Conv3d):
        def forward(self, x):
            return x

    model = nn.Sequential(Same(1, 1, 1))
    maps = FeatureMaps(model, Capture(), torch.arange(20.0)[None, None, :, None, None].expand(1, 2, 20, 160, 80))
    (snapshot,) = maps.collect()
    (slices,) = snapshot.copy.wait()
    assert slices.shape == (2, 8, 80, 40)
    assert slices[0, :, 0, 0].tolist() == list(snapshot.sheets[0].slices) == [1, 3, 6, 8, 11, 13, 16, 18]


def test_tokens_of_patches_lie_where_the_patches_are():
    class Row(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x):
            return self.inner(x)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(1, 1, 1)
            self.blocks = nn.ModuleList([Row()])

        def forward(self, x):
            self.embed(x)
            return self.blocks[0](torch.arange(26.0).reshape(1, 13, 2))

    maps = FeatureMaps(Tokens(), Capture(), torch.randn(1, 1, 3, 4))
    (snapshot,) = maps.collect()
    planes = snapshot.copy.wait()[snapshot.tags.index("feature_maps/blocks/0")]
    assert planes[1].tolist() == [[3.0, 5.0, 7.0, 9.0], [11.0, 13.0, 15.0, 17.0], [19.0, 21.0, 23.0, 25.0]]


def test_of_many_layers_a_hundred_are_drawn_unless_they_are_named_and_a_text_says_so_once():
    model = nn.Sequential(*(nn.Conv1d(1, 1, 1) for _ in range(150)))
    maps = FeatureMaps(model, Capture(), torch.randn(1, 1, 3))
    snapshot, text = maps.collect()
    assert len(snapshot.tags) == 100 and snapshot.tags[:3] == ("feature_maps/0", "feature_maps/1", "feature_maps/3")
    ((tag, value),) = text.settle()
    assert tag == "monitor/left_out/feature_maps" and "100 of 150" in value.markdown
    assert len(maps.collect()) == 1
    (snapshot,) = FeatureMaps(model, Capture(include=nn.Conv1d), torch.randn(1, 1, 3)).collect()
    assert len(snapshot.tags) == 150


@pytest.mark.parametrize("count", [100, 103])
def test_attentions_are_said_to_be_left_out_where_some_are(count):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, x):
            return x + self.attention(x, x, x)[0]

    shown = collected(nn.Sequential(*(Layer() for _ in range(count))), torch.randn(2, 4, 4))
    text = shown.pop("monitor/left_out/feature_maps", None)
    assert len(shown) == 200 and (text is not None) == (count > 100)
    if text is not None:
        assert "100 of 103 layers are drawn, evenly spread; the first 100 of 103 attentions are drawn" in text.markdown


def test_what_is_not_selected_is_not_drawn():
    model = Attentive()
    shown = collected(model, torch.randn(2, 1, 8, 8), options=Capture(exclude=["*.self_attn", "net.up"]))
    assert set(shown) == {"feature_maps/net/conv", "feature_maps/layers/0"}


class OnlyTrains(nn.Linear):
    """Cannot be run for a picture."""

    def forward(self, x):
        assert self.training
        return super().forward(x)


@pytest.mark.parametrize("shown", [False, True])
def test_a_pass_that_fails_is_told_of_where_it_would_have_shown_something(shown):
    model = nn.Sequential(nn.Conv1d(1, 2, 1) if shown else nn.Identity(), OnlyTrains(4, 4))
    feature_maps = FeatureMaps(model, Capture(), None)
    feature_maps.arm(True)
    model(torch.ones(2, 1, 4))
    assert feature_maps.collect() == []
    assert (feature_maps.error is not None) == shown
