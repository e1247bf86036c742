"""A log as the commands open it: its runs one by one, with a bar, and what in it could not be read."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from google.protobuf.message import DecodeError

from torchboard import proto
from torchboard.cli.progress import progress
from torchboard.errors import InvalidValueError
from torchboard.eventfile.framing import Record
from torchboard.eventfile.scanning import walk
from torchboard.reader import Reader, read
from torchboard.reader.index import RunIndex, event_files


def add_globs(parser: argparse.ArgumentParser, verb: str) -> None:
    """Declares ``--run`` and ``--tag``."""
    parser.add_argument("--run", metavar="GLOB", default="*", help=f"runs to {verb}, such as 'train*' (default: all)")
    parser.add_argument("--tag", metavar="GLOB", default="*", help=f"tags to {verb}, such as 'epoch_*' (default: all)")


def open_log(log_dir: str) -> Reader:
    """A reader of a directory with runs in it.

    Raises:
        InvalidValueError: there is no event file in it.
        RunError: there is no such directory.
    """
    reader = read(log_dir)
    if not reader.runs:
        raise InvalidValueError(
            f"log directory {log_dir!r}", "no file in it or below is an event file", "check the path"
        )
    return reader


def directory_of(reader: Reader, run: str) -> str:
    """Where the files of a run lie."""
    return os.path.normpath(os.path.join(reader.log_dir, run))


def writer_of(path: str) -> str:
    """Who wrote an event file, as its first record says; empty where that says nothing or is broken.

    Raises:
        OSError: the file cannot be read.
    """
    first = next(walk(path), None)
    try:
        return proto.Event.FromString(first.data).source_metadata.writer if isinstance(first, Record) else ""
    except DecodeError:
        return ""


def nbytes(paths: Iterable[str]) -> int:
    """How large files are together; one that is gone counts as empty."""
    return sum(os.path.getsize(path) for path in paths if os.path.exists(path))


def indexes(reader: Reader, pattern: str = "*") -> Iterator[tuple[str, RunIndex]]:
    """The runs that fit and what stands where in them, read one by one as they are asked for."""
    runs = [run for run in reader.runs if fnmatchcase(run, pattern)]
    sizes = [nbytes(event_files(directory_of(reader, run))) for run in runs]
    with progress(sum(sizes), "reading") as advance:
        for run, length in zip(runs, sizes):
            index = reader.index(run)
            advance(length)
            yield run, index


def load(reader: Reader, pattern: str = "*") -> list[str]:
    """Reads the runs that fit, so that nothing later waits for them, and gives their names."""
    return [run for run, _ in indexes(reader, pattern)]


def no_tag(options: argparse.Namespace) -> InvalidValueError:
    """The error of globs that fit nothing."""
    return InvalidValueError(
        f"--run {options.run!r} --tag {options.tag!r}",
        "no tag of any run fits",
        f"see what there is with 'torchboard ls {options.log_dir}'",
    )


def warn_of_problems(reader: Reader, runs: Iterable[str]) -> None:
    """Says on stderr what in the files of some runs could not be read."""
    for run in runs:
        for problem in reader.index(run).problems:
            print(f"torchboard: {problem.path} at byte {problem.offset}: {problem.what}", file=sys.stderr)
