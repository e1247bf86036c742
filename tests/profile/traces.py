"""Traces in the form in which torch.profiler exports them, made by hand: those of a GPU, which a test's machine may lack."""

from __future__ import annotations

import json


def event(kind, name, start, duration, place=(1, 1), **facts):
    """Something that took time, in microseconds."""
    pid, tid = place
    return {
        "ph": "X", "cat": kind, "name": name, "pid": pid, "tid": tid, "ts": start, "dur": duration, "args": facts
    }  # fmt: skip


def link(number, forward, backward):
    """A backward operator goes back over a forward one; both are ``(pid, tid, start)``."""
    ends = zip("sf", (forward, backward))
    return [
        {"ph": end, "cat": "fwdbwd", "name": "fwdbwd", "id": number, "pid": pid, "tid": tid, "ts": ts}
        for end, (pid, tid, ts) in ends
    ]


def memory(start, nbytes, allocated, place=(1, 1), device=-1):
    """Memory that is taken, or given back."""
    pid, tid = place
    facts = {
        "Device Type": 0 if device < 0 else 1, "Device Id": device, "Addr": 64, "Bytes": nbytes,
        "Total Allocated": allocated, "Total Reserved": 4096 if device >= 0 else 0,
    }  # fmt: skip
    return {
        "ph": "i",
        "cat": "cpu_instant_event",
        "name": "[memory]",
        "pid": pid,
        "tid": tid,
        "ts": start,
        "args": facts,
    }


def exported(events, **more):
    """The file."""
    return json.dumps({"traceEvents": events, "baseTimeNanoseconds": 1_700_000_000_000_000_000, **more}).encode()


LAYERS = {"conv1 (Conv2d)": "conv1", "head (Linear)": "head"}

ON_A_GPU = exported(
    [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "ts": 0, "args": {"name": "thread 1 (python)"}},
        event("user_annotation", "ProfilerStep#3", 1000.0, 100.0, **{"External id": 1}),
        event("user_annotation", "conv1 (Conv2d)", 1010.0, 20.0, **{"External id": 2}),
        event("cpu_op", "aten::conv2d", 1011.0, 18.0, **{"External id": 3, "Sequence number": 0}),
        event("cuda_runtime", "cudaLaunchKernel", 1015.0, 5.0, **{"External id": 3, "correlation": 30}),
        event("cpu_op", "autograd::engine::evaluate_function: ConvBackward0", 1050.0, 30.0, (1, 2), **{"External id": 4}),
        event("cpu_op", "ConvBackward0", 1051.0, 28.0, (1, 2), **{"External id": 5, "Sequence number": 0}),
        event("cuda_runtime", "cudaLaunchKernel", 1055.0, 5.0, (1, 2), **{"External id": 5, "correlation": 31}),
        event(
            "kernel", "sm90_conv", 1020.0, 40.0, (0, 7),
            **{"External id": 3, "device": 0, "stream": 7, "correlation": 30, "grid": [8, 2, 1], "block": [256, 1, 1],
               "registers per thread": 32, "shared memory": 1024, "est. achieved occupancy %": 50},
        ),
        event(
            "kernel", "sm90_conv_back", 1059.0, 60.0, (0, 7),
            **{"External id": 5, "device": 0, "stream": 7, "correlation": 31, "grid": [8, 2, 1], "block": [256, 1, 1]},
        ),
        event("gpu_memcpy", "Memcpy HtoD", 1020.0, 4.0, (0, 20), **{"device": 0, "stream": 20, "bytes": 64}),
        event("gpu_user_annotation", "conv1 (Conv2d)", 1020.0, 40.0, (0, 7)),
        memory(1016.0, 512, 512, device=0),
        memory(1018.0, -512, 0, device=0),
        *link(1, (1, 1, 1011.0), (1, 2, 1051.0)),
    ],
    deviceProperties=[{"id": 0, "name": "NVIDIA H100", "totalGlobalMem": 85_000_000_000, "numSms": 132,
                       "computeMajor": 9, "computeMinor": 0}],
)  # fmt: skip
"""One batch, of a layer whose forward pass is launched by one thread and whose backward pass is by another."""
