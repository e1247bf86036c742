"""What a graph cost is read back as it was written, by us and by TensorBoard."""

from __future__ import annotations

from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.event_pb2 import Event as TensorBoardEvent

from torchboard.values import Event, GraphProfile, encode
from torchboard.values.graph_profile import NodeStats

PROFILE = GraphProfile(
    (
        NodeStats("Net/fc/linear", "/device:CPU:0", 0, 40, 512),
        NodeStats("Net/relu", "/device:CPU:0", 40, 3),
        NodeStats("Net/add", "/device:GPU:1", 43, 0, 64),
    )
)


def as_tensorboard_reads_it() -> RunMetadata:
    (message,) = encode(Event(4, 1.5, (("step1", PROFILE),)))
    event = TensorBoardEvent.FromString(message.SerializeToString())
    assert (event.step, event.tagged_run_metadata.tag) == (4, "step1")
    return RunMetadata.FromString(event.tagged_run_metadata.run_metadata)


def test_a_profile_takes_an_event_of_its_own_with_one_entry_a_device():
    devices = as_tensorboard_reads_it().step_stats.dev_stats
    assert [(device.device, [stats.node_name for stats in device.node_stats]) for device in devices] == [
        ("/device:CPU:0", ["Net/fc/linear", "Net/relu"]),
        ("/device:GPU:1", ["Net/add"]),
    ]


def test_no_node_starts_at_zero_which_would_turn_the_time_of_every_box_into_nan():
    stats = [entry for device in as_tensorboard_reads_it().step_stats.dev_stats for entry in device.node_stats]
    assert [(entry.all_start_micros, entry.all_end_rel_micros) for entry in stats] == [(1, 40), (41, 3), (44, 0)]
    assert [[memory.total_bytes for memory in entry.memory] for entry in stats] == [[512], [], [64]]


def test_a_profile_is_read_back():
    assert GraphProfile.decode(as_tensorboard_reads_it().SerializeToString()) == PROFILE
    assert GraphProfile.decode(b"") == GraphProfile(())
    assert PROFILE.nbytes > 0
