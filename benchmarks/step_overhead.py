"""What watching costs a training: the digits job plain, with the monitor, and with the peer doing the same by hand.

    python benchmarks/step_overhead.py

Each variant trains the network of ``examples/digits.py`` from the same seed, on one thread, and counts the CPU time of the
whole process and the wall time from the first step until everything is on disk: recording the graph, running the probe
for the feature maps and writing are all inside.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import harness
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import digits  # noqa: E402

PLAIN = "plain"
VARIANTS = {
    PLAIN: "no monitor",
    "monitor": "torchboard, as it comes (1 step in 10)",
    "monitor_no_maps": "torchboard, without feature maps and graph",
    "peer": "torch.utils.tensorboard by hand, 1 step in 10",
    "monitor_every_step": "torchboard, every step",
    "peer_every_step": "torch.utils.tensorboard by hand, every step",
}


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

        shows = variant != "monitor_no_maps"
        return Monitor(model, log_dir, capture=Capture(every=every), feature_maps=shows, write_graph=shows)
    return ByHand(model, log_dir, every) if variant.startswith("peer") else None


def train(variant: str, epochs: int) -> dict[str, float]:
    """Figures of one training: seconds of CPU and wall time a step, bytes on disk, and the loss it ended with."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loader = DataLoader(digits.load(0)[0], batch_size=32, shuffle=True)
    model = digits.DigitNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with tempfile.TemporaryDirectory() as log_dir:
        cpu, wall = time.process_time(), time.perf_counter()
        watch = watcher(variant, model, log_dir)
        for _ in range(epochs):
            for images, labels in loader:
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
        if watch is not None:
            watch.close()
        steps = epochs * len(loader)
        size = sum(path.stat().st_size for path in Path(log_dir).rglob("*") if path.is_file())
        return {
            "cpu": (time.process_time() - cpu) / steps,
            "wall": (time.perf_counter() - wall) / steps,
            "bytes": size,
            "loss": loss.item(),
        }


def report(rounds: int, epochs: int) -> str:
    """The measured table."""
    figures = harness.paired(__file__, list(VARIANTS), rounds, ["--epochs", str(epochs)])
    rows = [
        [
            label,
            f"{1e3 * harness.median(figures, name, 'cpu'):.2f}",
            "1" if name == PLAIN else harness.ratio(figures, name, PLAIN, "cpu"),
            "1" if name == PLAIN else harness.ratio(figures, name, PLAIN, "wall"),
            f"{harness.median(figures, name, 'bytes') / 1e6:.2f}",
        ]
        for name, label in VARIANTS.items()
    ]
    losses = {name: {result["loss"] for result in results} for name, results in figures.items()}
    same = "the same to the bit" if len(set.union(*losses.values())) == 1 else f"NOT the same: {losses}"
    return "\n\n".join(
        [
            "# What watching costs a training step",
            f"`python benchmarks/step_overhead.py --rounds {rounds} --epochs {epochs}`: {harness.machine('torch', 'tensorboard')}; "
            "one thread. Ratios to the plain training of the same round: median (least to greatest) of "
            f"{rounds} rounds. CPU time counts every thread of the process. The last loss of every variant is {same}.",
            harness.table(["variant", "CPU ms a step", "CPU ratio", "wall ratio", "MB written"], rows),
            "The monitor writes histograms of activations, activation gradients, parameters, gradients and updates, one of each "
            "an epoch over all captured steps; by hand there are activations, parameters and gradients, one of each a captured step "
            "(parameters: an epoch).",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(train(options.variant, options.epochs)))
    else:
        harness.write_result("step_overhead", report(options.rounds, options.epochs))


if __name__ == "__main__":
    main()
