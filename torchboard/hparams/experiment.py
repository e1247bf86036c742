"""Declaring an experiment: which columns the table of trials has, their domains and their names."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace

from torchboard.errors import InvalidValueError, RunError
from torchboard.hparams.domains import Discrete, HParam, Metric, listed
from torchboard.reader import read
from torchboard.run import open_run
from torchboard.values.hparams import EXPERIMENT_TAG, Experiment, HParamInfo, Interval, MetricInfo, Plain


def hparams_config(log_dir: str | os.PathLike[str], hparams: Iterable[HParam], metrics: Iterable[Metric | str]) -> None:
    """Declares the experiment of all trials below ``log_dir``: the columns of the table, and nothing but these.

    Write it once, before or after the trials, into the directory that TensorBoard is pointed at: of several it keeps one.
    A second one that says the same is left out, so that every trial's program may declare it. A metric may be given by its
    tag alone. It is on disk when this returns. The event files of the directory itself are read before.

    Raises:
        InvalidValueError: something is no hyperparameter or no metric, or a name comes twice; or the directory declares
            another experiment.
        RunError: the directory cannot be used.
        RunInUseError: another process is writing in it.
    """
    experiment = experiment_of(hparams, metrics)
    known = _declared(log_dir)
    if known is not None and replace(known, time=experiment.time) == experiment:
        return
    if known is not None:
        raise InvalidValueError(
            f"an experiment for {os.fspath(log_dir)!r}",
            "the directory declares another, and TensorBoard would go on showing the columns of that one",
            "remove its event file, or use a directory of its own",
        )
    run = open_run(log_dir)
    try:
        run.write(0, ((EXPERIMENT_TAG, experiment),))
        run.flush()
    finally:
        run.close()


def _declared(log_dir: str | os.PathLike[str]) -> Experiment | None:
    """The experiment that a directory declares, if it does."""
    try:
        return read(log_dir).values(EXPERIMENT_TAG, ".").values[0]
    except (InvalidValueError, RunError):
        return None


def experiment_of(hparams: Iterable[HParam], metrics: Iterable[Metric | str]) -> Experiment:
    """The value that declares them.

    Raises:
        InvalidValueError: something is no hyperparameter or no metric, or a name comes twice.
    """
    columns = [Metric(metric) if isinstance(metric, str) else metric for metric in metrics]
    for metric in columns:
        if not isinstance(metric, Metric):
            raise InvalidValueError(f"metric {metric!r}", "it is neither a Metric nor a tag", "give Metric(tag)")
    return Experiment(tuple(map(_hparam_info, listed(hparams))), tuple(map(_metric_info, columns)), time.time())


def _hparam_info(hparam: HParam) -> HParamInfo:
    domain = hparam.domain
    values: tuple[Plain, ...] | Interval | None = None
    if isinstance(domain, Discrete):
        values = domain.values
    elif domain is not None:
        values = Interval(domain.min_value, domain.max_value)
    kind = domain.type if domain is not None else ""
    return HParamInfo(hparam.name, kind, values, hparam.display_name or "", hparam.description or "")


def _metric_info(metric: Metric) -> MetricInfo:
    return MetricInfo(
        metric.tag,
        metric.group or "",
        metric.display_name or "",
        metric.description or "",
        metric.dataset_type or "",
    )
