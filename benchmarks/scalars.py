"""What a scalar costs: the caller's wait, the rate until everything is on disk, the CPU time, the bytes.

    python benchmarks/scalars.py

Two ways of calling: back to back, 20,000 scalars of 10 tags; and as a training loop calls, 10 scalars after each
millisecond of arithmetic. Each writer runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import harness
import torch

WRITERS = {
    "torchboard": "torchboard",
    "torch": "torch.utils.tensorboard",
    "tensorboardX": "tensorboardX",
}
TAGS = [f"group/tag_{number}" for number in range(10)]
BACK_TO_BACK = 20_000
PACED_STEPS = 300


def writer(name: str, log_dir: str):
    """A fresh writer of one package."""
    if name == "torchboard":
        from torchboard import SummaryWriter
    elif name == "torch":
        from torch.utils.tensorboard import SummaryWriter
    else:
        from tensorboardX import SummaryWriter
    return SummaryWriter(log_dir)


def call(target, step: int, waits: list[float]) -> None:
    """Ten scalars at one step, each call timed."""
    for tag in TAGS:
        begin = time.perf_counter()
        target.add_scalar(tag, 0.5 + step, step)
        waits.append(time.perf_counter() - begin)


def percentile(waits: list[float], share: float) -> float:
    """In microseconds."""
    return 1e6 * sorted(waits)[int(share * (len(waits) - 1))]


def measure(name: str) -> dict[str, float]:
    """The figures of one writer."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as log_dir:
        target, waits = writer(name, log_dir + "/fast"), []
        target.add_scalar("warm_up", 0.0, 0)
        target.flush()
        wall, cpu = time.perf_counter(), time.process_time()
        for step in range(BACK_TO_BACK // len(TAGS)):
            call(target, step, waits)
        target.close()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = sum(path.stat().st_size for path in Path(log_dir).rglob("*") if path.is_file())

        target, paced, square = writer(name, log_dir + "/paced"), [], torch.randn(256, 256)
        for step in range(PACED_STEPS):
            until = time.perf_counter() + 1e-3
            while time.perf_counter() < until:
                square @ square
            call(target, step, paced)
        target.close()
    return {
        "p50": percentile(waits, 0.5),
        "p99": percentile(waits, 0.99),
        "paced_p50": percentile(paced, 0.5),
        "paced_p99": percentile(paced, 0.99),
        "rate": BACK_TO_BACK / wall,
        "cpu": 1e6 * cpu / BACK_TO_BACK,
        "bytes": size / BACK_TO_BACK,
    }


def report(rounds: int) -> str:
    """The measured table."""
    figures = harness.paired(__file__, list(WRITERS), rounds, [])
    columns = {
        "p50": "p50, us",
        "p99": "p99, us",
        "paced_p50": "p50 in a loop, us",
        "paced_p99": "p99 in a loop, us",
        "cpu": "CPU us a scalar",
        "bytes": "bytes a scalar",
        "rate": "scalars/s",
    }
    rows = [
        [label, *(f"{harness.median(figures, name, column):,.1f}" for column in columns)]
        for name, label in WRITERS.items()
    ]
    ratios = [
        [f"torchboard / {label}", *(harness.ratio(figures, "torchboard", name, column) for column in columns)]
        for name, label in WRITERS.items()
        if name != "torchboard"
    ]
    return "\n\n".join(
        [
            "# What a scalar costs",
            f"`python benchmarks/scalars.py --rounds {rounds}`: {harness.machine('torch', 'tensorboard', 'tensorboardX')}. "
            "Medians over the rounds; ratios are taken within a round: median (least to greatest).",
            harness.table(["writer", *columns.values()], rows + ratios),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=WRITERS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant)))
    else:
        harness.write_result("scalars", report(options.rounds))


if __name__ == "__main__":
    main()
