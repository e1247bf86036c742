"""Whatever the model, both graphs of it can be drawn, and TensorBoard reads them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torchvision
from graph_models import Block, ConvNet, Gates, TwoTowers, record
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.graph.keras_util import keras_model_to_graph_def
from torch import nn

from torchboard import proto
from torchboard.graph.conceptual import conceptual_graph
from torchboard.graph.nodes import Graph, ModuleCall, Node, Source, TensorSpec
from torchboard.graph.op_graph import op_graph
from torchboard.values.graph import RUN_GRAPH_TAG, OpGraph

Recorded = tuple[nn.Module, Graph]

zoo = torchvision.models
image = (torch.zeros(2, 3, 32, 32),)
MODELS: dict[str, Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...], dict[str, torch.Tensor]]]] = {
    "conv net": lambda: (ConvNet(), (torch.zeros(2, 1, 8, 8),), {}),
    "residual block": lambda: (Block(), (torch.zeros(1, 3, 4, 4),), {}),
    "two towers": lambda: (TwoTowers(), (torch.zeros(1, 4),), {"second": torch.zeros(1, 4)}),
    "gates": lambda: (Gates(), (torch.zeros(2, 4),), {}),
    "lstm": lambda: (nn.LSTM(3, 4, num_layers=2, bidirectional=True), (torch.zeros(5, 2, 3),), {}),
    "attention": lambda: (nn.MultiheadAttention(8, 2), (torch.zeros(3, 1, 8),) * 3, {}),
    "encoder": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False),
        (torch.zeros(3, 1, 8),),
        {},
    ),
    "vision transformer": lambda: (zoo.VisionTransformer(32, 8, 2, 2, 16, 32), image, {}),
    "resnet18": lambda: (zoo.resnet18(), image, {}),
    "mobilenet": lambda: (zoo.mobilenet_v3_small(), image, {}),
    "densenet": lambda: (zoo.DenseNet(4, (2, 2), 8), image, {}),
}


@pytest.fixture(scope="module", params=MODELS)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    model, args, kwargs = MODELS[request.param]()
    return model, record(model, *args, **kwargs)


def boxes(path: str) -> set[str]:
    parts = path.split("/")
    return {"/".join(parts[:depth]) for depth in range(1, len(parts))}


def test_every_node_reads_only_nodes_before_it(recorded):
    _, graph = recorded
    assert [node.id for node in graph.nodes] == list(range(len(graph.nodes)))
    assert all(source.node < node.id for node in graph.nodes for source in node.inputs)
    assert all(source.output < len(graph.nodes[source.node].outputs) for node in graph.nodes for source in node.inputs)


def test_every_output_is_reached_from_an_input(recorded):
    _, graph = recorded
    reached: set[int] = set()
    for node in graph.nodes:
        if node.kind == "input" or any(source.node in reached for source in node.inputs):
            reached.add(node.id)
    outputs = [node.id for node in graph.nodes if node.kind == "output"]
    assert outputs
    assert set(outputs) <= reached


def test_every_parameter_is_there_and_nothing_is_unknown(recorded):
    model, graph = recorded
    assert sum(node.kind == "parameter" for node in graph.nodes) == len(list(model.parameters()))
    assert not [node for node in graph.nodes if node.kind == "constant"]


def test_an_op_graph_has_unique_names_no_loose_edge_and_no_node_that_is_a_box(recorded):
    nodes = op_graph(recorded[1]).nodes
    names = {node.name for node in nodes}
    assert len(names) == len(nodes)
    assert not names & {box for name in names for box in boxes(name)}
    assert {name.partition(":")[0] for node in nodes for name in node.inputs} <= names
    assert all(node.output_shapes and node.device == "/device:CPU:0" for node in nodes)


def test_tensorboard_reads_the_op_graph(recorded):
    graph, event = op_graph(recorded[1]), proto.Event()
    graph.encode(RUN_GRAPH_TAG, event)
    assert [node.name for node in GraphDef.FromString(event.graph_def).node] == [node.name for node in graph.nodes]
    assert OpGraph.decode(event.graph_def) == graph


def test_tensorboard_reads_the_conceptual_graph_and_every_layer_is_connected(recorded):
    graph, event = conceptual_graph(*recorded), proto.Event()
    graph.encode("keras", event)
    drawn = keras_model_to_graph_def(json.loads(event.summary.value[0].tensor.string_val[0]))
    names = [node.name for node in drawn.node]
    assert len(set(names)) == len(names) == len(graph.layers)
    assert not set(names) & {box for name in names for box in boxes(name)}
    assert {name for node in drawn.node for name in node.input} <= set(names)
    before: set[str] = set()
    for layer in graph.layers:
        assert set(layer.inputs) <= before
        assert layer.inputs or layer.class_name == "InputLayer"
        before.add(layer.name)


def test_the_names_of_an_op_graph_follow_the_modules():
    names = [node.name for node in op_graph(record(zoo.resnet18(), *image)).nodes]
    assert "ResNet/layer1/0/conv1/conv2d" in names
    assert "ResNet/layer1/0/conv1/weight" in names
    assert "ResNet/layer1/0/bn1/running_mean" in names
    assert "ResNet/layer2/0/downsample/0_Conv2d/conv2d" in names


def test_an_edge_from_a_later_output_says_which():
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = x.chunk(2)
            return second - first

    nodes = {node.name: node for node in op_graph(record(Halves(), torch.zeros(4, 3))).nodes}
    assert nodes["Halves/sub"].inputs == ("Halves/chunk:1", "Halves/chunk")
    assert nodes["Halves/chunk"].output_shapes == ((2, 3), (2, 3))


def test_devices_and_constants_are_what_the_dashboard_knows():
    spec = TensorSpec(None, "float32", "cuda:1")
    graph = Graph(
        "Net", (Node(0, "constant", "mask", outputs=(spec,)), Node(1, "op", "f", ("Net",), "", (Source(0, 0),))), ()
    )
    constant, function = op_graph(graph).nodes
    assert (constant.op, constant.device, constant.output_shapes) == ("Const", "/device:GPU:1", (None,))
    assert (function.device, function.inputs) == ("", ("mask",))


def test_a_long_chain_is_divided_so_that_a_browser_can_lay_it_out():
    spec = (TensorSpec((1,), "float32", "cpu"),)
    chain = [Node(i, "op", "add", ("Net",), "", (Source(i - 1, 0),) if i else (), spec) for i in range(3000)]
    nodes = op_graph(Graph("Net", tuple(chain), (ModuleCall(("Net",), ""),))).nodes
    siblings = Counter(parent for node in nodes for parent in [node.name.rpartition("/")[0]])
    assert max(siblings.values()) <= 200
    assert nodes[-1].name.startswith("Net/part_29/")


def test_the_layers_of_a_residual_block():
    model = Block()
    graph = conceptual_graph(model, record(model, torch.zeros(1, 3, 4, 4)))
    assert graph.name == "Block"
    assert [(layer.name, layer.inputs) for layer in graph.layers] == [
        ("x", ()),
        ("conv1", ("x",)),
        ("relu", ("conv1",)),
        ("conv2", ("relu",)),
        ("add_", ("conv2", "x")),
        ("relu_1", ("add_",)),
    ]
    assert [layer.class_name for layer in graph.layers] == [
        "InputLayer",
        "Conv2d(3, 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)",
        "ReLU(inplace=True)",
        "Conv2d(3, 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)",
        "add_",
        "ReLU(inplace=True)",
    ]
    assert {layer.dtype for layer in graph.layers} == {"float32"}


def test_what_a_module_prints_of_itself_is_cut_to_short_ascii():
    class Umlaut(nn.Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

        def extra_repr(self) -> str:
            return "größe\n" + "x" * 200

    class Broken(Umlaut):
        def extra_repr(self) -> str:
            raise KeyError

    model = nn.Sequential(Umlaut(), Broken())
    first, second = conceptual_graph(model, record(model, torch.zeros(1))).layers[1:]
    assert first.class_name.startswith("Umlaut(gr??e xxx")
    assert len(first.class_name) == 120
    assert second.class_name == "Broken"


def test_masks_and_counters_are_no_layers():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            x.sum()
            return self.fc(x) * torch.ones(4, 4).tril()

    model = Masked()
    graph = conceptual_graph(model, record(model, torch.zeros(4, 4)))
    assert [layer.name for layer in graph.layers] == ["x", "fc", "mul"]
