"""Graph values read back as they were written, by us and by TensorBoard."""

from __future__ import annotations

import json

import pytest
from tensorboard.compat.proto.event_pb2 import Event as TensorBoardEvent
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.graph.keras_util import keras_model_to_graph_def

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.graph import RUN_GRAPH_TAG, ConceptualGraph, ConceptualLayer, OpGraph, OpNode

OPS = OpGraph(
    (
        OpNode("x", "Placeholder", output_shapes=((-1, 3),)),
        OpNode(
            "Net/split",
            "split",
            ("x",),
            "/device:GPU:1",
            ((2, 3), (), None),
            (("aten", "split"), ("dim", "1"), ("note", "größer {\n}")),
        ),
        OpNode("Net/add", "add", ("Net/split", "Net/split:1", "^x"), "/device:CPU:0"),
    )
)

LAYERS = ConceptualGraph(
    "Net",
    (
        ConceptualLayer("x", "InputLayer", "float32"),
        ConceptualLayer("features/0", "Conv2d(3, 4)", "float32", ("x",)),
        ConceptualLayer("features/1", "Mask"),
        ConceptualLayer("add", "add", "bfloat16", ("features/0", "features/1", "x")),
    ),
)


def test_an_op_graph_survives_the_round_trip():
    event = proto.Event()
    OPS.encode(RUN_GRAPH_TAG, event)
    assert OpGraph.decode(event.graph_def) == OPS


def test_tensorboard_reads_an_op_graph_with_shapes_devices_and_edges():
    event = proto.Event()
    OPS.encode(RUN_GRAPH_TAG, event)
    graph = GraphDef.FromString(TensorBoardEvent.FromString(event.SerializeToString()).graph_def)
    split = graph.node[1]
    assert graph.versions.producer == 22
    assert [node.name for node in graph.node] == ["x", "Net/split", "Net/add"]
    assert (split.op, list(split.input), split.device) == ("split", ["x"], "/device:GPU:1")
    shapes = split.attr["_output_shapes"].list.shape
    assert [[dim.size for dim in shape.dim] for shape in shapes] == [[2, 3], [], []]
    assert [shape.unknown_rank for shape in shapes] == [False, False, True]
    assert split.attr["dim"].s == b"1"
    assert list(graph.node[2].input) == ["Net/split", "Net/split:1", "^x"]


def test_an_op_graph_is_the_same_bytes_every_time():
    first, second = proto.Event(), proto.Event()
    OPS.encode(RUN_GRAPH_TAG, first)
    OpGraph.decode(first.graph_def).encode(RUN_GRAPH_TAG, second)
    assert first.graph_def == second.graph_def


def test_the_order_of_attributes_is_not_part_of_a_node():
    assert OpNode("a", "b", attributes=(("z", "1"), ("a", "2"))) == OpNode(
        "a", "b", attributes=(("a", "2"), ("z", "1"))
    )


def test_attributes_of_other_writers_come_as_text():
    graph = proto.GraphDef()
    node = graph.node.add(name="a", op="b")
    node.attr["count"].i = 3
    assert OpGraph.decode(graph.SerializeToString()).nodes[0].attributes == (("count", "i: 3"),)


def test_a_conceptual_graph_survives_the_round_trip():
    event = proto.Event()
    LAYERS.encode("keras", event)
    assert ConceptualGraph.decode(event.summary.value[0]) == LAYERS


def test_a_conceptual_graph_is_the_blob_that_the_plugin_wants():
    event = proto.Event()
    LAYERS.encode("keras", event)
    value = event.summary.value[0]
    assert value.tag == "keras"
    assert value.metadata.plugin_data.plugin_name == "graph_keras_model"
    assert value.metadata.plugin_data.content == b"1"
    assert value.metadata.data_class == proto.DataClass["DATA_CLASS_BLOB_SEQUENCE"].number
    assert value.tensor.dtype == proto.DataType["DT_STRING"].number
    assert [dim.size for dim in value.tensor.tensor_shape.dim] == [1]


def test_tensorboard_draws_a_conceptual_graph_with_its_edges():
    event = proto.Event()
    LAYERS.encode("keras", event)
    graph = keras_model_to_graph_def(json.loads(event.summary.value[0].tensor.string_val[0]))
    assert {node.name: list(node.input) for node in graph.node} == {
        "Net/x": [],
        "Net/features/0": ["Net/x"],
        "Net/features/1": [],
        "Net/add": ["Net/features/0", "Net/features/1", "Net/x"],
    }
    assert graph.node[1].attr["keras_class"].s == b"Conv2d(3, 4)"


def test_a_sequential_model_of_keras_is_read_as_a_chain():
    layers = [
        {"class_name": "Dense", "config": {"name": name, "dtype": {"config": {"name": "float32"}}}} for name in "ab"
    ]
    value = proto.Summary().value.add()
    value.tensor.string_val.append(json.dumps({"config": {"name": "s", "layers": layers}}).encode())
    assert ConceptualGraph.decode(value).layers == (
        ConceptualLayer("a", "Dense", "float32"),
        ConceptualLayer("b", "Dense", "float32", ("a",)),
    )


def test_a_class_name_that_tensorboard_cannot_read_is_refused():
    with pytest.raises(InvalidValueError, match="ASCII"):
        ConceptualLayer("a", "Größe")


def test_a_graph_without_layers_is_refused():
    with pytest.raises(InvalidValueError, match="without layers"):
        ConceptualGraph("Net", ())


def test_a_value_knows_about_how_large_it_is():
    assert OPS.nbytes > 300
    assert LAYERS.nbytes > 480
