"""What can be wrong with one run.

Each check is a function of a run's name and index. The rules are those of TensorBoard 2.21 and its two loaders: the default
one, and the one in Python (``--load_fast=false``).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from torchboard.cli.compaction import Source
from torchboard.cli.damage import Damage, records
from torchboard.cli.terminal import count
from torchboard.eventfile.names import MARK
from torchboard.notebook import SAMPLES
from torchboard.reader import Reader
from torchboard.reader.index import RunIndex

KEPT = {
    "scalars": (1000, 1000),
    "histograms": (100, 500),
    "images": (10, 10),
    "audio": (10, 10),
    "text": (100, 10),
    "pr_curves": (100, 100),
    "mesh": (100, 10),
}
"""How many points of a tag the default loader and the Python loader keep, by plugin."""

ONCE = ("hparams", "custom_scalars", "graphs", "graph_tagged_run_metadata")
"""Plugins of which one point counts, wherever it lies."""


@dataclass(frozen=True)
class Finding:
    """One thing that TensorBoard would show wrong.

    Attributes:
        run: the run, relative to the log directory.
        kind: what such findings are called.
        what: the tag and step, or the file and byte.
        wrong: what is wrong with it, and what becomes of it.
        remedy: what to do, as an imperative.
    """

    run: str
    kind: str
    what: str
    wrong: str
    remedy: str


def samples_needed(reader: Reader) -> dict[str, int]:
    """Plugin -> points of its longest tag, where a loader would keep fewer."""
    needed: dict[str, int] = {}
    for run in reader.runs:
        for (_, plugin), column in reader.index(run).columns.items():
            if len(column.steps) > min(KEPT.get(plugin, (len(column.steps),))):
                needed[plugin] = max(needed.get(plugin, 0), len(column.steps))
    return needed


def _broken_files(run: str, index: RunIndex) -> Iterator[Finding]:
    broken = {problem.path for problem in index.problems if os.path.exists(problem.path)}
    seen: set[tuple[str, int]] = set()
    for path in index.files:
        for finding, offset in _damage_of(run, path) if path in broken else ():
            seen.add((path, offset))
            yield finding
    for problem in index.problems:
        if (problem.path, problem.offset) not in seen:
            what = f"{os.path.basename(problem.path)} at byte {problem.offset}"
            yield Finding(
                run, "unread records", what, problem.what, "'torchboard compact' leaves it out if it is no event"
            )


def _damage_of(run: str, path: str) -> Iterator[tuple[Finding, int]]:
    """What is wrong with one file, and where, in bytes."""
    name = os.path.basename(path)
    items = records(path, os.path.getsize(path), salvage=True)
    for is_damage, group in itertools.groupby(items, lambda item: isinstance(item, Damage)):
        if not is_damage:
            continue
        for damage in group:
            place = f"{name} at byte {damage.offset}"
            yield Finding(run, "broken records", place, *_damage_words(damage, path)), damage.offset


def _damage_words(damage: Damage, path: str) -> tuple[str, str]:
    length = count(damage.nbytes, "byte")
    if damage.tail:
        return (
            f"the last record is torn ({damage.what}, {length}): it is not shown",
            "start a new file behind it and never append to this one; 'torchboard compact' leaves it behind",
        )
    rest = sum(isinstance(item, Damage) is False for item in records(path, os.path.getsize(path), salvage=True))
    before = sum(1 for item in records(path, damage.offset))
    lost = f"{count(rest - before, 'sound record')} behind it" if rest > before else "nothing sound is behind it"
    loaders = "the Python loader reads no further" if "data" in damage.what else "no loader reads further"
    return f"{damage.what} ({length}): {loaders}, {lost}", "take the rest with 'torchboard compact --salvage'"


def _tfevents_directories(run: str, index: RunIndex) -> Iterator[Finding]:
    wrong = f"it contains {MARK!r}: the Python loader takes the directory for a file, and fails"
    own = os.path.basename(os.path.realpath(index.directory))
    if MARK in own:
        yield Finding(run, "directory names", f"the directory {own!r}", wrong, "rename it")
    with os.scandir(index.directory) as entries:
        for name in sorted(entry.name for entry in entries if MARK in entry.name and entry.is_dir()):
            yield Finding(run, "directory names", f"the directory {name!r} in it", wrong, "rename it")


def _nothing(run: str, index: RunIndex) -> Iterator[Finding]:
    if not any(len(column.steps) for column in index.columns.values()):
        files = count(len(index.files), "event file")
        yield Finding(run, "empty runs", files, "there is no value: an empty run is listed", "remove it")


def _leftovers(run: str, index: RunIndex) -> Iterator[Finding]:
    for path in Source(index.directory).leftovers:
        yield Finding(
            run,
            "leftovers",
            os.path.basename(path),
            "an interrupted 'torchboard compact' has already written its data to another file",
            "run 'torchboard compact --in-place' again",
        )


def _files_at_once(run: str, index: RunIndex) -> Iterator[Finding]:
    for (path, span), (other, later) in itertools.combinations(index.spans.items(), 2):
        shared = min(span[1], later[1]) - max(span[0], later[0])
        if shared > 0:
            yield Finding(
                run,
                "files at once",
                f"{os.path.basename(path)} and {os.path.basename(other)}",
                f"they were written at the same time, for {shared:.3g} s: while TensorBoard watches, its Python loader "
                "shows only the later of two live files",
                "give each writer a run of its own",
            )


def _shared_tags(run: str, index: RunIndex) -> Iterator[Finding]:
    kinds: dict[str, list[str]] = {}
    for (tag, plugin), column in index.columns.items():
        if len(column.steps):
            kinds.setdefault(tag, []).append(plugin)
    for tag, plugins in kinds.items():
        step = index.columns[tag, plugins[-1]].steps[0]
        if len(plugins) == 2 and not plugins[0]:
            yield Finding(
                run,
                "late metadata",
                f"tag {tag!r}",
                f"its first record lacks the metadata that come at step {step}: the default loader shows nothing of it",
                f"write the plugin ({plugins[1]!r}) with every value",
            )
        elif len(plugins) > 1:
            yield Finding(
                run,
                "shared tags",
                f"tag {tag!r} at step {step}",
                f"it holds {' and '.join(plugin or 'no plugin' for plugin in plugins)}: TensorBoard shows neither",
                "give each kind a tag of its own",
            )
        elif not plugins[0]:
            yield Finding(
                run,
                "tags without a plugin",
                f"tag {tag!r} at step {step}",
                "it names no plugin: it is shown nowhere",
                "write it with add_scalar, add_text or the like; torchboard.read gives the array back",
            )


def _steps_back(run: str, index: RunIndex) -> Iterator[Finding]:
    for (tag, plugin), column in index.columns.items():
        steps = np.array(column.steps, np.int64)
        back = np.flatnonzero(steps[1:] <= steps[:-1])
        if not len(back) or plugin in ONCE:
            continue
        after = np.minimum.accumulate(steps[::-1])[::-1]
        kept = 1 + int((steps[:-1] < after[1:]).sum())
        yield Finding(
            run,
            "steps that go back",
            f"tag {tag!r} at step {steps[back[0] + 1]}",
            f"it comes after step {steps[back[0]]} ({count(len(back), 'time')} in all): the default loader shows {kept} of "
            f"{len(steps)} points, the Python loader a line that goes back",
            "count steps on, or resume with purge_step; 'torchboard compact --clean' keeps the last pass",
        )


def _wide_scalars(run: str, index: RunIndex) -> Iterator[Finding]:
    for (tag, _), column in index.columns.items():
        odd = sorted(column.forms - {"simple_value", "DT_FLOAT"})
        if odd:
            yield Finding(
                run,
                "types of scalars",
                f"tag {tag!r} at step {column.steps[0]}",
                f"its scalars are {', '.join(odd)}: the default loader shows DT_FLOAT of rank 0 only",
                "write them as float32, as SummaryWriter.add_scalar does",
            )


def _sampled(run: str, index: RunIndex) -> Iterator[Finding]:
    for (tag, plugin), column in index.columns.items():
        points = len(column.steps)
        default, python = KEPT.get(plugin, (points, points))
        if points <= min(default, python):
            continue
        loader = "TensorBoard" if points > default else "TensorBoard's Python loader"
        kept = default if points > default else python
        ours = ", as 'torchboard view' does" * (points <= SAMPLES[plugin])
        yield Finding(
            run,
            "sampled tags",
            f"tag {tag!r} up to step {max(column.steps)}",
            f"it has {points} points of {plugin}: {loader} shows a sample of {kept}",
            f"start it with --samples_per_plugin {plugin}={points}{ours}",
        )


def _wall_times(run: str, index: RunIndex) -> Iterator[Finding]:
    for (tag, _), column in index.columns.items():
        finite = np.isfinite(np.array(column.wall_times, np.float64))
        if not finite.all():
            step = column.steps[int(np.flatnonzero(~finite)[0])]
            yield Finding(
                run,
                "wall times",
                f"tag {tag!r} at step {step}",
                "its wall time is not finite: the default loader reads the file no further",
                "'torchboard compact' gives it the time of the record before",
            )


CHECKS: tuple[Callable[[str, RunIndex], Iterator[Finding]], ...] = (
    _broken_files,
    _tfevents_directories,
    _nothing,
    _leftovers,
    _files_at_once,
    _shared_tags,
    _steps_back,
    _wide_scalars,
    _sampled,
    _wall_times,
)
"""All checks of one run."""
