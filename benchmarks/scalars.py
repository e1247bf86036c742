"""What a scalar costs: the caller's wait, the rate until everything is on disk, the CPU time, the bytes.

    python benchmarks/scalars.py

Each writer runs in a process of its own and logs

* back to back, 100,000 floats of 10 tags, then 20,000 zero-dimensional tensors;
* as a training loop does, 10 scalars after each step of half a millisecond of arithmetic, steps with and without logging in
  turn, block by block; and once more with zero-dimensional tensors;
* 100 metrics at a step: in one call where the writer has one, else in a hundred.

TensorFlow's own C++ ``EventsWriter``, called through its Python binding with one message a scalar, takes part where
``TENSORFLOW_PYTHON`` names an interpreter that has TensorFlow. It writes to a file from the calling thread, through a buffer.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

import harness
import torch

WRITERS = {
    "torchboard": "torchboard",
    "torch": "torch.utils.tensorboard",
    "tensorboardX": "tensorboardX",
    "tensorflow": "TensorFlow C++ EventsWriter",
}
TAGS = [f"group/tag_{number}" for number in range(10)]
FLOATS, TENSORS = 100_000, 20_000
STEP, STEPS_A_BLOCK, BLOCKS = 0.5e-3, 60, 40
METRICS = {f"train/metric_{number:02}": 0.5 + number for number in range(100)}
ROWS = 100
COLUMNS = {
    "p50": "p50, us",
    "p99": "p99, us",
    "tensor_p50": "p50 of a tensor, us",
    "tensor_p99": "p99 of a tensor, us",
    "loop_p50": "p50 in a loop, us",
    "loop_p99": "p99 in a loop, us",
    "tensor_loop_p50": "p50 of a tensor in a loop, us",
    "tensor_loop_p99": "p99 of a tensor in a loop, us",
    "inflation": "CPU time that 10 scalars add to a step of 0.5 ms, %",
    "cpu": "CPU us a scalar",
    "rate": "scalars/s until close",
    "bytes": "bytes a scalar",
    "row_cpu": "100 metrics, CPU us",
    "row_wait": "100 metrics, caller us",
    "row_bytes": "bytes a metric",
}


class TensorFlowWriter:
    """The few calls of a SummaryWriter that are measured, over the C++ writer."""

    def __init__(self, log_dir: str) -> None:
        from tensorflow.core.util import event_pb2
        from tensorflow.python.client import _pywrap_events_writer

        os.makedirs(log_dir)
        self._message = event_pb2.Event
        self._writer = _pywrap_events_writer.EventsWriter(f"{log_dir}/events".encode())

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        event = self._message(wall_time=time.time(), step=step)
        event.summary.value.add(tag=tag, simple_value=float(value))
        self._writer.WriteEvent(event)

    def flush(self) -> None:
        self._writer.Flush()

    def close(self) -> None:
        self._writer.Close()


def writer(name: str, log_dir: str):
    """A fresh writer of one package."""
    if name == "torchboard":
        from torchboard import SummaryWriter
    elif name == "torch":
        from torch.utils.tensorboard import SummaryWriter
    elif name == "tensorboardX":
        from tensorboardX import SummaryWriter
    else:
        return TensorFlowWriter(log_dir)
    return SummaryWriter(log_dir)


def log_step(target, step: int, value, waits: array[float]) -> None:
    """Ten scalars at one step, each call timed. No float is kept: new memory for them would be timed too."""
    for tag in TAGS:
        begin = time.perf_counter()
        target.add_scalar(tag, value, step)
        waits.append(time.perf_counter() - begin)


def percentile(waits: Sequence[float], share: float) -> float:
    """In microseconds."""
    return 1e6 * sorted(waits)[int(share * (len(waits) - 1))]


def back_to_back(target, values: list, first_step: int) -> array[float]:
    """The wait of every call."""
    waits = array("d")
    for step, value in enumerate(values, first_step):
        log_step(target, step, value, waits)
    return waits


def measure_flood(name: str, log_dir: str) -> dict[str, float]:
    """Floats back to back until everything is on disk."""
    target = writer(name, log_dir)
    target.add_scalar(TAGS[0], 0.0, 0)
    target.flush()
    wall, cpu = time.perf_counter(), time.process_time()
    waits = back_to_back(target, [0.5 + step for step in range(FLOATS // len(TAGS))], 1)
    target.close()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "p50": percentile(waits, 0.5),
        "p99": percentile(waits, 0.99),
        "rate": FLOATS / wall,
        "cpu": 1e6 * cpu / FLOATS,
        "bytes": size_of(log_dir) / FLOATS,
    }


def measure_tensors(name: str, log_dir: str) -> dict[str, float]:
    """Zero-dimensional tensors back to back."""
    target = writer(name, log_dir)
    waits = back_to_back(target, list(torch.rand(TENSORS // len(TAGS))), 1)
    target.close()
    return {"tensor_p50": percentile(waits, 0.5), "tensor_p99": percentile(waits, 0.99)}


def measure_loop(name: str, log_dir: str) -> dict[str, float]:
    """A training loop that logs floats."""
    waits, inflation = loop(writer(name, log_dir), [0.5 + step for step in range(BLOCKS * STEPS_A_BLOCK)])
    return {"loop_p50": percentile(waits, 0.5), "loop_p99": percentile(waits, 0.99), "inflation": inflation}


def measure_tensor_loop(name: str, log_dir: str) -> dict[str, float]:
    """A training loop that logs zero-dimensional tensors."""
    waits, _ = loop(writer(name, log_dir), list(torch.rand(BLOCKS * STEPS_A_BLOCK)))
    return {"tensor_loop_p50": percentile(waits, 0.5), "tensor_loop_p99": percentile(waits, 0.99)}


def loop(target, values: list) -> tuple[array[float], float]:
    """The wait of every call in a training loop with and without logging in turn, and what a step's CPU time grows by, in %."""
    waits, square = array("d"), torch.randn(128, 128)
    repeats = calibrate(square)
    spent: dict[bool, list[float]] = {True: [], False: []}
    for block in range(BLOCKS):
        cpu = time.process_time()
        for step in range(block * STEPS_A_BLOCK, (block + 1) * STEPS_A_BLOCK):
            for _ in range(repeats):
                square @ square
            if block % 2:
                log_step(target, step, values[step], waits)
        spent[bool(block % 2)].append(time.process_time() - cpu)
    target.close()
    added = [logging - plain for plain, logging in zip(spent[False], spent[True])]
    return waits, 100 * statistics.median(added) / statistics.median(spent[False])


def calibrate(square: torch.Tensor) -> int:
    """How many products take the time of a step."""
    begin = time.perf_counter()
    for _ in range(200):
        square @ square
    return max(1, round(STEP * 200 / (time.perf_counter() - begin)))


def measure_rows(name: str, log_dir: str) -> dict[str, float]:
    """A hundred metrics a step."""
    target, waits = writer(name, log_dir), []
    cpu = time.process_time()
    for step in range(ROWS):
        begin = time.perf_counter()
        if hasattr(target, "log"):
            target.log(METRICS, step)
        else:
            for tag, value in METRICS.items():
                target.add_scalar(tag, value, step)
        waits.append(time.perf_counter() - begin)
    target.close()
    cpu = time.process_time() - cpu
    return {
        "row_wait": percentile(waits, 0.5),
        "row_cpu": 1e6 * cpu / ROWS,
        "row_bytes": size_of(log_dir) / ROWS / len(METRICS),
    }


def size_of(log_dir: str) -> int:
    return sum(path.stat().st_size for path in Path(log_dir).rglob("*") if path.is_file())


def measure(name: str) -> dict[str, float]:
    """The figures of one writer."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as log_dir:
        parts = (measure_flood, measure_tensors, measure_loop, measure_tensor_loop, measure_rows)
        results = [part(name, f"{log_dir}/{part.__name__}") for part in parts]
    return {key: value for result in results for key, value in result.items()}


def report(rounds: int) -> str:
    """The measured tables."""
    present = [name for name in WRITERS if name != "tensorflow" or harness.TENSORFLOW_PYTHON]
    machine = harness.machine("torch", "tensorboard", "tensorboardX")
    figures = harness.paired(__file__, present, rounds, [])
    peers = [name for name in present if name != "torchboard"]
    rows = [
        [label, *(f"{harness.median(figures, name, column):,.2f}" for name in present)]
        for column, label in COLUMNS.items()
    ]
    ratios = [
        [label, *(harness.ratio(figures, "torchboard", name, column) for name in peers)]
        for column, label in COLUMNS.items()
        if column != "inflation"
    ]
    return "\n\n".join(
        [
            "# What a scalar costs",
            f"`python benchmarks/scalars.py --rounds {rounds}`: {machine}. Medians over the rounds.",
            harness.table(["", *(WRITERS[name] for name in present)], rows),
            "torchboard's figure over the peer's, within a round: median (least to greatest).",
            harness.table(["", *(WRITERS[name] for name in peers)], ratios),
        ]
    )


if __name__ == "__main__":
    harness.main("scalars", __doc__, WRITERS, measure, report, rounds=5)
