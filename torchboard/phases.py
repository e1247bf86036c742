"""The runs of a monitor, one for each phase, and the curves that lie over each other in them."""

from __future__ import annotations

from torch import Tensor

from torchboard.capture.metrics import VALIDATION, scalars
from torchboard.run import Run


class Phases:
    """Writes the metrics of training, validation and whatever else there is to a run each.

    Args:
        run: that of training.
        name: what that phase is called.
    """

    def __init__(self, run: Run, name: str) -> None:
        self._root = run.root
        self._runs = {name: run}
        self._evaluated = -1

    def run(self, phase: str) -> Run:
        """The run of a phase, below the log directory."""
        if phase not in self._runs:
            self._runs[phase] = self._root.sub(phase)
        return self._runs[phase]

    def write(self, phase: str, tag: str, metrics: dict[str, float | Tensor], step: int) -> None:
        """Writes checked metrics under ``tag``, in which ``{}`` stands for the name; nothing waits for those on a device."""
        if metrics:
            pairs, pending = scalars({tag.format(name): value for name, value in metrics.items()})
            self.run(phase).write(step, pairs, pending=pending)

    def end_epoch(self, metrics: dict[str, dict[str, float | Tensor]], epoch: int, steps: int) -> None:
        """Writes what an epoch came to, over epochs, and what validation found, over steps of training too.

        Args:
            metrics: phase -> checked metrics.
            epoch: the number of the epoch that ends.
            steps: how many steps of training there were by now; where there was none since the last evaluation, the
                second has no point over steps.
        """
        found = metrics.get(VALIDATION, {})
        if found and steps != self._evaluated:
            self._evaluated = steps
            self.write(VALIDATION, "evaluation_{}_vs_iterations", found, steps)
        for phase, values in metrics.items():
            self.write(phase, "epoch_{}", values, epoch)
