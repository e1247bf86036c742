"""A graph without training, of good models and of bad ones."""

from __future__ import annotations

import pytest
import torch
from graph_models import ConvNet, Fragile, record
from torch import nn

import torchboard
from torchboard import MemorySink, errors
from torchboard.graph.collapse import drawable
from torchboard.graph.nodes import Graph, ModuleCall, Node, Source, TensorSpec
from torchboard.graph.op_graph import graph_profile, op_graph
from torchboard.graph.recorded import RecordedGraph
from torchboard.values import Event


def written(graph: RecordedGraph) -> dict[str, object]:
    """Tag -> value of what the graph gives a run, as its thread would settle it."""
    values = dict(graph.settle())
    assert {tag: value.plugin for tag, value in values.items()} == graph.plugins
    assert graph.nbytes >= 0
    MemorySink().write(Event(0, 0.0, tuple(values.items())))
    return values


def test_a_graph_is_an_object_that_prints_as_a_table_and_leaves_the_model_alone():
    model, x = ConvNet(), torch.rand(2, 1, 8, 8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    graph = torchboard.graph(model, image=x)
    assert [node.name for node in graph.operations.nodes if node.kind == "input"] == ["image"]
    assert "dropout" not in {node.name for node in graph.operations.nodes}
    assert graph.layers.name == "ConvNet"
    assert str(graph) == graph.costs.markdown()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training and not module._forward_hooks for module in model.modules())


def test_a_graph_gives_operations_their_costs_the_layers_and_the_table():
    values = written(torchboard.graph(ConvNet(), torch.rand(2, 1, 8, 8)))
    assert list(values) == ["__run_graph__", "step1", "model", "run/layers"]
    named = {node.name for node in values["__run_graph__"].nodes}
    assert {stats.name for stats in values["step1"].nodes} <= named
    assert "`conv1`" in values["run/layers"].markdown


def test_a_writer_takes_a_graph_in_place_of_a_model(tmp_path):
    graph = torchboard.graph(nn.Linear(3, 4), torch.rand(2, 3))
    with torchboard.SummaryWriter(tmp_path) as writer:
        writer.add_graph(graph)
    run = torchboard.read(tmp_path)
    assert run.graphs().values == [op_graph(graph.operations)]
    assert run.values("step1").values == [graph_profile(graph.operations)]
    assert run.texts("run/layers").values[0].markdown == str(graph)


def test_a_model_that_raises_half_way_gives_its_own_error_and_what_ran_is_drawn(tmp_path):
    model = Fragile()
    model.failure = ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        torchboard.graph(model, torch.zeros(1, 4))
    with torchboard.SummaryWriter(tmp_path) as writer, pytest.raises(ZeroDivisionError):
        writer.add_graph(model, torch.zeros(1, 4))
    run = torchboard.read(tmp_path)
    assert "Fragile/fc/linear" in {node.name for node in run.graphs().values[0].nodes}
    assert "the pass raised ZeroDivisionError" in run.texts("run/layers").values[0].markdown


class Odd(nn.Module):
    """Gives what it is told to."""

    def __init__(self, result: object) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.result = result

    def forward(self, x: torch.Tensor | None = None) -> object:
        self.fc(torch.ones(2, 4) if x is None else x)
        return self.result


@pytest.mark.parametrize("result", [None, 3, "text", {"a": None}, []])
def test_a_model_may_return_no_tensor_and_take_no_input(result):
    for inputs in ((), (torch.zeros(1, 4),)):
        values = written(torchboard.graph(Odd(result), *inputs))
        assert "Odd/fc/linear" in {node.name for node in values["__run_graph__"].nodes}
        assert [layer.name for layer in values["model"].layers if layer.class_name != "InputLayer"] == ["fc"]


def test_a_model_that_does_nothing_gives_what_there_is():
    class Nothing(nn.Module):
        def forward(self) -> None:
            return None

    values = written(torchboard.graph(Nothing()))
    assert list(values) == ["run/layers"]
    assert list(written(torchboard.graph(nn.Identity(), torch.zeros(1)))) == [
        "__run_graph__",
        "step1",
        "model",
        "run/layers",
    ]


def test_what_is_no_module_is_refused():
    with pytest.raises(errors.InvalidValueError, match="a graph is a module's"):
        torchboard.graph("model", torch.zeros(1))


def long_graph(count: int, modules: int) -> Graph:
    """A chain of operations in turn in several modules of one box, each reading the one before and a weight."""
    spec = (TensorSpec((1,), "float32", "cpu"),)
    nodes = [Node(0, "input", "x", outputs=spec)]
    for i in range(count):
        scope = ("Net", "blocks", str(i * modules // count))
        weight = Node(len(nodes), "parameter", "w", scope, "m", (), spec)
        reads = (Source(len(nodes) - 1, 0), Source(len(nodes), 0))
        nodes += [weight, Node(len(nodes) + 1, "op", "add", (*scope, "inner"), "m", reads, spec)]
    return Graph("Net", tuple(nodes), (ModuleCall(("Net",), ""),))


def test_a_graph_too_large_to_draw_is_collapsed_to_its_modules():
    graph = long_graph(3000, 10)
    assert drawable(graph, 6001) is graph
    small = drawable(graph, 100)
    assert [node.name for node in small.nodes[1:]] == ["inner"] * 10
    assert [dict(node.attributes)["operations"] for node in small.nodes[1:]] == ["300"] * 10
    assert [node.inputs for node in small.nodes] == [(), *[(Source(i, 0),) for i in range(10)]]
    assert "6,001 nodes are too many to draw" in small.note
    assert [node.id for node in small.nodes] == list(range(11))
    smallest = drawable(graph, 5)
    assert [node.name for node in smallest.nodes] == ["x", "blocks"]
    assert drawable(graph, 0).nodes[-1].name == "operations"


def test_a_graph_with_very_many_blocks_that_look_alike_is_collapsed_too():
    def blocks(count: int) -> Graph:
        spec = (TensorSpec((1,), "float32", "cpu"),)
        places = [(("Net", str(i // 2), str(i % 2)), i) for i in range(2 * count)]
        nodes = [Node(i, "op", "mul", scope, "m", (Source(i - 1, 0),) if i else (), spec) for scope, i in places]
        return Graph("Net", tuple(nodes), (ModuleCall(("Net",), ""),))

    assert drawable(blocks(700)).nodes == blocks(700).nodes
    small = drawable(blocks(1000))
    assert [len(node.scope) for node in small.nodes] == [1] * 1000
    assert "too many to draw" in small.note
    assert [node.inputs for node in small.nodes] == [(), *[(Source(i, 0),) for i in range(999)]]


def test_a_collapsed_graph_is_well_formed_and_keeps_its_costs():
    graph = record(nn.Sequential(*[ConvNet() for _ in range(1)]), torch.zeros(2, 1, 8, 8))
    small = drawable(graph, 6)
    assert len(small.nodes) <= 6
    assert all(source.node < node.id for node in small.nodes for source in node.inputs)
    assert sum(node.cost.flops for node in small.nodes) == sum(node.cost.flops for node in graph.nodes) > 0
    names = {node.name for node in op_graph(small).nodes}
    assert {name for node in op_graph(small).nodes for name in node.inputs} <= names


def test_recording_stops_at_a_number_of_nodes_and_says_so(monkeypatch):
    monkeypatch.setattr("torchboard.graph.tape.MAX_NODES", 20)

    class Long(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(100):
                x = x + 1
            return x

    graph = torchboard.graph(Long(), torch.zeros(1))
    assert 20 <= len(graph.operations.nodes) <= 24
    assert graph.operations.note == "only the first 20 nodes were recorded"
    assert "Note: only the first 20 nodes" in str(graph)
