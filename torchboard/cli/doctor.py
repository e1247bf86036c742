"""What would make TensorBoard show a log wrong, or nothing of it.

Each check is a function of one run and gives what it found in words. The rules are those of TensorBoard 2.21 and its two
loaders: the default one, and the one in Python (``--load_fast=false``).
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from torchboard.eventfile.names import MARK
from torchboard.reader import Reader
from torchboard.reader.index import RunIndex

_KEPT = {
    "scalars": 1000,
    "histograms": 100,
    "images": 10,
    "audio": 10,
    "text": 10,
    "pr_curves": 100,
    "mesh": 10,
}
"""How many points of a tag the smaller of both loaders keeps, by plugin."""

_ONCE = ("hparams", "custom_scalars", "graphs", "graph_tagged_run_metadata")
"""Plugins of which one point counts, wherever it lies."""


@dataclass(frozen=True)
class Finding:
    """One thing that TensorBoard would show wrong.

    Attributes:
        run: the run, relative to the log directory.
        text: what it is, and what becomes of it.
    """

    run: str
    text: str


def examine(reader: Reader) -> list[Finding]:
    """Everything that is wrong with a log, run by run. Goes through all files; decodes no picture or histogram."""
    return [Finding(run, text) for run in reader.runs for check in _CHECKS for text in check(reader.index(run))]


def _broken_files(index: RunIndex) -> Iterator[str]:
    for problem in index.problems:
        name = os.path.basename(problem.path)
        yield f"{name}: record at byte {problem.offset}: {problem.what}"


def _hidden_directory(index: RunIndex) -> Iterator[str]:
    if MARK in os.path.basename(os.path.realpath(index.directory)):
        yield f"the directory's own name contains {MARK!r}: the Python loader takes it for a file, and fails"


def _files_at_once(index: RunIndex) -> Iterator[str]:
    for (path, span), (other, later) in itertools.combinations(index.spans.items(), 2):
        shared = min(span[1], later[1]) - max(span[0], later[0])
        if shared > 0:
            yield (
                f"{os.path.basename(path)} and {os.path.basename(other)} were written at the same time, for {shared:.0f} s: "
                "the Python loader shows only the later of two live files; give each writer a run of its own"
            )


def _shared_tags(index: RunIndex) -> Iterator[str]:
    kinds: dict[str, list[str]] = {}
    for (tag, plugin), column in index.columns.items():
        if column.steps:
            kinds.setdefault(tag, []).append(plugin or "no plugin")
    for tag, plugins in kinds.items():
        if len(plugins) > 1:
            yield f"tag {tag!r} holds {' and '.join(plugins)}: TensorBoard shows neither"


def _steps_back(index: RunIndex) -> Iterator[str]:
    for (tag, plugin), column in index.columns.items():
        steps = np.array(column.steps, np.int64)
        back = np.flatnonzero(steps[1:] <= steps[:-1])
        if not len(back) or plugin in _ONCE:
            continue
        kept = len(_shown(steps))
        yield (
            f"tag {tag!r} goes from step {steps[back[0]]} to {steps[back[0] + 1]} ({len(back)} times in all): "
            f"the default loader shows {kept} of {len(steps)} points"
        )


def _shown(steps: np.ndarray) -> np.ndarray:
    """The steps that are below every step that follows them."""
    after = np.minimum.accumulate(steps[::-1])[::-1]
    return np.concatenate([steps[:-1][steps[:-1] < after[1:]], steps[-1:]])


def _wide_scalars(index: RunIndex) -> Iterator[str]:
    for (tag, _), column in index.columns.items():
        odd = sorted(column.forms - {"simple_value", "DT_FLOAT"})
        if odd:
            yield f"scalar {tag!r} is written as {', '.join(odd)}: the default loader shows DT_FLOAT of rank 0 only"


def _no_plugin(index: RunIndex) -> Iterator[str]:
    for (tag, plugin), column in index.columns.items():
        if not plugin and column.steps:
            yield f"tag {tag!r} names no plugin: it is shown nowhere"


def _sampled(index: RunIndex) -> Iterator[str]:
    for (tag, plugin), column in index.columns.items():
        if len(column.steps) > _KEPT.get(plugin, math.inf):
            yield (
                f"tag {tag!r} has {len(column.steps)} points of {plugin}: TensorBoard may show a sample of only "
                f"{_KEPT[plugin]} ('torchboard view' shows more)"
            )


def _wall_times(index: RunIndex) -> Iterator[str]:
    for (tag, _), column in index.columns.items():
        finite = np.isfinite(np.array(column.wall_times))
        if not finite.all():
            step = column.steps[int(np.flatnonzero(~finite)[0])]
            yield f"tag {tag!r} has a wall time that is not finite at step {step}: the default loader reads no further"


_CHECKS = (
    _broken_files,
    _hidden_directory,
    _files_at_once,
    _shared_tags,
    _steps_back,
    _wide_scalars,
    _no_plugin,
    _sampled,
    _wall_times,
)
