"""``torchboard compact``: a log in fewer bytes, which TensorBoard shows the same.

A run's new file is complete, read back and on disk before one of the old ones is touched. It takes the place of the last of
them in one rename and names the others, which then go; a command that was interrupted in between is finished by the next.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from torchboard.cli.compaction import Rules, Source, Tally, rewrite
from torchboard.cli.companions import copy_companions
from torchboard.cli.log import directory_of, open_log
from torchboard.cli.progress import progress
from torchboard.cli.terminal import count, duration, plain, size
from torchboard.errors import InvalidValueError, RunInUseError
from torchboard.eventfile.names import MARK
from torchboard.sink.ownership import disown, own

_TEMPORARY = ".torchboard-compact.tmp"
_ASIDE = "broken"
"""What a damaged file that was rewritten is called in place of ``tfevents``, so that TensorBoard reads it no more."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--output", metavar="DIR", help="a new directory for the log (default: LOG_DIR-compact)")
    place.add_argument("--in-place", action="store_true", help="replace the event files of LOG_DIR")
    parser.add_argument(
        "--time-slack",
        metavar="SECONDS",
        type=float,
        default=Rules.slack,
        help="scalars of one step that were written within so many seconds share an event and the time of the first of "
        "them; 0 keeps every time (default: %(default)s)",
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="leave behind what either of TensorBoard's loaders leaves out after a restart, so that both show the "
        "same curves; without it, what both leave out",
    )
    parser.add_argument("--salvage", action="store_true", help="take records behind broken ones, which no loader shows")
    parser.add_argument(
        "--histograms",
        action="store_true",
        help="give histograms over 900 bytes at most 64 buckets; edges move, counts and extremes stay",
    )


def run(options: argparse.Namespace) -> int:
    """Compacts a log; status 2 where a run was left out because somebody writes to it."""
    if not options.time_slack >= 0:
        raise InvalidValueError(
            f"--time-slack {options.time_slack}", "seconds are a number from 0 up", "give one such as 0.01"
        )
    reader = open_log(options.log_dir)
    rules = Rules(options.time_slack, options.clean, options.salvage, options.histograms)
    runs = {run: directory_of(reader, run) for run in reader.runs}
    if options.in_place:
        return _compact(runs, rules, lambda run, source: (source.directory, _replace))
    output = _check_output(options.output or os.path.realpath(reader.log_dir) + "-compact", reader.log_dir)
    building = f"{output}.part"
    try:
        os.mkdir(building)
    except FileExistsError:
        raise InvalidValueError(
            f"output {output!r}", f"{building!r} is there from a command that was cut short", "remove it"
        ) from None
    try:
        status = _compact(runs, rules, lambda run, source: (os.path.normpath(os.path.join(building, run)), _settle))
        others = copy_companions(reader.log_dir, building)
        with suppress(FileNotFoundError):
            os.rmdir(output)
        os.rename(building, output)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    print(f"written to {plain(output)}" + (f", with {count(others, 'file')} of embeddings or profiles" * bool(others)))
    return status


_Place = Callable[[str, Source], "tuple[str, Callable[[Source, Tally, str], None]]"]
"""Run and source -> where the new file is made, and what then puts it in its place."""


def _compact(runs: dict[str, str], rules: Rules, place: _Place) -> int:
    status, before, after = 0, 0, 0
    for run, directory in runs.items():
        try:
            with _owned(directory):
                source = Source(directory)
                target, finish = place(run, source)
                written, tally = _compact_run(source, target, finish, rules)
        except RunInUseError as error:
            print(f"torchboard: run {plain(run)!r} is left out: {error}", file=sys.stderr)
            status = 2
            continue
        before, after = before + source.nbytes, after + written
        print(
            f"{plain(run)}: {count(len(source.files) + len(source.leftovers), 'file')}, {_saved(source.nbytes, written)}"
        )
        for line in _notes(tally, finish is _replace):
            print(f"  {line}")
    if len(runs) > 1:
        print(f"in all: {_saved(before, after)}")
    return status


def _compact_run(
    source: Source, target: str, finish: Callable[[Source, Tally, str], None], rules: Rules
) -> tuple[int, Tally]:
    """Size of the new file, and what became of the run."""
    os.makedirs(target, exist_ok=True)
    temporary = os.path.join(target, _TEMPORARY)
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        with progress(2 * source.nbytes, "compacting") as advance:
            tally = rewrite(source, temporary, rules, advance)
        written = os.path.getsize(temporary)
        if finish is _replace and written >= source.nbytes and not tally.repaired and source.is_one:
            return source.nbytes, Tally(tally.kept)
        finish(source, tally, temporary)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    return written, tally


def _settle(source: Source, tally: Tally, temporary: str) -> None:
    """Puts the new file under the name of the run's last, in a directory of its own."""
    shutil.copystat(source.files[-1], temporary)
    directory = os.path.dirname(temporary)
    os.rename(temporary, os.path.join(directory, os.path.basename(source.files[-1])))
    _sync(directory)


def _replace(source: Source, tally: Tally, temporary: str) -> None:
    """Puts the new file in the place of the run's last, and removes the others; damaged ones are kept under another name."""
    *earlier, last = source.files
    damaged = {damage.path for damage in tally.damage if not damage.tail}
    shutil.copystat(last, temporary)
    if last in damaged:
        shutil.copy2(last, _aside(last))
    os.replace(temporary, last)
    _sync(source.directory)
    for path in [*earlier, *source.leftovers]:
        if path in damaged:
            os.rename(path, _aside(path))
        else:
            os.unlink(path)
    _sync(source.directory)


def _aside(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, name.replace(MARK, _ASIDE))


def _check_output(output: str, log_dir: str) -> str:
    """A directory that can be made: outside of the log, and not there or empty."""
    output, log_dir = os.path.realpath(os.path.expanduser(output)), os.path.realpath(log_dir)
    if os.path.commonpath([output, log_dir]) == log_dir:
        raise InvalidValueError(
            f"output {output!r}",
            "it lies in the log, and TensorBoard would show every run twice",
            "give another directory, or --in-place",
        )
    if os.path.lexists(output) and (not os.path.isdir(output) or os.listdir(output)):
        raise InvalidValueError(
            f"output {output!r}", "it is there and not empty", "give a new directory with --output, or --in-place"
        )
    return output


@contextmanager
def _owned(directory: str) -> Iterator[None]:
    owner = own(directory)
    try:
        yield
    finally:
        if owner is not None:
            disown(owner)


def _sync(directory: str) -> None:
    """Returns when the disk knows the names in a directory."""
    with suppress(OSError):  # where directories cannot be opened, as in Windows
        number = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _saved(before: int, after: int) -> str:
    share = f" ({abs(before - after) / before:.0%})" if before else ""
    words = "saved" if after <= before else "more"
    return f"{size(before)} -> {size(after)}: {size(abs(before - after))} {words}{share}"


def _notes(tally: Tally, in_place: bool) -> Iterator[str]:
    if tally.superseded:
        yield f"{count(tally.superseded, 'superseded point')} left behind"
    if tally.moved:
        yield f"times moved by up to {duration(tally.moved)}"
    if tally.rebucketed:
        yield f"{count(tally.rebucketed, 'histogram')} with fewer buckets"
    if tally.timeless:
        yield f"{count(tally.timeless, 'record')} without a finite time got that of the record before"
    if tally.foreign:
        yield f"{count(tally.foreign, 'record')} left behind that are no events"
    for damage in tally.damage:
        name = os.path.basename(damage.path)
        kind = "a torn tail" if damage.tail else damage.what
        kept = f"; the file is kept as {_aside(name)}" * (in_place and not damage.tail)
        yield f"{plain(name)}: {size(damage.nbytes)} left behind at byte {damage.offset}: {kind}{plain(kept)}"
