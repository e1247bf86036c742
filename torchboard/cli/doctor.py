"""``torchboard doctor``: what would make TensorBoard show a log wrong, or nothing of it.

Each finding names the run, the tag or file, the step or byte, what becomes of it, and what to do.
"""

from __future__ import annotations

import argparse
from collections import Counter

from torchboard.cli.checks import CHECKS, Finding, samples_needed
from torchboard.cli.hparam_checks import check_hparams
from torchboard.cli.log import indexes
from torchboard.cli.terminal import plain
from torchboard.reader import Reader, read

_MOST = 10
"""Findings of one kind in one run that are named unless all are asked for."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--all", action="store_true", help=f"name every finding, also more than {_MOST} of one kind in a run"
    )


def run(options: argparse.Namespace) -> int:
    """Prints what is wrong with a log; status 1 if anything is."""
    reader = read(options.log_dir)
    findings = examine(reader)
    seen: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        key = (finding.run, finding.kind)
        seen[key] += 1
        if options.all or seen[key] <= _MOST:
            print(f"{plain(finding.run)}: {plain(finding.what)}: {plain(finding.wrong)}; {plain(finding.remedy)}")
    for (run, kind), number in seen.items():
        if number > _MOST and not options.all:
            print(f"{plain(run)}: and {number - _MOST} more of {kind}; name them with --all")
    needed = samples_needed(reader)
    if needed:
        flag = ",".join(f"{plugin}={number}" for plugin, number in sorted(needed.items()))
        print(f"every point is shown by: tensorboard --logdir {plain(options.log_dir)} --samples_per_plugin {flag}")
    if not findings:
        print("nothing found")
    return 1 if findings else 0


def examine(reader: Reader) -> list[Finding]:
    """Everything that is wrong with a log, run by run. Goes through all files; decodes no picture or histogram."""
    if not reader.runs:
        return [
            Finding(".", "an empty log", reader.log_dir, "no file in it or below is an event file", "check the path")
        ]
    found = [finding for run, index in indexes(reader) for check in CHECKS for finding in check(run, index)]
    return [*found, *check_hparams(reader)]
