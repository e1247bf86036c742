"""What can be wrong with the table of trials, which TensorBoard puts together from all runs.

A trial is a run in which hyperparameters were written; its metrics are scalars of that run and of runs below it. Where an
experiment was declared, the table shows what it names and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from torchboard.cli.checks import Finding
from torchboard.cli.terminal import count
from torchboard.cli.trials import is_running
from torchboard.errors import TorchboardError
from torchboard.reader import Reader
from torchboard.values.hparams import (
    EXPERIMENT_TAG,
    SESSION_END_TAG,
    SESSION_START_TAG,
    Experiment,
    SessionEnd,
    SessionStart,
)

_LAST_STEP = 2**31 - 1
"""The dashboard counts the steps of metrics in 32 bits."""


@dataclass(frozen=True)
class _Trials:
    """What the runs of a log hold for the table."""

    sessions: dict[str, SessionStart]
    ended: set[str]
    running: set[str]
    experiments: dict[str, Experiment]
    scalars: dict[str, dict[str, int]]  # run -> tag -> largest step

    def home(self, run: str) -> str | None:
        """The trial that a run belongs to: the deepest that holds it."""
        homes = [session for session in self.sessions if _is_below(run, session)]
        return max(homes, key=len, default=None)

    def metrics(self, session: str) -> set[tuple[str, str]]:
        """Group and tag of every scalar of a trial."""
        runs = [run for run in self.scalars if self.home(run) == session]
        return {(_group(run, session), tag) for run in runs for tag in self.scalars[run]}


def check_hparams(reader: Reader) -> Iterator[Finding]:
    """What is wrong with the trials of a log; nothing if it has none."""
    trials = _trials(reader)
    if trials.sessions or trials.ended or trials.experiments:
        for check in (
            _no_trial,
            _no_end,
            _no_metrics,
            _undeclared,
            _declared_metrics,
            _several_experiments,
            _far_steps,
        ):
            yield from check(trials)


def _trials(reader: Reader) -> _Trials:
    trials = _Trials({}, set(), set(), {}, {})
    for run in reader.runs:
        columns = reader.index(run).columns
        trials.scalars[run] = {
            tag: max(column.steps)
            for (tag, plugin), column in columns.items()
            if plugin == "scalars" and len(column.steps)
        }
        for tag in [tag for (tag, plugin), column in columns.items() if plugin == "hparams" and len(column.steps)]:
            try:
                value = reader.values(tag, run).values[0]
            except TorchboardError:
                continue
            if isinstance(value, SessionStart) and tag == SESSION_START_TAG:
                trials.sessions[run] = value
            elif isinstance(value, Experiment) and tag == EXPERIMENT_TAG:
                trials.experiments[run] = value
            elif isinstance(value, SessionEnd) and tag == SESSION_END_TAG:
                trials.ended.add(run)
    trials.running.update(run for run in trials.sessions if run not in trials.ended and is_running(reader, run))
    return trials


def _no_trial(trials: _Trials) -> Iterator[Finding]:
    for run in sorted(trials.ended - set(trials.sessions)):
        yield _finding(run, "a trial ends that never began: it is not in the table", "write hyperparameters first")
    if not trials.sessions:
        for run in trials.experiments:
            yield _finding(
                run,
                "an experiment is declared and no run has hyperparameters: the table is empty",
                "log those of each trial with torchboard.hparams.Trial or Monitor(hparams=…)",
            )
    for run, tags in sorted(trials.scalars.items()):
        if trials.home(run) is not None:
            continue
        above = [one for place, one in trials.experiments.items() if _is_below(run, place)]
        declared = {metric.tag for one in above for metric in one.metrics if _ends(run, metric.group)}
        for tag in sorted(declared & set(tags)):
            yield _finding(
                run,
                f"scalar {tag!r} is a declared metric, but neither this run nor one above it has hyperparameters",
                "log them there, so that it is in the table",
            )


def _no_end(trials: _Trials) -> Iterator[Finding]:
    for run in sorted(set(trials.sessions) - trials.ended - trials.running):
        yield _finding(
            run,
            "the trial has not ended, and no writer of torchboard's on this machine holds it: its status stays unknown",
            "begin it again with the same hyperparameters, or remove it, if its process was killed",
        )


def _no_metrics(trials: _Trials) -> Iterator[Finding]:
    declared = {(metric.group, metric.tag) for one in trials.experiments.values() for metric in one.metrics}
    for session in sorted(trials.sessions):
        metrics = trials.metrics(session)
        if not metrics:
            yield _finding(
                session, "hyperparameters without a metric: their row is empty", "log scalars in this run or below"
            )
        elif declared and not metrics & declared:
            yield _finding(
                session,
                f"hyperparameters, and {count(len(metrics), 'scalar')} of which the experiment declares none as a metric",
                "declare Metric(tag, group), the group being the directory below the trial's",
            )
    if "." in trials.sessions and not trials.experiments:
        yield _finding(
            ".",
            "the trial lies in the log directory itself: TensorBoard finds no metric of it",
            "give each trial a directory of its own below",
        )


def _undeclared(trials: _Trials) -> Iterator[Finding]:
    if not trials.experiments:
        return
    declared = {info.name for one in trials.experiments.values() for info in one.hparams}
    for session, start in sorted(trials.sessions.items()):
        hidden = sorted(set(start.hparams) - declared)
        if hidden:
            yield _finding(
                session,
                f"{', '.join(map(repr, hidden))}: not declared by the experiment, so the table has no such column",
                "declare them, or write no experiment",
            )


def _declared_metrics(trials: _Trials) -> Iterator[Finding]:
    if not trials.sessions:
        return
    found = {metric for session in trials.sessions for metric in trials.metrics(session)}
    for run, experiment in sorted(trials.experiments.items()):
        for metric in experiment.metrics:
            if (metric.group, metric.tag) not in found:
                where = f" in a directory {metric.group!r} below it" if metric.group else ""
                yield _finding(
                    run,
                    f"metric {metric.tag!r} is declared, and no trial has such a scalar{where}: its column is empty",
                    "log it, or declare the tag and group that you log",
                )


def _several_experiments(trials: _Trials) -> Iterator[Finding]:
    contents = {
        run: (frozenset(info.name for info in one.hparams), frozenset((info.group, info.tag) for info in one.metrics))
        for run, one in trials.experiments.items()
    }
    first = min(contents, default="")
    for run, content in sorted(contents.items()):
        if content != contents[first]:
            yield _finding(
                run,
                f"its experiment declares other columns than that of {first!r}: the default loader picks either",
                "declare one experiment, in the log directory itself",
            )
            return


def _far_steps(trials: _Trials) -> Iterator[Finding]:
    for run, tags in sorted(trials.scalars.items()):
        for tag, step in sorted(tags.items()):
            if step > _LAST_STEP and trials.home(run) is not None:
                yield _finding(
                    run,
                    f"scalar {tag!r} has step {step}: the table fails as a whole, it counts to {_LAST_STEP}",
                    "count steps from 0",
                )


def _finding(run: str, wrong: str, remedy: str) -> Finding:
    return Finding(run, "trials", "hparams", wrong, remedy)


def _is_below(run: str, directory: str) -> bool:
    return directory == "." or run == directory or run.startswith(directory + os.sep)


def _group(run: str, session: str) -> str:
    return "" if run == session else os.path.relpath(run, session).replace(os.sep, "/")


def _ends(run: str, group: str) -> bool:
    return not group or run == group or run.endswith(os.sep + group)
