"""Do the times that the Graphs page shows add up to what a step takes that nobody records?

    python benchmarks/graph_times.py

Training steps without a recorder and recorded ones take turns, on one thread, with everything warm. The sum over all
operators of a recorded step, and of a recorded forward pass, is divided by the mean of the plain ones before and after it, which
run in a loop. It is done with the wall clock, which the package reads, and once more with the thread's processor time in its
place, which other work on the machine does not reach.

A recorded pass runs once, on caches that other work has filled. So it is also divided by a plain one that runs once, after
another model has been recorded.
"""

from __future__ import annotations

import statistics
import time
import types
from collections.abc import Callable

import harness
import torch
from step_jobs import Transformer
from torch import Tensor, nn

import torchboard.graph.modes
from torchboard import MemorySink, Monitor

CLOCKS = {"wall": time.perf_counter, "processor": time.thread_time}


def resnet50() -> tuple[nn.Module, Tensor]:
    from torchvision.models import resnet50

    return resnet50(), torch.rand(4, 3, 128, 128)


def vit_b_32() -> tuple[nn.Module, Tensor]:
    from torchvision.models import vit_b_32

    return vit_b_32(), torch.rand(1, 3, 224, 224)


def language_model() -> tuple[nn.Module, Tensor]:
    return Transformer(), torch.randint(0, 8192, (4, 128))


def tiny() -> tuple[nn.Module, Tensor]:
    layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    return nn.Sequential(*layers), torch.rand(16, 1, 8, 8)


JOBS = {
    "ResNet-50, 4 x 128²": resnet50,
    "ViT-B/32, 1 x 224²": vit_b_32,
    "transformer of 23 million, 4 x 128": language_model,
    "five layers, 16 x 8²": tiny,
}
COLUMNS = {
    "step processor": "step, processor time",
    "step wall": "step, wall",
    "step once processor": "step that runs once, processor time",
    "forward processor": "forward, processor time",
    "forward wall": "forward, wall",
    "forward once processor": "forward that runs once, processor time",
}
"""Figure of a ratio -> its column."""


def measure(variant: str) -> dict[str, float]:
    """Sums over plain times by what was recorded and clock, medians of three; and what a plain step takes, in ms."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, inputs = JOBS[variant]()
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()

    step()
    figures = {}
    for name, clock in CLOCKS.items():
        torchboard.graph.modes.time = types.SimpleNamespace(perf_counter=clock)
        ratios: dict[str, list[float]] = {"step": [], "forward": [], "step once": [], "forward once": []}
        work = {"step": step, "forward": lambda: model(inputs)}
        for _ in range(3):
            plain = {what: [timed(run, clock)] for what, run in work.items()}
            found = recorded(model, step)
            for what, run in work.items():
                plain[what].append(timed(run, clock))
                ratios[what].append(found[what] / statistics.mean(plain[what]))
                ratios[f"{what} once"].append(found[what] / once(run, clock))
        figures |= {f"{what} {name}": statistics.median(found) for what, found in ratios.items()}
        figures[f"ms {name}"] = 1e3 * statistics.mean(plain["step"])
    return figures


def timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds that something takes: the median of as many times as make 50 ms."""
    times: list[float] = []
    while sum(times) < 0.05:
        began = clock()
        work()
        times.append(clock() - began)
    return statistics.median(times)


def once(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds that something takes once, after another model has been recorded."""
    other = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), 1e-4)

    def step() -> None:
        other(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    recorded(other, step)
    began = clock()
    work()
    return clock() - began


def recorded(model: nn.Module, step: Callable[[], object]) -> dict[str, float]:
    """Seconds that the graphs of a step and of its forward pass come to."""
    sink = MemorySink()
    with Monitor(model, sink=sink, histogram_freq=0, feature_maps=False, write_graph="step") as monitor:
        for _ in range(3):
            step()
        monitor.log_epoch()
    ((_, forward),), ((_, whole),) = sink.series("step1"), sink.series("train_step")
    nodes = {"forward": forward.nodes, "step": whole.profile.nodes}
    return {what: sum(node.duration for node in found) / 1e6 for what, found in nodes.items()}


def report(rounds: int) -> str:
    """The result as Markdown."""
    figures = harness.paired(__file__, list(JOBS), rounds, [])
    rows = []
    for name, found in figures.items():
        cells = [f"{harness.median(figures, name, 'ms processor'):.3g}"]
        for column in COLUMNS:
            ratios = [figure[column] for figure in found]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        rows.append([name, *cells])
    header = ["model", "plain step, ms", *COLUMNS.values()]
    return "\n\n".join(
        [
            "# Do the times of a graph add up?",
            f"`python benchmarks/graph_times.py --rounds {rounds}`: {harness.machine('torch')}, one thread.",
            "The times of all operators in the graph of a training step, added, over those of steps that nobody recorded; and "
            "the same of the forward pass alone. 1.00 is the same. Steps run in a loop, or once after other work, as a "
            "recorded one does. Median (least to greatest) of the rounds, each the median of three recordings.",
            harness.table(header, rows),
            "A pass of microseconds takes several times as long when it runs once, after other work, than in a loop of its "
            "own: caches are cold. A recorded one does run once, so in a very small model the sum lies between the two.",
        ]
    )


if __name__ == "__main__":
    harness.main("graph_times", __doc__, JOBS, measure, report, rounds=3)
