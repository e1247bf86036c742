"""What watching costs a training: plain, with the monitor, and with the peer doing the same by hand.

    python benchmarks/step_overhead.py

Each variant trains the same network from the same seed on one thread. Two figures are told apart: what a step costs once
the training runs, everything that belongs to an epoch's end inside (histograms, feature maps, writing, flushing); and what the
start costs, once: imports, the first batch and the recording of the graph. Seconds are CPU time of the whole process, the
writer's thread included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import digits  # noqa: E402

PLAIN = "plain"
VARIANTS = {
    PLAIN: "no monitor",
    "monitor_waiting": "torchboard, no step captured (`histogram_freq=0`)",
    "monitor": "torchboard, 1 step in 10, as it comes",
    "peer": "torch.utils.tensorboard by hand, 1 step in 10",
    "monitor_every_step": "torchboard, every step",
    "peer_every_step": "torch.utils.tensorboard by hand, every step",
}
COMPILED = [PLAIN, "monitor_waiting", "monitor", "monitor_skip"]
"""The variants of a compiled job; ``monitor_skip`` is for it alone."""
VARIANTS["monitor_skip"] = 'torchboard, 1 step in 10, `Capture(compiled="skip")`'
JOBS = {
    "digits": "the digits job: 12 thousand parameters, 16 layers, batches of 32 pictures of 8 x 8, 47 steps an epoch",
    "resnet18": "torchvision's ResNet-18: 11 million parameters, 68 layers, batches of 16 of 64 x 64, 10 steps an epoch",
    "compiled": "the digits job under `torch.compile`, with its default backend",
}


def job(name: str) -> tuple[nn.Module, DataLoader | list[tuple[Tensor, Tensor]]]:
    """The network and the batches of one epoch."""
    torch.manual_seed(0)
    if name in ("digits", "compiled"):
        loader = DataLoader(digits.load(0)[0], batch_size=32, shuffle=True, drop_last=name == "compiled")
        return digits.DigitNet() if name == "digits" else torch.compile(digits.DigitNet()), loader
    from torchvision.models import resnet18

    batches = [(torch.randn(16, 3, 64, 64), torch.randint(0, 10, (16,))) for _ in range(10)]
    return resnet18(num_classes=10), batches


class ByHand:
    """Weights, gradients and activations through ``add_histogram``, as a user of the peer writes it."""

    def __init__(self, model: nn.Module, log_dir: str, every: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(log_dir)
        self.model, self.every, self.step, self.epoch = model, every, 0, 0
        for name, module in model.named_modules():
            if not isinstance(module, nn.Sequential):
                module.register_forward_hook(lambda _, args, output, name=name: self.activation(name, output))

    def due(self) -> bool:
        return self.model.training and self.step % self.every == 0

    def activation(self, name: str, output: torch.Tensor) -> None:
        if self.due():
            self.writer.add_histogram(f"activations/{name or 'model'}", output, self.step)

    def before_step(self) -> None:
        if self.due():
            for name, parameter in self.model.named_parameters():
                self.writer.add_histogram(f"gradients/{name}", parameter.grad, self.step)

    def log_batch(self, loss: torch.Tensor) -> None:
        self.step += 1
        self.writer.add_scalar("loss", loss, self.step)

    def log_epoch(self) -> None:
        for name, parameter in self.model.named_parameters():
            self.writer.add_histogram(f"parameters/{name}", parameter, self.epoch)
        self.epoch += 1
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def watcher(variant: str, model: nn.Module, log_dir: str):
    """What the training loop calls, or None."""
    every = 1 if variant.endswith("every_step") else 10
    if variant.startswith("monitor"):
        from torchboard import Capture, Monitor

        if variant == "monitor_waiting":
            return Monitor(model, log_dir, histogram_freq=0, write_graph=False)
        compiled = "skip" if variant == "monitor_skip" else "eager"
        return Monitor(model, log_dir, capture=Capture(every=every, compiled=compiled))
    return ByHand(model, log_dir, every) if variant.startswith("peer") else None


def epochs_of(variant: str, job_name: str, epochs: int, log_dir: str) -> Iterator[float]:
    """Trains, and gives the loss at the end of each epoch, when everything of the epoch is on disk."""
    model, batches = job(job_name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    watch = watcher(variant, model, log_dir)
    for _ in range(epochs):
        for images, labels in batches:
            loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            if isinstance(watch, ByHand):
                watch.before_step()
            optimizer.step()
            if watch is not None:
                watch.log_batch(loss=loss.detach())
        if watch is not None:
            watch.log_epoch()
        yield loss.item()
    if watch is not None:
        watch.close()


def measure(variant: str, job_name: str, epochs: int) -> dict[str, float]:
    """Figures of one training: seconds until the first epoch has ended, seconds a step after it, megabytes, last loss."""
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # torch imports its compiler with the first optimizer: not ours to count
    steps = len(job(job_name)[1])
    with tempfile.TemporaryDirectory() as log_dir:
        marks = [(time.process_time(), time.perf_counter())]
        losses = []
        for loss in epochs_of(variant, job_name, epochs, log_dir):
            marks.append((time.process_time(), time.perf_counter()))
            losses.append(loss)
        size = sum(path.stat().st_size for path in Path(log_dir).rglob("*") if path.is_file())
    start, first, last = marks[0], marks[1], marks[-1]
    cpu, wall = ((last[clock] - first[clock]) / (steps * (epochs - 1)) for clock in (0, 1))
    return {
        "start": first[0] - start[0] - steps * cpu,
        "cpu": cpu,
        "wall": wall,
        "megabytes": size / 1e6,
        "loss": losses[-1],
    }


def report(job_name: str, rounds: int, epochs: int) -> str:
    """The measured table of one job."""
    is_compiled = job_name == "compiled"
    variants = [name for name in VARIANTS if (name in COMPILED if is_compiled else name != "monitor_skip")]
    figures = harness.paired(__file__, variants, rounds, ["--job", job_name, "--epochs", str(epochs)])

    def row(name: str, label: str) -> list[str]:
        ratios = (
            ["1", "1"] if name == PLAIN else [harness.ratio(figures, name, PLAIN, clock) for clock in ("cpu", "wall")]
        )
        start = harness.median(figures, name, "start") - harness.median(figures, PLAIN, "start")
        milliseconds, megabytes = 1e3 * harness.median(figures, name, "cpu"), harness.median(figures, name, "megabytes")
        return [label, f"{milliseconds:.2f}", *ratios, "" if name == PLAIN else f"{start:.2f}", f"{megabytes:.2f}"]

    eager = ["monitor"] if is_compiled else []  # its captured steps run eagerly: other rounding, other random numbers
    losses = {result["loss"] for name in variants if name not in eager for result in figures[name]}
    same = (
        f"The last loss is the same to the bit in all{' but those with eager steps' if eager else ' of them'}."
        if len(losses) == 1
        else f"The last losses DIFFER: {losses}."
    )
    header = ["variant", "CPU ms a step", "CPU ratio", "wall ratio", "start, CPU s", "MB written"]
    table = harness.table(header, [row(name, VARIANTS[name]) for name in variants])
    return f"## {JOBS[job_name]}\n\n{epochs} epochs, {rounds} rounds. {same}\n\n{table}"


INTRODUCTION = """# What watching costs a training step

`python benchmarks/step_overhead.py`: {machine}; one thread. Ratios are to the plain training of the same round: median
(least to greatest) over the rounds. *CPU ms a step* counts every thread of the process and all that is done at the end of
an epoch, from the second epoch on; *start* is what the first epoch took beyond that and beyond the plain training's.

The monitor writes histograms of activations, activation gradients, parameters, gradients and updates, one of each an epoch
over all captured steps, feature maps and the graph. By hand there are activations and gradients, one histogram of each a
captured step, and parameters, one an epoch. *No step captured* leaves the hooks around the optimizer's step and the metrics.
Captured steps of the compiled job run eagerly, or, with `skip`, stay compiled and show parameters alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--job", choices=JOBS, default="digits")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.job, options.epochs)))
        return
    introduction = INTRODUCTION.format(machine=harness.machine("torch", "tensorboard"))
    tables = [
        report("digits", options.rounds, options.epochs or 4),
        report("resnet18", max(2, options.rounds - 2), options.epochs or 3),
        report("compiled", max(2, options.rounds - 2), options.epochs or 4),
    ]
    harness.write_result("step_overhead", "\n\n".join([introduction, *tables]))


if __name__ == "__main__":
    main()
