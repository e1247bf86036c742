"""What a pass cost: FLOPs, parameters, memory and time, node by node and layer by layer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision.models as zoo
from graph_models import Block, ConvNet, TwoTowers, ops, record
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

import torchboard
from torchboard.graph import modes
from torchboard.graph.layer_costs import LayerCost, LayerCosts, layer_costs
from torchboard.graph.op_graph import graph_profile, op_graph


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, value = self.query(x).unsqueeze(1), self.value(x).unsqueeze(1)
        return nn.functional.scaled_dot_product_attention(query, query, value) @ torch.ones(8, 3)


MODELS = {
    "a conv net": (ConvNet(), torch.zeros(2, 1, 8, 8)),
    "a residual block": (Block(), torch.zeros(1, 3, 4, 4)),
    "a ResNet": (zoo.resnet18(), torch.zeros(2, 3, 32, 32)),
    "a vision transformer": (zoo.VisionTransformer(32, 16, 2, 2, 32, 64), torch.zeros(2, 3, 32, 32)),
    "a transformer layer": (nn.TransformerEncoderLayer(8, 2, 16), torch.zeros(5, 2, 8)),
    "attention": (Attention(), torch.zeros(2, 5, 8)),
    "an LSTM": (nn.LSTM(3, 4, num_layers=2), torch.zeros(5, 2, 3)),
    "shared layers": (nn.Sequential(*[nn.Linear(4, 4)] * 3), torch.zeros(2, 4)),
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", MODELS)
def test_flops_are_those_of_the_flop_counter_in_every_mode(name, mode):
    model, x = MODELS[name]
    with mode():
        with FlopCounterMode(display=False) as counter:
            model(x)
        graph = record(model, x)
    assert sum(node.cost.flops for node in graph.nodes) == counter.get_total_flops()
    assert counter.get_total_flops() > 0 or name == "an LSTM"


@pytest.mark.parametrize("get_raw", [True, False])
def test_a_formula_of_the_users_own_is_asked_as_the_flop_counter_asks_it(get_raw):
    def raw(x: torch.Tensor, *args: object, out_val: torch.Tensor, **kwargs: object) -> int:
        return 3 * x.numel() + out_val.numel()

    def of_shapes(shape: torch.Size, *args: object, out_shape: torch.Size, **kwargs: object) -> int:
        return 3 * shape.numel() + out_shape.numel()

    class Flipped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.flip(x, (0,)) @ x

    operator = torch.ops.aten.flip
    register_flop_formula(operator, get_raw=get_raw)(raw if get_raw else of_shapes)
    try:
        graph = record(Flipped(), torch.zeros(4, 4))
    finally:
        del flop_registry[operator]
    assert [node.cost.flops for node in graph.nodes if node.kind == "op"] == [4 * 16, 2 * 4**3]


@pytest.mark.parametrize("name", MODELS)
def test_parameters_of_all_layers_are_those_of_the_model(name):
    model, x = MODELS[name]
    costs = layer_costs(model, record(model, x))
    assert costs.total.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert costs.total.flops == sum(layer.flops for layer in costs.layers)


def test_an_inference_pass_has_the_operations_of_any_other_pass():
    model, x = MODELS["a transformer layer"]
    with torch.inference_mode():
        inference = record(model, x)
    training = record(model, x)
    assert list(ops(inference)) == list(ops(training))
    model, x = ConvNet().eval(), torch.zeros(2, 1, 8, 8)
    with torch.inference_mode():
        inference = record(model, x)
    with torch.no_grad():
        assert [node.aten for node in record(model, x).nodes] == [node.aten for node in inference.nodes]


def test_memory_is_that_of_new_storages():
    graph = ops(record(Block(), torch.zeros(1, 3, 4, 4)))
    assert {name: node.cost.nbytes for name, node in graph.items()} == {
        "Block/conv1/conv2d": 4 * 48,
        "Block/relu/relu": 0,
        "Block/conv2/conv2d": 4 * 48,
        "Block/add_": 0,
        "Block/relu_1/relu": 0,
    }

    class Views(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = (x * 2).view(2, 4).chunk(2)
            return first.half() + second

    graph = ops(record(Views(), torch.zeros(8)))
    sizes = {"Views/mul": 32, "Views/view": 0, "Views/chunk": 0, "Views/half": 8, "Views/add": 16}
    assert {name: node.cost.nbytes for name, node in graph.items()} == sizes


class Slow(nn.Module):
    """An operator of a known duration, between layers that take next to none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.torchboard_tests.sleep(x * 2)


@pytest.fixture(scope="module")
def sleep():
    library = torch.library.Library("torchboard_tests", "DEF")
    library.define("sleep(Tensor x) -> Tensor")

    def slept(x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return x.clone()

    library.impl("sleep", slept, "CompositeExplicitAutograd")
    yield
    library._destroy()


def test_times_are_those_of_operators_one_after_the_other(sleep):
    graph = record(nn.Sequential(Slow(), nn.Linear(4, 4), Slow()), torch.zeros(2, 4))
    costs = {name: node.cost for name, node in ops(graph).items()}
    assert costs["Sequential/0/sleep"].seconds >= 0.05 <= costs["Sequential/2/sleep"].seconds
    assert costs["Sequential/2/sleep"].start >= 0.05
    end = 0.0
    for cost in costs.values():
        assert cost.start == pytest.approx(end)
        end = cost.start + cost.seconds


def test_what_the_measurement_takes_is_in_no_time(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(modes, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))

    class Ticking(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.torchboard_tests.ticks(x) * 2

    library = torch.library.Library("torchboard_tests", "FRAGMENT")
    library.define("ticks(Tensor x) -> Tensor")
    library.impl("ticks", lambda x: x + sum(next(ticks) for _ in range(5)), "CompositeExplicitAutograd")

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Ticking.apply(x)

    try:
        times = {node.name: node.cost.seconds for node in record(Net(), torch.zeros(2)).nodes if node.kind == "op"}
    finally:
        library._destroy()
    assert times["ticks"] == 5
    assert 0 < times["mul"] < 1e-6


def test_nobody_sees_how_the_measurement_is_measured():
    seen: list[str] = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with torch.device("meta"), Operators(), Functions():
        record(nn.ReLU(), torch.zeros(2))
    assert [name for name in seen if "same_size" in name or "empty" in name] == []
    assert "relu" in seen


def test_a_profile_has_the_names_of_the_graph_and_spans_that_add_up():
    graph = record(ConvNet(), torch.zeros(2, 1, 8, 8))
    profile = {stats.name: stats for stats in graph_profile(graph).nodes}
    nodes = {node.name: node for node in op_graph(graph).nodes}
    assert set(profile) == {name for name, node in nodes.items() if node.op[0].islower()}
    assert all(stats.duration >= 1 and stats.device == "/device:CPU:0" for stats in profile.values())
    seconds = sum(node.cost.seconds for node in graph.nodes)
    last = max(stats.start + stats.duration for stats in profile.values())
    assert last == pytest.approx(seconds * 1e6, abs=1.5)
    assert profile["ConvNet/conv1/conv2d"].nbytes == 4 * 2 * 4 * 64


def test_the_card_of_an_operation_tells_what_it_cost():
    nodes = {node.name: dict(node.attributes) for node in op_graph(record(ConvNet(), torch.zeros(2, 1, 8, 8))).nodes}
    card = nodes["ConvNet/conv1/conv2d"]
    assert (card["flops"], card["parameters"], card["activation_bytes"]) == ("9,216", "40", "2,048")
    assert not {"flops", "parameters"} & set(nodes["ConvNet/relu"])


def test_meta_tensors_have_flops_and_no_time():
    with torch.device("meta"):
        model, x = zoo.resnet18(), torch.zeros(2, 3, 32, 32)
    graph = record(model, x)
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert sum(node.cost.flops for node in graph.nodes) == counter.get_total_flops()
    assert sum(node.cost.seconds for node in graph.nodes) == 0
    assert {stats.duration for stats in graph_profile(graph).nodes} == {0}


def test_symbolic_sizes_are_unknown_and_stay_symbols():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    def run(call: Callable[..., Any]) -> tuple[Any, list[str]]:
        environment = ShapeEnv()
        fake = FakeTensorMode(shape_env=environment)
        context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC])
        x = fake.from_tensor(torch.zeros(6, 4), symbolic_context=context)
        with fake:
            result = call(Rows(), x)
        return result, [str(guard.expr) for guard in environment.guards]

    class Rows(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)[2:] @ x[2:, :2].mT

    graph, guards = run(record)
    assert guards == run(lambda model, x: model(x))[1]
    assert ops(graph)["Rows/linear"].outputs[0].shape == (-1, 2)
    assert op_graph(graph).nodes[-1].output_shapes == ((-1, -1),)


def test_the_table_of_layers_adds_up_and_reads_well():
    costs = torchboard.graph(ConvNet(), torch.zeros(2, 1, 8, 8)).costs
    assert [layer.name for layer in costs.layers] == ["", "conv1", "norm", "pool", "fc"]
    text = costs.markdown()
    header, rule, *rows = text.splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (header, *rows)]
    assert cells[0] == ["layer", "class", "output", "parameters", "FLOPs", "time", "activations"]
    assert cells[2][:5] == ["`conv1`", "Conv2d", "2×4×8×8", "40", "9.216 k"]
    assert cells[-1][0:5] == ["`total`", "ConvNet", "", "698", "11.78 k"]
    assert len({len(row) for row in (header, rule, *rows)}) == 1
    assert text.startswith("ConvNet: 698 parameters, 11,776 FLOPs, ")


def test_what_is_not_known_is_not_in_the_table():
    costs = layer_costs(TwoTowers(), None)
    assert costs.markdown().startswith("TwoTowers: 40 parameters, 0 FLOPs. Note: no pass has been recorded")
    assert [(layer.name, layer.parameters) for layer in costs.layers] == [("left", 20), ("right", 20)]


def test_the_table_of_a_large_model_has_a_row_a_group():
    layers = tuple(LayerCost(f"blocks.{i}.{name}", "Linear", None, 2) for i in range(120) for name in ("a", "b|`c"))
    costs = LayerCosts("Net", (*layers, LayerCost("head", "Linear", None, 1), *layers))
    rows = costs.markdown().splitlines()[4:]
    assert len(rows) == 122
    assert [cell.strip() for cell in rows[0].strip("|").split("|")][:4] == ["`blocks.0`", "", "", "8"]
    assert rows[-2].startswith("| `head`")
    assert "b__c" in LayerCosts("Net", layers[:4]).markdown()


def test_a_recording_does_not_bring_the_compiler_in():
    assert not hasattr(modes.OperatorMode.__torch_dispatch__, "__wrapped__")
