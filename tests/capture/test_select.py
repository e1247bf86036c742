"""Which layers of a large model are captured."""

from __future__ import annotations

import torch
from torch import nn

from torchboard import MemorySink, Monitor
from torchboard.capture.options import Capture
from torchboard.capture.select import layers, nearest_root, spread, tag_path


def block(width):
    return nn.ModuleDict(
        {"experts": nn.ModuleList([nn.Sequential(nn.Linear(1, 1)) for _ in range(width)]), "norm": nn.Identity()}
    )


def names(model, **options):
    return [name for name, _ in layers(model, Capture(**options))]


class Mixture(nn.Module):
    """Four blocks of many experts each."""

    def __init__(self, experts):
        super().__init__()
        self.embed = nn.Identity()
        self.blocks = nn.ModuleList([block(experts) for _ in range(4)])
        self.head = nn.Identity()


def test_a_model_within_the_bound_is_captured_whole_and_in_its_order():
    model = Mixture(3)
    assert names(model) == names(model, max_layers=None) == names(model, max_layers=100)
    assert names(model)[:3] == ["Mixture", "embed", "blocks.0.experts.0.0"]


def test_of_thousands_of_layers_those_nearest_to_the_root_are_captured():
    found = names(Mixture(1000))
    assert len(found) == 1000
    assert {"Mixture", "embed", "head", *(f"blocks.{number}.norm" for number in range(4))} < set(found)
    experts = [name for name in found if "experts" in name]
    assert {name.split(".")[1] for name in experts} == {"0", "1", "2", "3"}
    assert experts[:3] == ["blocks.0.experts.0.0", "blocks.0.experts.4.0", "blocks.0.experts.8.0"]


def test_levels_come_before_one_another_and_the_last_is_spread_evenly():
    model = Mixture(3)
    assert names(model, max_layers=1) == ["Mixture"]
    assert names(model, max_layers=5) == ["Mixture", "embed", "blocks.0.norm", "blocks.2.norm", "head"]
    assert names(model, max_layers=0) == []
    assert nearest_root([], 5) == []


def test_an_even_spread_begins_at_the_first():
    assert spread(list(range(10)), 4) == [0, 2, 5, 7] and spread([1, 2], 4) == [1, 2]


def test_what_is_left_out_is_said_in_a_text_once():
    model, sink = Mixture(3), MemorySink()
    with Monitor(model, sink=sink, capture=Capture(max_layers=5)) as monitor:
        for _ in range(2):
            monitor.log_epoch()
    ((step, text),) = sink.series("monitor/left_out/layers", "train")
    assert step == 0 and "5 of 19" in text.markdown and "max_layers" in text.markdown
    sink = MemorySink()
    with Monitor(model, sink=sink) as monitor:
        monitor.log_epoch()
    assert not sink.series("monitor/left_out/layers", "train")


class Slashed(nn.Module):
    """A layer ``a/b``, and a layer ``b`` in ``a``."""

    def __init__(self):
        super().__init__()
        self.add_module("a/b", nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
        self.a = nn.ModuleDict({"b": nn.Sequential(nn.Linear(3, 4), nn.ReLU())})

    def forward(self, x):
        return self.a["b"](self.get_submodule("a/b")(x))


def test_a_slash_in_a_name_is_told_from_one_between_names():
    model, sink = Slashed(), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink) as monitor:
        model(torch.ones(5, 2)).sum().backward()
        optimizer.step()
        monitor.log_epoch()
    for kind, sizes in {"activations": (15, 20), "activation_gradients": (15, 20)}.items():
        for layer, size in zip(("a%2Fb/0", "a/b/0"), sizes):
            ((_, value),) = sink.series(f"{kind}/{layer}")
            assert value.buckets[:, 2].sum() == size, (kind, layer)
    tags = set(sink.tags("train"))
    for layer in ("a%2Fb", "a/b"):
        expected = {f"{kind}/{layer}/0/weight" for kind in ("parameters", "gradients", "updates", "update_ratio")}
        assert expected | {f"units_dead/{layer}/1"} <= tags
    assert tag_path("a/b.c") == "a%2Fb/c" != tag_path("a.b.c")
