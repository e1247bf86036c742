"""The digits example, trained once a session in this process, with notes of what it logged taken on the way."""

from __future__ import annotations

import functools
import importlib.util
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from torchboard import Capture, Monitor

ROOT = Path(__file__).parent.parent
EPOCHS = 3


@dataclass(frozen=True)
class DigitsJob:
    """A finished run of the example.

    Attributes:
        log_dir: where it wrote.
        model: what was trained.
        scalars: (run, tag) -> one value an epoch, float64.
        parameters: dotted name -> float32 array of every epoch.
        mistakes: how many pictures of mistakes were logged, an epoch.
    """

    log_dir: Path
    model: nn.Module
    scalars: dict[tuple[str, str], list[float]]
    parameters: dict[str, list[np.ndarray]]
    mistakes: list[int]

    @property
    def layers(self) -> list[str]:
        """Tag names of the layers: all modules but the root, which has its class's name, and containers."""
        modules = [
            (name, module) for name, module in self.model.named_modules() if not isinstance(module, nn.Sequential)
        ]
        return [name.replace(".", "/") or type(module).__name__ for name, module in modules]

    @property
    def convolutions(self) -> dict[str, nn.Conv2d]:
        """Tag name -> every convolution."""
        return {
            name.replace(".", "/"): module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Conv2d)
        }


class _Heard(Monitor):
    """A monitor that keeps the batch metrics it is told."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.heard: dict[str, list[float]] = defaultdict(list)

    def log_batch(self, **metrics: Any) -> None:
        super().log_batch(**metrics)
        for name, value in metrics.items():
            self.heard[name].append(float(torch.as_tensor(value).detach()))


@functools.cache
def digits_job(log_dir: Path) -> DigitsJob:
    """The example's job, ``EPOCHS`` epochs of it, written to ``log_dir``."""
    digits = load_example("digits")
    torch.manual_seed(0)
    random.seed(0)
    training, validation = digits.load(0)
    loader = torch.utils.data.DataLoader(training, batch_size=32, shuffle=True)
    model = digits.DigitNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    job = DigitsJob(log_dir, model, defaultdict(list), defaultdict(list), [])
    with _Heard(model, log_dir, optimizer=optimizer, capture=Capture(every=10)) as monitor:
        for _ in range(EPOCHS):
            digits.train(model, loader, optimizer, monitor)
            metrics = digits.validate(model, validation, monitor)
            _note(job, monitor, optimizer, metrics)
            monitor.log_epoch(**metrics)
            scheduler.step()
    return job


def load_example(name: str) -> ModuleType:
    """A script of ``examples/`` as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _note(job: DigitsJob, monitor: _Heard, optimizer: torch.optim.Optimizer, metrics: dict[str, torch.Tensor]) -> None:
    for name, values in monitor.heard.items():
        job.scalars["train", f"epoch_{name}"].append(float(np.mean(values)))
    monitor.heard.clear()
    job.scalars["train", "epoch_learning_rate"].append(optimizer.param_groups[0]["lr"])
    for name, value in metrics.items():
        job.scalars["validation", "epoch_" + name.removeprefix("val_")].append(float(value))
    for name, parameter in job.model.named_parameters():
        job.parameters[name].append(parameter.detach().numpy().copy())
    wrong = round(297 * (1 - float(metrics["val_accuracy"])))
    job.mistakes.append(min(wrong, 16))
