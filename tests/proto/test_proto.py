"""Our messages are TensorBoard's: same numbers, same bytes, and compiled from the sources beside them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from tensorboard.compat.proto import config_pb2, event_pb2, graph_pb2, summary_pb2, tensor_pb2
from tensorboard.plugins.audio import plugin_data_pb2 as audio_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2 as hparams_pb2
from tensorboard.plugins.mesh import plugin_data_pb2 as mesh_pb2
from tensorboard.plugins.pr_curve import plugin_data_pb2 as pr_curve_pb2
from tensorboard.plugins.projector import projector_config_pb2

from torchboard import proto

FOLDER = Path(str(resources.files(proto)))


def test_the_compiled_set_is_what_its_sources_say(tmp_path):
    out = tmp_path / "set.binpb"
    sources = sorted(f"torchboard/proto/{path.name}" for path in FOLDER.glob("*.proto"))
    google = resources.files("grpc_tools") / "_proto"
    options = [f"-I{FOLDER.parents[1]}", f"-I{google}", "--include_imports", f"--descriptor_set_out={out}"]
    assert protoc.main(["protoc", *options, *sources]) == 0
    compiled, shipped = (
        {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(data).file}
        for data in (out.read_bytes(), (FOLDER / proto.DESCRIPTOR_SET).read_bytes())
    )
    assert compiled == shipped


PEERS = [
    event_pb2.Event,
    summary_pb2.Summary,
    summary_pb2.SummaryMetadata,
    tensor_pb2.TensorProto,
    graph_pb2.GraphDef,
    hparams_pb2.HParamsPluginData,
    projector_config_pb2.ProjectorConfig,
    audio_pb2.AudioPluginData,
    pr_curve_pb2.PrCurvePluginData,
    mesh_pb2.MeshPluginData,
    layout_pb2.Layout,
]


def fields(descriptor, seen=()):
    """Every field below a message: path -> (number, type, repeated)."""
    found = {}
    for field in descriptor.fields:
        found[field.name] = (field.number, field.type, field.is_repeated)
        if field.message_type is not None and field.message_type.name not in seen:
            deeper = fields(field.message_type, (*seen, descriptor.name, field.message_type.name))
            found |= {f"{field.name}.{name}": value for name, value in deeper.items()}
    return found


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.DESCRIPTOR.name)
def test_every_field_has_the_number_and_type_that_tensorboard_gives_it(peer):
    ours, theirs = fields(getattr(proto, peer.DESCRIPTOR.name).DESCRIPTOR), fields(peer.DESCRIPTOR)
    left_out = (
        "graph_def",
        "log_message",
        "resource_handle_val",
        "variant_val",
        "library",
        "func",
        "debug_info",
        "experimental",
    )
    assert {name: theirs.get(name) for name in ours} == {
        name: ((value[0], theirs[name][1], value[2]) if name.startswith("meta_graph") or "graph_def" in name else value)
        for name, value in ours.items()
    }
    assert [name for name in theirs if name not in ours and not any(word in name for word in left_out)] == []


def test_of_the_costs_of_a_run_we_have_a_part_with_the_same_numbers():
    ours, theirs = fields(proto.RunMetadata.DESCRIPTOR), fields(config_pb2.RunMetadata.DESCRIPTOR)
    assert "step_stats.dev_stats.node_stats.memory.total_bytes" in ours
    assert {name: theirs.get(name) for name in ours} == ours


def test_a_message_of_ours_reads_as_one_of_tensorboards():
    ours = proto.Event(wall_time=1.5, step=-7)
    ours.summary.value.add(tag="ü", simple_value=0.25)
    theirs = event_pb2.Event.FromString(ours.SerializeToString())
    assert (theirs.wall_time, theirs.step, theirs.summary.value[0].tag, theirs.summary.value[0].simple_value) == (
        1.5,
        -7,
        "ü",
        0.25,
    )
