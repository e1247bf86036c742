"""Trials of hyperparameters: what TensorBoard's HParams dashboard compares.

A **trial** is one training run with one choice of hyperparameters, in a directory of its own. Point TensorBoard at the
directory *above* the trials: it makes the table from what it finds, a column for every hyperparameter and for every scalar
of a trial. Declaring an experiment with ``hparams_config`` is only needed for domains, display names or a choice of columns.

    >>> from torchboard import SummaryWriter, hparams
    >>> lr = hparams.HParam("lr", hparams.RealInterval(1e-4, 1e-1))
    >>> depth = hparams.HParam("depth", hparams.Discrete([2, 4]))
    >>> for number, choice in enumerate(hparams.progress(hparams.sample([lr, depth], n=20, seed=0))):
    ...     log_dir = f"runs/search/{number}"
    ...     with hparams.Trial(log_dir, choice), SummaryWriter(log_dir) as writer:
    ...         writer.add_scalar("accuracy", train(choice[lr], choice[depth]), 0)

Nothing here needs torch, and a trial costs two small events.
"""

from __future__ import annotations

from torchboard.hparams.choices import grid, progress, sample
from torchboard.hparams.domains import Discrete, HParam, IntInterval, Metric, RealInterval
from torchboard.hparams.experiment import hparams_config
from torchboard.hparams.trials import Trial

__all__ = [
    "Discrete",
    "HParam",
    "IntInterval",
    "Metric",
    "RealInterval",
    "Trial",
    "grid",
    "hparams_config",
    "progress",
    "sample",
]
