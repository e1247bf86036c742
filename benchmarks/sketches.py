"""What the sketch of a tensor costs on the CPU, beside the peer's histogram and bare counting functions.

    python benchmarks/sketches.py

One thread. A sketch is the whole of it: 4034 bins, zeros, NaN and infinities, extremes, sum and sum of squares; it is what
the training thread pays. ``written`` adds what follows on the other thread: buckets, encoding, the file. The bare functions
only count: 1024 bins in torch, 64 in NumPy, between extremes that they find themselves.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count

import harness
import numpy as np
import torch
from torch import Tensor, nn

VARIANTS = {
    "sketch": "torchboard, the sketch",
    "uncompiled": "the same where there was no compiler",
    "written": "torchboard, `add_histogram`, written",
    "peer": "torch.utils.tensorboard, `add_histogram`, written",
    "histc": "`torch.histc`",
    "histogram": "`torch.histogram`",
    "numpy": "`np.histogram`",
}
OURS = ("sketch", "uncompiled")
BARE = ("histc", "histogram", "numpy")
SIZES = {"1k": 1000, "100k": 100_000, "1M": 1_000_000, "10M": 10_000_000}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
KINDS = ("fp32", "fp16", "bf16", "fp64", "relu", "constant", "near one", "half NaN", "fp8", "int64", "uint8", "bool")
"""What else is measured, at a million elements."""
MODELS = {
    "resnet50": "torchvision's ResNet-50",
    "transformer": "a transformer of 6 layers of width 512 and 8192 words",
}


def model(name: str) -> nn.Module:
    """With random weights."""
    torch.manual_seed(0)
    if name == "resnet50":
        from torchvision.models import resnet50

        return resnet50()
    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    return nn.ModuleDict({"words": nn.Embedding(8192, 512), "layers": nn.TransformerEncoder(layer, 6)})


def data(name: str, number: int) -> Tensor:
    """Elements of one kind."""
    values = torch.randn(number, generator=torch.Generator().manual_seed(0))
    made = {
        "relu": values.relu,
        "constant": lambda: torch.full((number,), 0.7),
        "near one": lambda: 1 + 0.01 * values,
        "half NaN": lambda: torch.where(values < 0, torch.nan, values),
        "fp16": values.half,
        "fp64": values.double,
        "fp8": lambda: values.to(torch.float8_e4m3fn),
        "int64": lambda: (3 * values).long(),
        "uint8": lambda: (64 + 16 * values).clamp(0, 255).to(torch.uint8),
        "bool": lambda: values > 0,
    }
    return made[name]() if name in made else values.to(DTYPES[name])


def counter(variant: str, log_dir: str) -> tuple[Callable[[list[Tensor]], object], Callable[[], object]]:
    """What does the job for some tensors, and what makes room for the next job."""
    if variant in OURS:
        from torchboard.sketch import host_compiled
        from torchboard.sketch.table import SketchTable

        if variant == "uncompiled":
            host_compiled._library = None
        elif not host_compiled.available():
            raise SystemExit("the compiled code was not built: there is no compiler")
        table = SketchTable()
        rows = [table.add_row() for _ in range(500)]

        def sketch(tensors: list[Tensor]) -> None:
            table.observe_many_(rows[: len(tensors)], tensors)

        return sketch, table.clear_
    if variant in ("written", "peer"):
        if variant == "peer":
            from torch.utils.tensorboard import SummaryWriter
        else:
            from torchboard import SummaryWriter
        writer, steps = SummaryWriter(log_dir), count()

        def add(tensors: list[Tensor]) -> None:
            step = next(steps)
            for index, tensor in enumerate(tensors):
                writer.add_histogram(f"{len(tensors)}/{index}", tensor, step)
            writer.flush()

        return add, lambda: None
    function = {
        "histc": lambda tensor: torch.histc(tensor.float(), 1024),
        "histogram": lambda tensor: torch.histogram(tensor.float(), 1024),
        "numpy": lambda tensor: np.histogram(tensor.float().numpy(), 64),
    }[variant]
    return lambda tensors: [function(tensor) for tensor in tensors], lambda: None


def seconds(run: Callable[[list[Tensor]], object], finish: Callable[[], object], tensors: list[Tensor]) -> float:
    """CPU time of one run, all threads: the median of three groups of runs."""
    run(tensors)
    finish()
    number = sum(tensor.numel() for tensor in tensors)
    times, repeats = [], max(1, min(100, 1_000_000 // number))
    for _ in range(3):
        begin = time.process_time()
        for _ in range(repeats):
            run(tensors)
        times.append((time.process_time() - begin) / repeats)
        finish()
    return statistics.median(times)


def jobs(variant: str) -> Iterator[tuple[str, list[Tensor]]]:
    """What a variant is measured with, by name."""
    for dtype in DTYPES:
        for size, number in SIZES.items():
            yield f"{dtype} {size}", [data(dtype, number)]
    yield "200 of 768", list(data("fp32", 200 * 768).split(768))
    if variant in OURS:
        for kind in KINDS:
            yield kind, [data(kind, 1_000_000)]
    if variant not in BARE:
        for name in MODELS:
            yield name, [parameter.detach() for parameter in model(name).parameters()]


def measure(variant: str) -> dict[str, float]:
    """Seconds of each job."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as log_dir:
        run, finish = counter(variant, log_dir)
        return {name: seconds(run, finish, tensors) for name, tensors in jobs(variant)}


def figure(figures: dict[str, list[dict[str, float]]], variant: str, job: str) -> str:
    """Microseconds, and how many times the sketch's."""
    times = harness.median(figures, variant, job)
    shown = f"{1e6 * times:,.0f}"
    return shown if variant == "sketch" else f"{shown}; {harness.ratio(figures, variant, 'sketch', job)}"


def report(rounds: int) -> str:
    """The measured tables."""
    figures = harness.paired(__file__, list(VARIANTS), rounds, [])
    both = [name for name, _ in jobs("peer")]
    table = harness.table(
        ["data", *VARIANTS.values()],
        [
            [name, *(figure(figures, variant, name) if name in figures[variant][0] else "" for variant in VARIANTS)]
            for name in both
        ],
    )
    kinds = [[kind, *(f"{1e3 * harness.median(figures, ours, kind):.2f}" for ours in OURS)] for kind in KINDS]
    elements = {name: sum(p.numel() for p in model(name).parameters()) for name in MODELS}
    described = "; ".join(f"{name}: {MODELS[name]}, {count:,} parameters" for name, count in elements.items())
    introduction = INTRODUCTION.format(machine=harness.machine("torch", "tensorboard", "numpy"), rounds=rounds)
    a_million = harness.table(["a million of", "the sketch, ns an element", "without a compiler"], kinds)
    return "\n\n".join([introduction, table, f"{described}.", a_million])


INTRODUCTION = """# What the sketch of a tensor costs on the CPU

`python benchmarks/sketches.py`: {machine}; one thread, {rounds} rounds. Microseconds of CPU time, all threads of the process,
medians over the rounds; behind them, how many times that of the sketch in the same round: median (least to greatest).

The sketch is what the training thread pays: 4034 bins, zeros, NaN, infinities, extremes, sum and sum of squares. *Written* is all
of it, buckets, encoding and file inside. `torch.histc` and `torch.histogram` count 1024 bins and `np.histogram` 64, and
nothing else; bfloat16 is turned into float32 for them."""


if __name__ == "__main__":
    harness.main("sketches", __doc__, VARIANTS, measure, report, rounds=3)
