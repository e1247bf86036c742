"""Whether watching takes more and more: memory, tensors and compiled graphs at step 1,000 and at step 10,000.

    python benchmarks/endurance.py [--steps 10000]

A small network is trained, plain and watched with everything on, on one thread. Then: what a captured optimizer step of a
ResNet-50 holds at its peak, with updates and without.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
from pathlib import Path

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional

STEPS = 10_000
EPOCH = 500
TRAININGS = {
    "plain": "no monitor",
    "every_10": "torchboard, everything on 1 step in 10",
    "every_step": "torchboard, everything on every step",
    "one_epoch": "torchboard, 1 step in 10, all steps in one epoch",
    "compiled_plain": "compiled, no monitor",
    "compiled": "compiled, torchboard, everything on 1 step in 10",
}
STEP = {
    "step_gradients": "gradients and parameters",
    "step_updates": "gradients, parameters and updates",
}


class Net(nn.Module):
    """Convolutions, normalisation, dropout, and an embedding large enough to be sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4_000, 32)
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.ReLU()
        )
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(8 * 16 + 32, 10)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        return self.head(self.drop(torch.cat([self.body(x).flatten(1), self.words(tokens).mean(1)], 1)))


def memory() -> dict[str, float]:
    """Resident megabytes of the process, and how many tensors there are."""
    gc.collect()
    tensors = sum(issubclass(type(one), Tensor) for one in gc.get_objects())
    return {"resident": status("VmRSS"), "tensors": tensors}


def status(field: str) -> float:
    """A size of this process in megabytes, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


def watch(variant: str, model: nn.Module, log_dir: str):
    """What the loop tells of its batches and epochs, or None."""
    if variant.endswith("plain"):
        return None
    from torchboard import Capture, Monitor

    every = 1 if variant == "every_step" else 10
    return Monitor(model, log_dir, capture=Capture(every=every), write_images=True, embeddings_freq=5)


def train(variant: str, steps: int) -> dict[str, float]:
    """Memory at a tenth of the way and at its end, and what the compiler did in between."""
    torch.manual_seed(0)
    model = Net()
    if variant.startswith("compiled"):
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    figures = {}
    with tempfile.TemporaryDirectory() as log_dir:
        monitor = watch(variant, model, log_dir)
        for step in range(1, steps + 1):
            images, tokens, labels = (
                torch.randn(8, 1, 8, 8),
                torch.randint(0, 4_000, (8, 5)),
                torch.randint(0, 10, (8,)),
            )
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images, tokens), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if monitor is not None:
                monitor.log_batch(loss=loss.detach())
                if step % EPOCH == 0 and variant != "one_epoch":
                    monitor.log_epoch()
            if step in (steps // 10, steps):
                figures |= {f"{name} at {step}": value for name, value in (memory() | compiled()).items()}
        if monitor is not None:
            monitor.close()
    return figures


def compiled() -> dict[str, float]:
    """Graphs compiled so far, and breaks of graphs."""
    from torch._dynamo.utils import counters

    return {"graphs": counters["stats"]["unique_graphs"], "breaks": sum(counters["graph_break"].values())}


def optimizer_step(updates: bool) -> dict[str, float]:
    """Megabytes at the peak of captured optimizer steps over those before the first of them."""
    from torchvision.models import resnet50

    from torchboard.capture.options import Capture
    from torchboard.capture.parameters import Parameters

    model = resnet50()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    for _ in range(2):
        optimizer.step()
    watched = Parameters(model, Capture(updates=updates))
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for _ in range(3):
        watched.arm(True)
        watched.before_step(optimizer)
        optimizer.step()
        watched.after_step(optimizer)
    return {"extra": status("VmHWM") - before, "weights": sum(weight.nbytes for weight in model.parameters()) / 1e6}


def measure(variant: str, steps: int) -> dict[str, float]:
    """The figures of one variant."""
    torch.set_num_threads(1)
    return optimizer_step(variant == "step_updates") if variant in STEP else train(variant, steps)


def report(steps: int) -> str:
    """The measured tables."""
    first = steps // 10
    rows = []
    for variant, label in TRAININGS.items():
        figures = harness.run_variant(__file__, variant, ["--steps", str(steps)])
        row = [label]
        for name in ("resident", "tensors", "graphs", "breaks"):
            early, late = figures[f"{name} at {first}"], figures[f"{name} at {steps}"]
            row.append(f"{early:.0f} -> {late:.0f}")
        rows.append(row)
    header = ["training", "resident MB", "live tensors", "compiled graphs", "graph breaks"]
    held = []
    for variant, label in STEP.items():
        peaks = [harness.run_variant(__file__, variant, []) for _ in range(3)]
        extra = statistics.median(peak["extra"] for peak in peaks)
        held.append([label, f"{extra:.0f}", f"{peaks[0]['weights']:.0f}"])
    return "\n\n".join(
        [
            INTRODUCTION.format(machine=harness.machine("torch"), first=first, steps=steps, epoch=EPOCH),
            harness.table(header, rows),
            STEP_INTRODUCTION,
            harness.table(["captured of the step", "peak, MB more than before", "the weights, MB"], held),
        ]
    )


INTRODUCTION = """# What a long training with the monitor comes to hold

`python benchmarks/endurance.py`: {machine}; one thread. A network of 134 thousand parameters, AdamW, clipped gradients,
epochs of {epoch} steps; activations, gradients, parameters, updates, weight images, feature maps and embeddings are
written. Each cell is at step {first} and at step {steps}: resident memory of the process, tensors that Python holds, graphs
that `torch.compile` made, and places where it broke one."""

STEP_INTRODUCTION = """## What a captured optimizer step holds

A ResNet-50 under AdamW, three captured steps: the peak of resident memory over what it was before the first of them, median
of three processes. It has the sketches, 32 KiB a tensor and kind, and what is read of the parameters before the step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=[*TRAININGS, *STEP])
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.steps)))
    else:
        harness.write_result("endurance", report(options.steps))


if __name__ == "__main__":
    main()
