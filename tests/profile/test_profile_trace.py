"""What is read from a trace: what is part of what, and whose work it is."""

from __future__ import annotations

import json

import pytest
from traces import LAYERS, ON_A_GPU, event, exported, link, memory

from torchboard.profile.layer_times import layer_times
from torchboard.profile.trace import read_trace


def times(trace):
    """Batch -> layer -> milliseconds forward and backward."""
    return {
        batch: {layer: (took.forward, took.backward) for layer, took in layers.items()}
        for batch, layers in layer_times(trace).items()
    }


def test_a_kernel_is_work_of_the_layer_and_the_batch_that_launched_it():
    trace = read_trace(ON_A_GPU, LAYERS)
    assert [(span.name, span.layer, span.batch, span.is_backward) for span in trace.device] == [
        ("sm90_conv", "conv1", 3, False),
        ("Memcpy HtoD", None, None, False),
        ("sm90_conv_back", "conv1", 3, True),
    ]
    assert times(trace) == {3: {"conv1": (0.04, 0.06)}}
    assert trace.began == 1_700_000_000_000_000_000 + 1_000_000 and trace.duration == 119_000


def test_memory_is_of_a_device_and_of_what_ran_on_the_thread():
    trace = read_trace(ON_A_GPU, LAYERS)
    taken, given = trace.allocations
    assert (taken.device, taken.nbytes, taken.allocated, taken.reserved, taken.time) == (
        "cuda:0",
        512,
        512,
        4096,
        16_000,
    )
    assert taken.span.name == given.span.name == "cudaLaunchKernel" and given.nbytes == -512


def test_without_a_device_the_operators_of_a_layer_count_without_the_layers_inside_it():
    events = [
        event("user_annotation", "ProfilerStep#1", 0.0, 1000.0),
        event("user_annotation", "head (Linear)", 10.0, 100.0),
        event("cpu_op", "Checkpoint", 20.0, 80.0),
        event("user_annotation", "conv1 (Conv2d)", 30.0, 50.0),
        event("cpu_op", "aten::conv2d", 31.0, 40.0),
        event("cpu_op", "aten::empty", 32.0, 1.0),
        event("cpu_op", "aten::add", 200.0, 5.0),
    ]
    assert times(read_trace(exported(events), LAYERS)) == {1: {"head": (0.03, 0.0), "conv1": (0.04, 0.0)}}


def test_what_a_checkpoint_computes_again_is_part_of_the_way_back_over_the_layer():
    events = [
        event("user_annotation", "ProfilerStep#1", 0.0, 1000.0),
        event("cpu_op", "checkpoint", 5.0, 5.0),
        event("cpu_op", "CheckpointBackward", 100.0, 80.0),
        event("user_annotation", "conv1 (Conv2d)", 110.0, 50.0),
        event("cpu_op", "aten::conv2d", 111.0, 40.0),
        *link(1, (1, 1, 5.0), (1, 1, 100.0)),
    ]
    assert times(read_trace(exported(events), LAYERS)) == {1: {"conv1": (0.0, 0.04)}}


def test_batches_are_told_by_when_their_work_began_on_any_thread():
    events = [
        event("user_annotation", "ProfilerStep#4", 0.0, 100.0),
        event("user_annotation", "ProfilerStep#5", 101.0, 100.0),
        *(event("user_annotation", "head (Linear)", start, 20.0, (1, 9)) for start in (50.0, 150.0, 300.0)),
        *(event("cpu_op", "aten::mm", start, 10.0, (1, 9)) for start in (51.0, 151.0, 301.0)),
    ]
    assert times(read_trace(exported(events), LAYERS)) == {4: {"head": (0.01, 0.0)}, 5: {"head": (0.01, 0.0)}}


def test_a_span_ends_with_what_it_is_inside_of_and_begins_when_that_has_begun():
    events = [
        event("cpu_op", "outer", 0.0, 10.0),
        event("cpu_op", "inner", 2.0, 8.001),
        event("cpu_op", "next", 10.0, 1.0),
    ]
    outer, inner, after = read_trace(exported(events), {}).host
    assert (inner.parent, inner.end) == (outer, outer.end) and after.parent is None


def test_what_the_trace_says_besides_is_left_out():
    odd = [
        {"ph": "X", "cat": "Trace", "name": "PyTorch Profiler (0)", "pid": "Spans", "tid": "a", "ts": 0.0, "dur": 5.0},
        {"ph": "i", "name": "Iteration Start", "pid": "Traces", "tid": "b", "ts": 0.0},
        *link(3, (1, 1, 5.0), (1, 1, 7.0))[1:],
        memory(4.0, 8, 8, place=(5, 5)),
    ]
    trace = read_trace(exported(odd), {})
    assert (trace.host, trace.device, trace.duration) == ((), (), 0)
    assert trace.allocations[0].span is None and trace.allocations[0].device == "cpu"


@pytest.mark.parametrize("missing", ["baseTimeNanoseconds", "deviceProperties"])
def test_a_trace_of_an_older_profiler_is_read_too(missing):
    content = json.loads(ON_A_GPU)
    del content[missing]
    assert times(read_trace(json.dumps(content).encode(), LAYERS)) == {3: {"conv1": (0.04, 0.06)}}
