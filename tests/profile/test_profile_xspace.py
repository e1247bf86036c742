"""The form that TensorBoard's profiler plugin reads."""

from __future__ import annotations

import pytest
from traces import LAYERS, ON_A_GPU, event, exported, memory

from torchboard import proto
from torchboard.profile.trace import read_trace
from torchboard.profile.xspace import xspace


def planes(data, layers=LAYERS):
    """Name of a plane -> (its stats, name of a line -> its events), an event as (name, start, duration, stats) in µs."""
    space = proto.XSpace.FromString(xspace(read_trace(data, layers), "here"))
    assert list(space.hostnames) == ["here"] and len({plane.id for plane in space.planes}) == len(space.planes)
    found = {}
    for plane in space.planes:
        lines = {}
        for line in plane.lines:
            assert line.timestamp_ns == 0
            lines[line.name] = [
                (
                    plane.event_metadata[one.metadata_id].name,
                    one.offset_ps / 1e6,
                    one.duration_ps / 1e6,
                    values(plane, one.stats),
                )
                for one in line.events
            ]
        found[plane.name] = (values(plane, plane.stats), lines)
    return found


def values(plane, stats):
    return {plane.stat_metadata[stat.metadata_id].name: getattr(stat, stat.WhichOneof("value")) for stat in stats}


def test_a_batch_is_a_step_and_an_operator_says_which_layer_it_is_of():
    host = planes(ON_A_GPU)["/host:CPU"][1]
    assert host["thread 1 (python)"][:3] == [
        ("train", 0, 100, {"step_num": 3, "_r": 1}),
        ("conv1 (Conv2d)", 10, 20, {}),
        ("aten::conv2d", 11, 18, {"tf_op": "conv1/conv2d:conv2d"}),
    ]
    assert ("ConvBackward0", 51, 28, {"tf_op": "backward/conv1/ConvBackward0:ConvBackward0"}) in host["thread 2"]
    assert ("cudaLaunchKernel", 55, 5, {"correlation_id": 31}) in host["thread 2"]


def test_times_count_from_the_beginning_which_is_told_elsewhere():
    stats, lines = planes(ON_A_GPU)["Task Environment"]
    began = 1_700_000_000_001_000_000
    assert (stats, lines) == ({"profile_start_time": began, "profile_stop_time": began + 119_000}, {})


def test_a_device_has_a_line_a_stream_whose_kernels_say_how_they_were_launched():
    stats, lines = planes(ON_A_GPU)["/device:GPU:0"]
    assert stats["gpu_device_name"] == "NVIDIA H100" and stats["core_count"] == 132 and stats["compute_cap_major"] == 9
    assert set(lines) == {"Stream #7(Compute)", "Stream #20(MemcpyOther)"}
    (name, start, duration, facts), (_, after, _, _) = lines["Stream #7(Compute)"]
    assert (name, start, duration, after) == ("sm90_conv", 20, 39, 59)  # cut where the next begins
    assert facts["tf_op"] == "conv1/conv2d:conv2d" and facts["correlation_id"] == 30
    assert facts["kernel_details"] == (
        "regs:32 static_shared:1024 dynamic_shared:0 grid:8,2,1 block:256,1,1 occ_pct:50"
    )


def test_memory_is_told_by_allocator_with_its_peak_and_what_took_it():
    events = [
        event("cpu_op", "aten::empty", 0.0, 10.0),
        memory(1.0, 512, 512),
        memory(2.0, 256, 768),
        memory(3.0, -512, 256),
        memory(4.0, -(1 << 20), -5),
    ]
    (line,) = planes(exported(events))["/host:CPU"][1].values()
    names, stats = [name for name, *_ in line], [stats for *_, stats in line[1:]]
    assert names == ["aten::empty", *["MemoryAllocation"] * 2, *["MemoryDeallocation"] * 2]
    assert [facts["peak_bytes_in_use"] for facts in stats] == [512, 768, 768, 768]
    assert [facts["bytes_allocated"] for facts in stats] == [512, 768, 256, 0]
    assert [facts["requested_bytes"] for facts in stats] == [512, 256, 512, 1 << 20]
    assert {(facts["allocator_name"], facts["tf_op"]) for facts in stats} == {("cpu", "memory/empty")}


@pytest.mark.parametrize("value", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1])
def test_an_address_of_any_size_is_kept(value):
    one = memory(1.0, 8, 8)
    one["args"]["Addr"] = value
    (line,) = planes(exported([event("cpu_op", "aten::empty", 0.0, 10.0), one]))["/host:CPU"][1].values()
    assert line[1][3]["addr"] == value % (1 << 64)


def test_events_of_a_line_nest():
    events = [
        event("cpu_op", "a", 0.0, 10.0),
        event("cpu_op", "b", 0.0, 10.002),
        event("cpu_op", "c", 9.999, 0.5),
        event("cpu_op", "d", 20.0, 1.0),
    ]
    (line,) = planes(exported(events))["/host:CPU"][1].values()
    open_until = []
    for _, start, duration, _ in line:
        while open_until and open_until[-1] <= start:
            open_until.pop()
        assert not open_until or start + duration <= open_until[-1] + 1e-9
        open_until.append(start + duration)


def test_an_empty_trace_is_an_empty_space():
    assert planes(exported([]))["/host:CPU"][1] == {}
