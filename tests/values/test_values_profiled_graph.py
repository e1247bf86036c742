"""A graph with its costs under a tag, as TensorBoard reads it."""

from __future__ import annotations

from tensorboard.compat.proto.config_pb2 import RunMetadata

from torchboard import proto
from torchboard.values import KINDS, GraphProfile, OpGraph, ProfiledGraph
from torchboard.values.graph import OpNode
from torchboard.values.graph_profile import NodeStats

VALUE = ProfiledGraph(
    OpGraph((OpNode("x", "Placeholder", output_shapes=((2, 3),)), OpNode("Net/relu", "relu", ("x",)))),
    GraphProfile((NodeStats("Net/relu", "/device:CPU:0", 0, 7, 24),)),
)


def encoded(value: ProfiledGraph) -> object:
    event = proto.Event()
    value.encode("train_step", event)
    (message,) = event.summary.value
    return message


def test_tensorboard_finds_the_graph_and_the_costs_by_the_names_in_it():
    message = encoded(VALUE)
    assert (message.tag, message.metadata.plugin_data.plugin_name) == ("train_step", "graph_run_metadata")
    assert message.metadata.plugin_data.content == b"1"
    content = RunMetadata.FromString(message.tensor.string_val[0])
    (function,) = content.function_graphs
    assert [node.name for node in function.pre_optimization_graph.node] == ["x", "Net/relu"]
    (device,) = content.step_stats.dev_stats
    assert [(stats.node_name, stats.all_end_rel_micros) for stats in device.node_stats] == [("Net/relu", 7)]


def test_what_is_written_is_read_back():
    assert KINDS[ProfiledGraph.plugin].decode(encoded(VALUE)) == VALUE
    empty = ProfiledGraph(OpGraph(()), GraphProfile(()))
    assert ProfiledGraph.decode(encoded(empty)) == empty
    assert VALUE.nbytes > empty.nbytes
