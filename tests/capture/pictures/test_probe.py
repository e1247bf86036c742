"""The example that pictures show, cut out of a batch."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from torchboard.capture.options import Capture
from torchboard.capture.pictures.feature_maps import FeatureMaps
from torchboard.capture.pictures.probe import Probe
from torchboard.errors import InvalidValueError


class Notes:
    """What a model notes where a pass of ours does not put it back."""

    def __init__(self):
        self.taken = []


class Takes(nn.Module):
    """Keeps what it is given, and can do so with what a function takes."""

    def __init__(self, takes=None, parts=()):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.takes, self.given = takes, Notes()

    def forward(self, *args, **kwargs):
        if self.takes is not None:
            self.takes(*args, **kwargs)
        self.given.taken.append((args, kwargs))


def example_of(*args, model=None, **kwargs):
    """What a model is given of a batch."""
    model = model or Takes()
    Probe(model, args, kwargs).run(nullcontext)
    (given,) = model.given.taken
    return given


def maps_of(model, *args, **kwargs):
    """Tag -> heading and numbers, of the example of a batch."""
    maps = FeatureMaps(model, Capture(), None)
    maps.keep(args, kwargs)
    (snapshot,) = maps.collect()
    assert maps.error is None
    return {
        tag: (sheet.heading[0], torch.tensor(numbers))
        for tag, sheet, numbers in zip(snapshot.tags, snapshot.sheets, snapshot.copy.wait())
    }


def test_the_first_example_is_cut_out_of_all_that_is_as_long_as_the_batch():
    args, kwargs = example_of(
        torch.ones(4, 3), "name", mask=torch.ones(4), table=torch.ones(7, 2), scale=torch.tensor(2.0)
    )
    assert args[0].shape == (1, 3) and args[1] == "name"
    assert {name: tuple(value.shape) for name, value in kwargs.items()} == {"mask": (1,), "table": (7, 2), "scale": ()}


def test_of_packed_sequences_the_longest_is_drawn():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, packed, weights):
            states, _ = self.lstm(packed)
            return self.head(pad_packed_sequence(states, batch_first=True)[0]) * weights[:, None, None]

    sequences = [torch.randn(length, 3) for length in (2, 7, 4)]
    packed, weights = pack_sequence(sequences, enforce_sorted=False), torch.ones(3)
    ((example, first), _) = example_of(packed, weights)
    assert torch.equal(pad_packed_sequence(example, batch_first=True)[0][0], sequences[1]) and first.shape == (1,)
    model, kept = Reads(), []
    maps = FeatureMaps(model, Capture(), None)
    maps.arm(True)
    model.lstm.register_forward_hook(lambda module, args, output: kept.append(output[0].data))
    model(packed, weights)
    (snapshot,) = maps.collect()
    assert maps.error is None and list(snapshot.plugins) == ["feature_maps/lstm"]
    assert [image.description for _, image in snapshot.settle()] == ["7 tokens (down) x 5 features (across)"]
    (drawn,) = snapshot.copy.wait()
    assert np.allclose(drawn, kept[-1].numpy()) and len(kept) == 2


class Attention(nn.Module):
    """Attends with what a mask leaves, written out."""

    def forward(self, x, mask):
        return ((x @ x.mT)[:, None] / math.sqrt(x.shape[-1]) + mask).softmax(-1)[:, 0] @ x


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()

    def forward(self, x, mask):
        return self.attention(x, mask)


def test_a_mask_as_long_as_the_batch_is_left_whole():
    x, mask = torch.randn(8, 8, 4), torch.full((8, 8), -torch.inf).triu(1)
    heading, numbers = maps_of(Masked(), x, mask)["attention/attention"]
    expected = (x[0] @ x[0].mT / 2 + mask).softmax(-1)
    assert heading == "1 heads, 8 queries (down) x 8 keys (across)" and torch.allclose(numbers[0], expected, atol=1e-6)


def test_an_encoder_with_as_many_examples_as_tokens_shows_masked_attention():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, mask = nn.TransformerEncoder(layer, 2), nn.Transformer.generate_square_subsequent_mask(8)
    drawn = maps_of(model, torch.randn(8, 8, 16), mask=mask)
    assert {"attention/layers/0/self_attn", "attention/layers/1/self_attn"} <= set(drawn)
    assert drawn["attention/layers/0/self_attn"][1][0].triu(1).abs().max() == 0


def test_a_square_that_turns_out_to_have_an_example_a_row_is_cut():
    def takes(x, padding):
        assert len(x) == len(padding)

    (x, padding), _ = example_of(torch.ones(8, 8, 4), torch.ones(8, 8), model=Takes(takes))
    assert x.shape == (1, 8, 4) and padding.shape == (1, 8)
    (x, words), _ = example_of(torch.ones(8, 8, 4), torch.ones(8, 8, dtype=torch.long))
    assert words.shape == (1, 8), "no mask is of integers as sequences of words are"


@pytest.mark.parametrize("tokens", [9, 4])
@pytest.mark.parametrize("padded", [True, False])
def test_sequence_first_models_show_the_tokens_of_one_example(tokens, padded):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x, mask = torch.randn(tokens, 4, 16), nn.Transformer.generate_square_subsequent_mask(tokens)
    named = {"src_key_padding_mask": torch.zeros(4, tokens)} if padded and tokens != 4 else {}
    drawn = maps_of(model, x, mask, **named)
    assert set(drawn) == {
        "feature_maps/layers/0",
        "feature_maps/layers/1",
        "attention/layers/0/self_attn",
        "attention/layers/1/self_attn",
    }
    heading, numbers = drawn["feature_maps/layers/1"]
    assert heading == f"{tokens} tokens (down) x 16 features (across)"
    assert torch.allclose(numbers, model.eval()(x, mask)[:, 0].detach(), atol=1e-5)


def test_a_recurrent_layer_says_which_axis_is_time():
    class Reads(nn.Module):
        def __init__(self, turned):
            super().__init__()
            self.words, self.gru, self.turned = nn.Embedding(30, 3), nn.GRU(3, 5), turned

        def forward(self, words):
            return self.gru(self.words(words).transpose(0, 1) if self.turned else self.words(words))[0]

    words = torch.randint(0, 30, (9, 4))
    for turned, expected in ((False, words[:, 0]), (True, words[0])):
        model = Reads(turned)
        heading, numbers = maps_of(model, words)["feature_maps/gru"]
        assert heading == f"{len(expected)} tokens (down) x 5 features (across)"
        assert torch.allclose(numbers, model.gru(model.words(expected))[0].detach(), atol=1e-6)


def test_blocks_that_are_sequence_first_inside_a_model_are_drawn():
    class Turns(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16)])

        def forward(self, x):
            return self.layers[0](x.transpose(0, 1))

    drawn = maps_of(Turns(), torch.randn(3, 7, 8))
    assert drawn["feature_maps/layers/0"][0] == "7 tokens (down) x 8 features (across)"
    assert "attention/layers/0/self_attn" in drawn


def test_where_no_axis_is_known_to_be_the_batch_nothing_is_drawn_and_the_reason_is_told():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 3)

        def forward(self, x):
            return self.lstm(x.flatten(2).mean(2, keepdim=True).expand(-1, -1, 4))

    maps = FeatureMaps(model := Steps(), Capture(), None)
    maps.keep((torch.randn(6, 5, 3, 8, 8),), {})
    assert maps.collect() == [] and isinstance(maps.error, InvalidValueError)
    assert "LSTM is given [1, 5, 4]: with batch_first=False that is one step of 5 examples" in str(maps.error)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Batch:
    """What a loader of the user's own may give."""

    def __init__(self, x):
        self.held = {"x": x}


@pytest.mark.parametrize("wrap", [Batch, lambda x: x])
def test_the_example_stays_the_same_though_the_batch_is_filled_anew_and_the_model_writes_into_it(wrap):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)

        def forward(self, batch):
            return self.conv((batch.held["x"] if isinstance(batch, Batch) else batch).mul_(2))

    maps = FeatureMaps(model := Reads(), Capture(), None)
    x = torch.randn(16, 1, 4, 4)
    first, given = x[:1].clone(), wrap(x)
    maps.keep((given,), {})
    x.zero_()
    for _ in range(2):
        (snapshot, *_) = maps.collect()
        (drawn,) = snapshot.copy.wait()
        assert np.allclose(drawn, model.conv(first * 2)[0].detach().numpy(), atol=1e-6)
    assert maps.error is None and not x.any()


def test_of_a_batch_that_nobody_knows_how_to_cut_layers_are_drawn_that_tell_where_it_is():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm = nn.Conv1d(8, 8, 1), nn.LSTM(8, 8)
            self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16)])

        def forward(self, batch, scale):
            assert len(scale) == len(batch.held["x"])
            x = self.embed(batch.held["x"]).permute(2, 0, 1)
            return self.lstm(self.layers[0](x))

    maps = FeatureMaps(model := Mixed(), Capture(), None)
    batch = Batch(torch.randn(5, 8, 7))
    maps.keep((batch, torch.ones(5)), {})
    snapshot, text = maps.collect()
    assert snapshot.tags == ("feature_maps/embed", "feature_maps/lstm") and len(maps.collect()) == 1
    assert snapshot.sheets[1].heading == ["7 tokens (down) x 8 features (across)"]
    assert np.allclose(snapshot.copy.wait()[0], model.embed(batch.held["x"])[0].detach().numpy(), atol=1e-6)
    ((_, value),) = text.settle()
    assert "how a `Batch` is cut into examples is not known" in value.markdown


def test_objects_that_hold_no_tensors_or_parts_of_the_model_are_no_batch():
    class Options:
        def __init__(self, model):
            self.model, self.names, self.lines = model, ["a"], (line for line in "ab")

    model, other = Takes(parts=[nn.Linear(2, 2)]), nn.Linear(2, 2)
    plain = Options(model)
    plain.lines = None
    (x, options, uncopied, module), _ = example_of(torch.ones(4, 3), plain, Options(model), other, model=model)
    assert x.shape == (1, 3) and options is not plain and options.model is model
    assert isinstance(uncopied, Options) and module is other


def test_the_pass_is_under_the_autocast_of_the_training_pass():
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.notes = nn.Conv2d(3, 4, 3).bfloat16(), Notes()

        def forward(self, x):
            self.notes.taken.append((torch.is_autocast_cache_enabled(), self.conv(x).dtype))

    model = Casts()
    maps = FeatureMaps(model, Capture(), None)
    maps.arm(True)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 8, 8))
    for _ in range(2):
        (snapshot,) = maps.collect()
        assert maps.error is None and snapshot.tags == ("feature_maps/conv",)
    assert model.notes.taken == [(True, torch.bfloat16), *[(False, torch.bfloat16)] * 2]
    assert not torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled()


def test_a_training_pass_without_autocast_has_a_pass_without_it_wherever_that_is_made():
    model = Takes(lambda x: kinds.append(torch.is_autocast_enabled("cpu")))
    kinds = []
    probe = Probe(model, (torch.ones(2, 3),), {})
    with torch.autocast("cpu", torch.bfloat16):
        probe.run(nullcontext)
    assert kinds == [False]


def test_an_input_without_a_batch_is_told_to_be_cut_and_can_be_given():
    model, x = nn.Sequential(nn.Conv2d(3, 5, 3)), torch.randn(3, 16, 16)
    maps = FeatureMaps(model, Capture(), None)
    maps.keep((x,), {})
    assert maps.collect() == [] and isinstance(maps.error.__cause__, RuntimeError)
    told = "the first example, cut out of the first training batch ([1, 16, 16]): the model cannot run on that"
    assert told in str(maps.error) and "to have 3 channels" in str(maps.error)
    assert str(maps.error).endswith("give one input of the model, a tensor, as feature_maps, or False.")
    maps = FeatureMaps(model, Capture(), x)
    (snapshot,) = maps.collect()
    assert maps.error is None and snapshot.sheets[0].heading == ["5 channels, 14 x 14"]
