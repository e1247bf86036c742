"""``torchboard ls``: what there is in a log, run by run."""

from __future__ import annotations

import argparse
import math
from fnmatch import fnmatchcase

import numpy as np

from torchboard.cli.log import add_globs, load, nbytes, no_tag, open_log, warn_of_problems
from torchboard.cli.terminal import count, duration, moment, plain, size, table
from torchboard.reader import Reader
from torchboard.reader.index import RunIndex

_HEADINGS = ("tag", "kind", "points", "steps", "last written")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    add_globs(parser, "list")


def run(options: argparse.Namespace) -> int:
    """Lists runs and tags."""
    reader = open_log(options.log_dir)
    seen = []
    for name in load(reader, options.run):
        index = reader.index(name)
        rows = _rows(index, options.tag)
        if not rows and (options.run, options.tag) != ("*", "*"):
            continue
        seen.append(name)
        print(f"{plain(name)}  ({_about(index)}{_trial(reader, name)})")
        for line in table([_HEADINGS, *rows], right=(2, 3)) if rows else []:
            print(f"  {line}")
        print()
    if not seen:
        raise no_tag(options)
    warn_of_problems(reader, seen)
    return 0


def _rows(index: RunIndex, pattern: str) -> list[tuple[str, ...]]:
    return [
        (
            plain(tag),
            plugin or "-",
            str(len(column.steps)),
            f"{min(column.steps)}..{max(column.steps)}",
            moment(max(filter(math.isfinite, column.wall_times), default=math.nan)),
        )
        for (tag, plugin), column in sorted(index.columns.items())
        if len(column.steps) and fnmatchcase(tag, pattern)
    ]


def _about(index: RunIndex) -> str:
    words = [count(len(index.files), "file"), size(nbytes(index.files))]
    times = [np.asarray(column.wall_times, np.float64) for column in index.columns.values()]
    together = np.concatenate([np.zeros(0), *times])
    together = together[np.isfinite(together)]
    if len(together):
        first, last = float(together.min()), float(together.max())
        words.append(f"{moment(first)} to {moment(last)}, {duration(last - first)}")
    return ", ".join(words)


def _trial(reader: Reader, run: str) -> str:
    """What became of the run's trial, to be added to what is said of the run."""
    if all(plugin != "hparams" for _, plugin in reader.index(run).columns):
        return ""
    from torchboard.cli.trials import fate

    found = fate(reader, run)
    return f"; trial {found}" if found else ""
