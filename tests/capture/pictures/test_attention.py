"""Where attention looks, whatever it is called."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from torchboard.capture.options import Capture
from torchboard.capture.pictures.feature_maps import FeatureMaps


class Attention(nn.Module):
    """Four heads, with a function of (query, key, value) that attends."""

    def __init__(self, attend, heads=4, groups=4):
        super().__init__()
        self.q = nn.Linear(32, 32)
        self.k = nn.Linear(32, 32 * groups // heads)
        self.attend = attend
        self.heads, self.groups = heads, groups

    def project(self, x):
        split = [(self.q, self.heads), (self.k, self.groups)]
        return [layer(x).unflatten(-1, (count, -1)).transpose(1, 2) for layer, count in split]

    def forward(self, x):
        query, key = self.project(x)
        return self.attend(query, key, key).transpose(1, 2).flatten(2)


def written_out(query, key, value, mask=None):
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    return (scores if mask is None else scores + mask).softmax(-1) @ value


def attention_of(model, x):
    """The drawing and the numbers of the one attention in a pass."""
    maps = FeatureMaps(model, Capture(), x)
    (snapshot,) = maps.collect()
    assert maps.error is None
    (place,) = [place for place, tag in enumerate(snapshot.tags) if tag.startswith("attention/")]
    return snapshot.sheets[place], torch.tensor(snapshot.copy.wait()[place])


MASK = torch.zeros(9, 9).masked_fill(torch.rand(9, 9, generator=torch.Generator().manual_seed(0)) < 0.3, -torch.inf)
KEEP = MASK == 0


@pytest.mark.parametrize(
    ("attend", "mask"),
    [
        (written_out, 0.0),
        (functional.scaled_dot_product_attention, 0.0),
        (lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True), "causal"),
        (lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, attn_mask=MASK), MASK),
        (lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, attn_mask=KEEP[None, None]), MASK),
        (lambda q, k, v: written_out(q, k, v, MASK), MASK),
        (lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(8)), 0.0),
    ],
)
def test_the_weights_are_those_that_the_layer_attends_with(attend, mask):
    torch.manual_seed(1)
    model = nn.Sequential(Attention(attend))
    x = torch.randn(1, 9, 32)
    heads, weights = attention_of(model, x)
    query, key = model[0].project(x)
    mask = torch.full((9, 9), -torch.inf).triu(1) if isinstance(mask, str) else mask
    expected = (query @ key.mT / math.sqrt(8) + mask).softmax(-1)[0].nan_to_num()
    assert torch.allclose(weights, expected, atol=1e-6)
    assert heads.heading == ["4 heads, 9 queries (down) x 9 keys (across)"]


def test_heads_that_share_keys_have_each_their_own_weights():
    def attend(query, key, value):
        return functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)

    model = nn.Sequential(Attention(attend, heads=4, groups=2))
    x = torch.randn(1, 5, 32)
    query, key = model[0].project(x)
    expected = (query @ key.repeat_interleave(2, 1).mT / math.sqrt(8)).softmax(-1)[0]
    assert torch.allclose(attention_of(model, x)[1], expected, atol=1e-6)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_is_seen_whether_it_returns_weights_or_not(need_weights):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.mix(x, x, x, need_weights=need_weights)[0]

    model, x = Model().eval(), torch.randn(1, 6, 8)
    expected = model.mix(x, x, x, need_weights=True, average_attn_weights=False)[1][0]
    assert torch.allclose(attention_of(model, x)[1], expected, atol=1e-6)


def test_long_attention_is_a_sample_of_queries_and_sums_over_keys():
    model = nn.Sequential(Attention(functional.scaled_dot_product_attention, heads=32, groups=32))
    x = torch.randn(1, 300, 32)
    heads, weights = attention_of(model, x)
    assert weights.shape == (16, 100, 100) and torch.allclose(weights.sum(-1), torch.ones(16, 100), atol=1e-5)
    query, key = model[0].project(x)
    expected = (query @ key.mT).softmax(-1)[0]
    assert torch.allclose(weights[3, 7, 2], expected[3, 21, 6:9].sum(), atol=1e-6)
    assert heads.heading == [
        "the first 16 of 32 heads, 300 queries (down) x 300 keys (across)",
        "every 3rd query",
        "a pixel is the sum over 3 keys",
    ]


def test_attention_written_out_is_sampled_alike():
    x = torch.randn(1, 300, 32)
    fused = nn.Sequential(Attention(functional.scaled_dot_product_attention))
    plain = nn.Sequential(Attention(written_out))
    plain.load_state_dict(fused.state_dict())
    assert torch.allclose(attention_of(fused, x)[1], attention_of(plain, x)[1], atol=1e-6)


def test_the_first_of_several_windows_is_drawn_and_said():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = Attention(functional.scaled_dot_product_attention)

        def forward(self, x):
            return self.attention(x.reshape(4, 5, 32))

    heads, weights = attention_of(Windows(), torch.randn(1, 20, 32))
    assert weights.shape == (4, 5, 5) and heads.heading[0].endswith("the first window")


def test_two_attentions_of_one_layer_have_tags_of_their_own_and_no_other_softmax_counts():
    class TwiceAttention(Attention):
        def forward(self, x):
            return super().forward(super().forward(x))

    model = nn.Sequential(TwiceAttention(functional.scaled_dot_product_attention), nn.Softmax(-1))
    maps = FeatureMaps(model, Capture(), torch.randn(1, 5, 32))
    (snapshot,) = maps.collect()
    assert snapshot.tags == ("attention/0", "attention/0.2", "feature_maps/0")


def test_an_encoder_that_would_take_its_fused_way_shows_its_attention():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    (snapshot,) = FeatureMaps(model, Capture(), torch.randn(1, 5, 8)).collect()
    assert sorted(snapshot.tags) == [
        "attention/0/layers/0/self_attn",
        "attention/0/layers/1/self_attn",
        "feature_maps/0",
        "feature_maps/0/layers/0",
        "feature_maps/0/layers/1",
    ]
