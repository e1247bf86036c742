"""Gradients in captured steps that stay compiled: whose they are, and what runs in the backward pass."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import InitVar, dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from compiled_jobs import elements
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from torchboard import Capture, MemorySink, Monitor
from torchboard.capture.compiled.checks import NEEDED_TORCH
from torchboard.errors import TorchboardWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),  # torch's own, of a compiled layer
    pytest.mark.skipif(torch.__version__ < NEEDED_TORCH, reason="refused with this torch"),
]


class Features(nn.Module):
    """Returns what a layer of its own returned, and what it makes of that."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.layer(x)
        return y, (y * 100).tanh()


class Encoder(nn.Module):
    """Returns its last state in two places, and a state that it uses itself."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        state = self.first(x).tanh()
        last = self.second(state).tanh()
        return last, {"states": [state, last]}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.encoder = Features(), Encoder()
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Identity())
        self.twice, self.inner = nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y, z = self.features(x)
        last, _ = self.encoder(self.blocks(z).relu_() + 1e-3 * y)
        once = self.twice(last)
        return self.head(once.relu_() + self.twice[0](once) + self.inner(last))


def gradients(way, call="model"):
    """Tag -> histogram of each epoch, of all gradients of outputs; and the graphs that were compiled."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, sink, backend = Net(), MemorySink(), CompileCounterWithBackend("aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, capture=Capture(every=1, compiled=way), write_graph=False) as monitor:
        for part in [model] if call == "model" else model.children():
            part.compile(backend=backend, fullgraph=True)
        for _ in range(2):
            for _ in range(2):
                optimizer.zero_grad()
                for _ in range(2):
                    model(torch.randn(3, 4)).square().sum().backward()
                optimizer.step()
            monitor.log_epoch()
    tags = [tag for tag in sink.tags("train") if tag.startswith("activation_gradients/")]
    found = {tag: [value.buckets.tolist() for _, value in sink.series(tag, "train")] for tag in tags}
    return found, elements(sink, "activation_gradients")


OWN = "activation_gradients/encoder.1.states.0"


@pytest.mark.parametrize("call", ["model", "children"])
def test_what_a_layer_hands_on_has_the_whole_gradient(call):
    eager, _ = gradients("eager", call)
    with pytest.warns(TorchboardWarning) as told:
        compiled, counted = gradients("graph", call)
    (text,) = {str(warning.message) for warning in told if warning.category is TorchboardWarning}
    assert f"no gradient came to 1 outputs ({OWN}) from outside of their layers" in text
    assert "give compiled='eager'" in text and "make the monitor" not in text
    assert len(eager.pop(OWN)) == 2 and len(compiled.pop(OWN)) == 1, (
        "which the layer uses itself: in the eager step alone"
    )
    assert eager == compiled
    assert counted["features.0"] == counted["features/layer"] == counted["encoder.1.states.1"] == [2 * 2 * 12] * 2


@pytest.mark.parametrize("has_eager_layer", [False, True])
def test_a_compiled_function_that_calls_backward_compiles_nothing_of_ours(has_eager_layer):
    breaks, sink = [], MemorySink()
    for is_watched in (False, True):
        torch._dynamo.reset()
        counters.clear()
        model, backend = (
            nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)),
            CompileCounterWithBackend("aot_eager"),
        )
        if has_eager_layer:
            model[1].forward = torch.compiler.disable(model[1].forward)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        capture = Capture(every=2, compiled="graph")
        monitor = Monitor(model, sink=sink, capture=capture, feature_maps=False) if is_watched else None
        step = torch.compile(lambda x, call=model: call(x).square().sum().backward(), backend=backend)
        for _ in range(4):
            optimizer.zero_grad()
            step(torch.randn(3, 4))
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()
        if monitor:
            monitor.log_epoch()
            monitor.close()
        breaks.append({reason.partition("\n")[0]: count for reason, count in counters["graph_break"].items()})
    bare, watched = breaks
    assert watched.keys() == bare.keys() and all(watched[reason] <= 2 * bare[reason] for reason in bare)
    assert elements(sink, "activation_gradients")["1"] == [2 * 12] and sink.series(
        "gradient_norm_before_clipping", "train"
    )


@dataclass
class Doubled:
    """Its constructor changes what it is given, and not all of it are fields."""

    state: torch.Tensor
    factor: InitVar[float]
    later: Any = field(init=False, default=None)

    def __post_init__(self, factor):
        self.state, self.factor = self.state * 2, factor


@dataclass(frozen=True, slots=True)
class Frozen:
    state: torch.Tensor


class Pair(tuple):
    def __new__(cls, first):
        return super().__new__(cls, (first, first * 2))


class Named(NamedTuple):
    state: torch.Tensor
    more: list


@dataclass
class Items(OrderedDict):
    """What the libraries that have such outputs do in a base."""

    state: torch.Tensor

    def __post_init__(self):
        self.state = self.state * 2
        self["state"] = self.state


def doubled(x):
    made = Doubled(x, 0.5)
    made.later, made.beside = made.state + 1, x * 3
    return made


FORMS = {
    "dataclass": (doubled, lambda made: made.state * made.factor + made.later + made.beside),
    "frozen": (lambda x: Frozen(x * 2), lambda made: made.state),
    "tuple": (Pair, lambda made: made[0] + made[1]),
    "named": (lambda x: Named(x * 2, [x * 3]), lambda made: made.state + made.more[0]),
    "ordered": (lambda x: OrderedDict(state=x * 2, more=(x * 3,)), lambda made: made["state"] + made["more"][0]),
    "torch": (lambda x: x.unsqueeze(0).max(0), lambda made: made.values),
    "mapping": (lambda x: Items(x * 2), lambda made: made["state"] + made.state),
    "default": (lambda x: defaultdict(list, state=x * 2), lambda made: made["state"]),
}
UNTOUCHED = "activation_gradients/default.state", "activation_gradients/mapping.state"


class Form(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def forms(way):
    """The gradients of outputs of all these forms, and the weights that the training ends with."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.ModuleDict({name: Form(make) for name, (make, _) in FORMS.items()} | {"first": nn.Linear(4, 4)})

    def run(x):
        for name, (_, use) in FORMS.items():
            x = use(model[name](model["first"](x).tanh()))
        return x

    call = torch.compile(run, backend="eager", fullgraph=True)
    optimizer, sink = torch.optim.SGD(model.parameters(), 0.01), MemorySink()
    monitor = Monitor(model, sink=sink, capture=Capture(every=1, compiled=way)) if way else None
    for _ in range(4):
        optimizer.zero_grad()
        call(torch.randn(3, 4)).square().mean().backward()
        optimizer.step()
    if monitor is not None:
        monitor.log_epoch()
        monitor.close()
    tags = [tag for tag in sink.tags("train") if tag.startswith(("activations/", "activation_gradients/"))]
    found = {tag: sink.series(tag, "train")[0][1].buckets.tolist() for tag in tags} if way else {}
    return found, model["first"].weight.detach()


def test_outputs_of_all_forms_are_measured_and_the_weights_are_those_of_the_bare_training():
    _, bare = forms(None)
    eager, weights = forms("eager")
    with pytest.warns(TorchboardWarning, match="a container that cannot be copied") as told:
        compiled, others = forms("graph")
    (text,) = {str(warning.message) for warning in told if warning.category is TorchboardWarning}
    assert f"no gradient came to 2 outputs ({', '.join(UNTOUCHED)})" in text
    assert torch.equal(weights, bare) and torch.equal(others, bare)
    for tag in UNTOUCHED:
        assert sum(row[2] for row in eager.pop(tag)) == 4 * sum(row[2] for row in compiled.pop(tag)), "the eager step"
    used_within = "activation_gradients/tuple.0", "activation_gradients/dataclass.state"
    assert {tag for tag in eager if eager[tag] != compiled[tag]} == {*used_within}
    assert all(sum(row[2] for row in compiled[tag]) == 4 * 12 for tag in used_within)


class Keeper(nn.Module):
    """Returns, beside a tensor with a gradient, a container of its own, which holds none."""

    def __init__(self):
        super().__init__()
        self.kept = {"calls": 0, "state": [torch.zeros(())]}

    def forward(self, x):
        return x * 2, self.kept


def test_a_container_without_gradients_is_handed_on_itself():
    torch._dynamo.reset()
    model = nn.ModuleDict({"keeper": Keeper(), "layer": nn.Linear(4, 4)})

    def run(x):
        x, kept = model["keeper"](model["layer"](x))
        kept["calls"] += 1
        kept["state"][0] = kept["state"][0] + 1
        return x

    call, optimizer = torch.compile(run, backend="eager", fullgraph=True), torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=MemorySink(), capture=Capture(every=1, compiled="graph"), write_graph=False):
        for _ in range(4):
            call(torch.randn(3, 4)).square().sum().backward()
            optimizer.step()
    assert model["keeper"].kept == {"calls": 4, "state": [4]}
