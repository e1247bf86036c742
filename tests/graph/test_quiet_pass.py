"""A pass of our own leaves nothing behind: not in tensors, not in modules, not in the process."""

from __future__ import annotations

import copy
import random
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

import torchboard
from torchboard.graph.quiet_pass import quiet_pass
from torchboard.graph.undone_writes import UndoneWrites

ELSEWHERE = torch.ones(3)


class Stateful(nn.Module):
    """Keeps state in every place where a model can; what is done to it in its pass is given."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 3, max_norm=0.1)
        self.fc = nn.Linear(3, 3)
        self.average = nn.Parameter(torch.zeros(3), requires_grad=False)
        self.register_buffer("count", torch.zeros(3))
        self.alias, self.part = self.count, self.count[:2]
        self.plain, self.spread = torch.zeros(3), torch.ones(3)
        self.with_graph = self.fc.weight.sum()
        self.calls, self.last = 0, None
        self.outputs, self.recent, self.seen = [torch.zeros(3)], deque(maxlen=2), set()
        self.caches = {"keys": [torch.zeros(2)], "sizes": {}}
        self.generator = torch.Generator()
        self.generators = [np.random.default_rng(0), np.random.RandomState(0), random.Random(0)]
        self.does = forward

    def forward(self, x):
        self.does(self, x)
        return self.fc(x)


def state(value: object, seen: dict[int, object]) -> object:
    """All that is in a model, and which objects hold it."""
    if id(value) in seen:
        return id(value)
    seen[id(value)] = value
    if isinstance(value, torch.Tensor):
        numbers = value.detach().tolist()
        count = None if value.is_inference() else value._version
        gradient = state(value.grad, seen) if value.is_leaf else None
        return id(value), numbers, value.data_ptr(), value.stride(), value.dtype, count, value.requires_grad, gradient
    if isinstance(value, nn.Module):
        return id(value), type(value), state(vars(value), seen)
    if isinstance(value, dict):
        return id(value), [(key, state(item, seen)) for key, item in value.items() if "_hooks" not in key]
    if isinstance(value, (list, tuple, set, deque)):
        return id(value), [state(item, seen) for item in value]
    if isinstance(value, torch.Generator):
        return id(value), value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return id(value), copy.deepcopy(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return id(value), str(value.get_state())
    if isinstance(value, random.Random):
        return id(value), value.getstate()
    return value


def everything(*values: object) -> list[object]:
    """The state of values, of what is in no module, and of the process."""
    seen: dict[int, object] = {}
    process = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
    return [*(state(value, seen) for value in (*values, ELSEWHERE)), *process, torch.is_autocast_cache_enabled()]


def learns_in_its_pass(model, x):
    with torch.enable_grad():
        model.fc(x).sum().backward()


def in_inference_mode(model, x):
    with torch.inference_mode():
        model.fc(x).relu_()
        model.plain.add_(1)
        model.average.add_(1)


def normalises_by_the_batch(model, x):
    nn.functional.batch_norm(x, model.plain, model.spread, training=True)


WRITES = {
    "renormalises words": lambda model, x: model.words(torch.tensor([1, 2])),
    "weight.data": lambda model, x: model.fc.weight.data.clamp_(-0.01, 0.01),
    "new weight.data": lambda model, x: setattr(model.fc.weight, "data", model.fc.weight.data * 2),
    "weight.data of another type": lambda model, x: setattr(model.average, "data", model.average.data.double()),
    "a frozen parameter": lambda model, x: model.average.mul_(0.9).add_(x.mean(0)),
    "a buffer": lambda model, x: model.count.add_(1),
    "overlapping parts": lambda model, x: (model.count[1:].add_(1), model.part.add_(1), model.alias.mul_(3)),
    "an index": lambda model, x: model.plain.__setitem__(slice(1, 3), x.mean()),
    "a buffer, behind torch's back": lambda model, x: model.count.numpy().fill(3),
    "an attribute": lambda model, x: model.plain.add_(1),
    "a tensor in a container": lambda model, x: model.caches["keys"][0].add_(1),
    "a tensor elsewhere": lambda model, x: ELSEWHERE.add_(1),
    "its input": lambda model, x: x.mul_(2),
    "its output": lambda model, x: torch.add(x[0], 1, out=model.plain),
    "many at once": lambda model, x: torch._foreach_add_([model.plain, model.average], 1),
    "the size": lambda model, x: model.plain.resize_(2).zero_(),
    "the shape": lambda model, x: model.plain.unsqueeze_(0),
    "statistics": normalises_by_the_batch,
    "in inference mode": in_inference_mode,
    "gradients": learns_in_its_pass,
    "gradients again": lambda model, x: (learns_in_its_pass(model, x), learns_in_its_pass(model, x)),
    "frozen by the mode": lambda model, x: model.fc.requires_grad_(model.training),
}
HOLDS = {
    "a counter": lambda model, x: setattr(model, "calls", model.calls + 1),
    "a state": lambda model, x: setattr(model, "plain", model.plain * 0.9 + x.mean(0)),
    "a new attribute": lambda model, x: setattr(model, "first", x),
    "an attribute less": lambda model, x: delattr(model, "last"),
    "a buffer in place of one": lambda model, x: setattr(model, "count", model.count + 1),
    "a new buffer": lambda model, x: model.register_buffer("mask", x > 0),
    "a new layer": lambda model, x: setattr(model, "late", nn.Linear(3, 3)),
    "a new parameter": lambda model, x: setattr(model.fc, "bias", nn.Parameter(torch.ones(3))),
    "a list": lambda model, x: model.outputs.append(x),
    "a list in its place": lambda model, x: model.outputs.__setitem__(0, x),
    "a deque": lambda model, x: model.recent.extend("abc"),
    "a set": lambda model, x: model.seen.add(len(x)),
    "dicts in a dict": lambda model, x: model.caches["sizes"].update(x=len(x)),
    "a container in a container": lambda model, x: model.caches["keys"].clear(),
    "a mode": lambda model, x: model.fc.train(),
}
DRAWS = {
    "torch": lambda model, x: torch.rand(3),
    "random": lambda model, x: random.random(),
    "numpy.random": lambda model, x: np.random.rand(),
    "torch.Generator": lambda model, x: torch.rand(3, generator=model.generator),
    "numpy.random.Generator": lambda model, x: model.generators[0].random(),
    "numpy.random.RandomState": lambda model, x: model.generators[1].rand(),
    "random.Random": lambda model, x: model.generators[2].random(),
}


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("does", [*WRITES, *HOLDS, *DRAWS])
def test_a_pass_leaves_all_as_it_was(does, raises):
    done = []

    def forward(model, x):
        present = everything(model, x)
        (WRITES | HOLDS | DRAWS)[does](model, x)
        done.append(everything(model, x) != present)
        assert not raises

    model, x = Stateful(forward), torch.randn(5, 3)
    model.words.eval()
    before = everything(model, x)
    try:
        quiet_pass(model, (x,), {})
    except AssertionError:
        pass
    assert done == [True]
    assert everything(model, x) == before


@pytest.mark.parametrize("does", WRITES)
def test_a_graph_is_the_same_whether_writes_are_undone(does):
    model, x = Stateful(WRITES[does]), torch.randn(5, 3)
    names = [node.name for node in torchboard.graph(model, x).operations.nodes]
    assert not {"clone", "detach", "_foreach_copy_"} & {*names}


def test_a_backward_pass_that_waits_finds_what_it_saved():
    model = Stateful(lambda model, x: (model.fc.weight.clamp_(-0.01, 0.01), model.count.add_(1)))
    x = torch.randn(5, 3, requires_grad=True)
    loss = (model.fc(x) * model.count).sum()
    (wanted,) = torch.autograd.grad(loss, x, retain_graph=True)
    quiet_pass(model, (torch.randn(5, 3),), {})
    loss.backward()
    assert torch.equal(x.grad, wanted)


def test_tensors_made_in_inference_mode_are_put_back():
    with torch.inference_mode():
        model, x = Stateful(in_inference_mode), torch.randn(5, 3)
    before = everything(model, x)
    quiet_pass(model, (x,), {})
    assert everything(model, x) == before


def test_weights_that_are_cast_for_the_pass_are_cast_again_for_training():
    model, x = nn.Linear(3, 3), torch.randn(2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        quiet_pass(model, (x,), {})
        model(x).sum().backward()
    assert model.weight.grad is not None


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_module_is_made_by_the_pass():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    quiet_pass(model, (torch.randn(2, 3),), {})
    assert type(model[0]) is nn.Linear and model(torch.randn(2, 3)).shape == (2, 4)


def test_what_the_pass_makes_itself_is_not_copied():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.LSTM(72, 4))
    with torch.no_grad(), UndoneWrites(None) as writes:
        model.eval()(torch.randn(2, 1, 8, 8))
    assert writes._copies == []
