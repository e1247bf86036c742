"""What a captured step costs under ``torch.compile``: run eagerly, kept compiled, or left alone.

    python benchmarks/compiled.py

Each variant trains the same transformer from the same seed on one thread, compiled by inductor, and times the step that it is
about: one that nothing is captured of, or one of which every layer's output, its gradient, the parameters' gradients and the
updates are. Seconds are CPU time of the whole process, the writer's thread included. Graphs, breaks and recompiles are
counted by the compiler over the whole training.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

import harness
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional

from torchboard import Capture, Monitor

WIDTH, HEADS, LAYERS, BATCH, LENGTH, WORDS = 128, 4, 4, 8, 128, 256
WARM, TIMED = 2, 15
PLAIN = "plain"
VARIANTS = {
    "not_compiled": "not compiled, no monitor",
    PLAIN: "no monitor",
    "uncaptured_eager": '`compiled="eager"`, a step that is not captured',
    "uncaptured_graph": '`compiled="graph"`, a step that is not captured',
    "eager": '`compiled="eager"`, a captured step',
    "graph": '`compiled="graph"`, a captured step',
    "skip": '`compiled="skip"`, a captured step',
    "eager_layers": '`compiled="eager"`, a captured step, layers and gradients, no parameters and updates',
    "graph_layers": '`compiled="graph"`, a captured step, layers and gradients, no parameters and updates',
}


class Block(nn.Module):
    """A transformer's block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.act, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm_1(x)).view(batch, length, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + self.out(seen)
        return x + self.down(self.act(self.up(self.norm_2(x))))


class Transformer(nn.Module):
    """Predicts the next word."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(x))))


def trainer(model: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    """One training step, the same each time."""
    x, y = torch.randint(0, WORDS, (2, BATCH, LENGTH))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def capture_of(variant: str) -> Capture:
    """What the variant captures; of those that time uncaptured steps only an epoch's first one is captured."""
    way, layers_only = variant.removeprefix("uncaptured_").removesuffix("_layers"), variant.endswith("_layers")
    parameters = {"parameters": False, "updates": False} if layers_only else {}
    every = 10**9 if variant.startswith("uncaptured") else 1
    return Capture(every=every, compiled=way, dead_units=False, **parameters)


def seconds(step: Callable[[], object]) -> float:
    """The CPU seconds of one step, the median of several."""
    taken = []
    for _ in range(TIMED):
        begin = time.process_time()
        step()
        taken.append(time.process_time() - begin)
    return statistics.median(taken)


def measure(variant: str) -> dict[str, float]:
    """Seconds a step, seconds until the steps run as they will, and what the compiler counted."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    counters.clear()
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    compiled = torch.compile(model) if variant != "not_compiled" else model
    step = trainer(compiled, optimizer)
    with tempfile.TemporaryDirectory() as directory:
        monitor = None
        if variant not in (PLAIN, "not_compiled"):
            monitor = Monitor(compiled, directory, capture=capture_of(variant), feature_maps=False)
        begin = time.perf_counter()
        for _ in range(1 + WARM):
            step()
        start = time.perf_counter() - begin
        figure = seconds(step)
        if monitor is not None:
            monitor.log_epoch()
            monitor.close()
    return {
        "step": figure,
        "start": start,
        "graphs": counters["stats"]["unique_graphs"],
        "breaks": sum(counters["graph_break"].values()),
        "recompiles": max(0, counters["stats"]["unique_graphs"] - 1),
    }


def report(rounds: int) -> str:
    figures = harness.paired(__file__, list(VARIANTS), rounds, [])

    def cell(variant: str, name: str) -> str:
        return f"{harness.median(figures, variant, name):.0f}"

    rows = [
        [
            text,
            f"{1000 * harness.median(figures, variant, 'step'):.1f} ms",
            harness.ratio(figures, variant, PLAIN, "step"),
            f"{harness.median(figures, variant, 'start'):.1f} s",
            cell(variant, "graphs"),
            cell(variant, "breaks"),
        ]
        for variant, text in VARIANTS.items()
    ]
    header = ["variant", "CPU time a step", "over no monitor", "first 3 steps", "graphs", "graph breaks"]
    return "\n\n".join(
        [
            "# Captured steps under torch.compile",
            f"A transformer of {LAYERS} layers, {WIDTH} wide, {BATCH} sequences of {LENGTH} words, AdamW, compiled by inductor "
            f"for a CPU, one thread; the median step of {TIMED}; medians of {rounds} rounds, least and greatest in brackets. "
            "The first steps include compilation, with the compiler's caches on disk as they are after a round before.",
            harness.table(header, rows),
            f"{harness.machine('torch', 'torchboard')}.",
        ]
    )


if __name__ == "__main__":
    harness.main("compiled", __doc__, VARIANTS, measure, report, rounds=2)
