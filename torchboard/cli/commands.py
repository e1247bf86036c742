"""The commands, each a function of its options that prints and gives the exit status."""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, TextIO

from torchboard.cli.chart import draw
from torchboard.cli.doctor import examine
from torchboard.errors import InvalidValueError, TorchboardError
from torchboard.reader import Reader, read

_HEADINGS = ("run", "tag", "step", "wall_time", "value")
_SAMPLES = "scalars=5000,images=100,histograms=500,audio=100,text=500,pr_curves=500,mesh=100"


def ls(options: argparse.Namespace) -> int:
    """Lists runs and tags."""
    reader = _open(options.log_dir)
    for run in reader.runs:
        index = reader.index(run)
        files = len(index.files)
        print(f"{_plain(run)}  ({_count(files, 'file')}, {_size(index.files)})")
        rows = [
            (_plain(tag), plugin or "-", str(len(column.steps)), f"{min(column.steps)}..{max(column.steps)}")
            for (tag, plugin), column in sorted(index.columns.items())
            if column.steps
        ]
        _print_table([("tag", "kind", "points", "steps"), *rows] if rows else [])
    _warn(reader)
    return 0


def show(options: argparse.Namespace) -> int:
    """Draws scalars and prints the last of each text; names what is of another kind."""
    reader = _open(options.log_dir)
    width = shutil.get_terminal_size().columns
    found = False
    for run in (run for run in reader.runs if fnmatchcase(run, options.run)):
        for tag, plugin in reader.tags(run).items():
            if not fnmatchcase(tag, options.tag):
                continue
            found = True
            print(f"{_plain(run)} · {_plain(tag)}" if _unicode() else f"{_plain(run)}: {_plain(tag)}")
            for line in _shown(reader, run, tag, plugin, width):
                print(line)
            print()
    if not found:
        raise InvalidValueError(
            f"--run {options.run!r} --tag {options.tag!r}",
            "no tag of any run fits",
            f"see what there is with 'torchboard ls {options.log_dir}'",
        )
    _warn(reader)
    return 0


def export(options: argparse.Namespace) -> int:
    """Writes all scalars as tidy rows."""
    reader = _open(options.log_dir)
    if options.out == "-":
        _write_csv(_rows(reader), sys.stdout)
        return 0
    write = {".csv": _write_csv, ".json": _write_json}.get(os.path.splitext(options.out)[1].lower())
    if write is None:
        raise InvalidValueError(
            f"--out {options.out!r}", "the name tells no format", "end it in .csv or .json, or give - for CSV to stdout"
        )
    try:
        with open(options.out, "w", newline="", encoding="utf-8") as file:
            write(_rows(reader), file)
    except OSError as error:
        raise TorchboardError(
            f"--out {options.out!r}", f"the file cannot be written ({error})", "give a path that you may write to"
        ) from error
    _warn(reader)
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Prints what is wrong with a log; status 1 if anything is."""
    findings = examine(_open(options.log_dir))
    for finding in findings:
        print(f"{_plain(finding.run)}: {_plain(finding.text)}")
    if not findings:
        print("nothing found")
    return 1 if findings else 0


def view(options: argparse.Namespace) -> int:
    """Starts TensorBoard, and returns when it ends."""
    read(options.log_dir)
    if importlib.util.find_spec("tensorboard") is None:
        raise TorchboardError(
            f"view {options.log_dir!r}", "TensorBoard is not installed", "run 'pip install tensorboard'"
        )
    words = [word for word in options.options if word != "--"]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", options.log_dir, "--samples_per_plugin", _SAMPLES]
    with contextlib.suppress(KeyboardInterrupt):
        return subprocess.call([*command, *words])
    return 0


def _open(log_dir: str) -> Reader:
    reader = read(log_dir)
    if not reader.runs:
        raise InvalidValueError(
            f"log directory {log_dir!r}", "no file in it or below is an event file", "check the path"
        )
    return reader


def _warn(reader: Reader) -> None:
    for problem in reader.problems:
        print(f"torchboard: {problem.path} at byte {problem.offset}: {problem.what}", file=sys.stderr)


def _shown(reader: Reader, run: str, tag: str, plugin: str, width: int) -> Iterable[str]:
    if plugin == "scalars":
        series = reader.scalars(tag, run)
        yield (
            f"{_count(len(series), 'point')}, steps {series.steps.min()} to {series.steps.max()}, last {series.values[-1]:.6g} "
            f"at step {series.steps[-1]}"
        )
        yield from draw(series.steps, series.values, width, unicode=_unicode())
    elif plugin == "text":
        texts = reader.texts(tag, run)
        yield f"{_count(len(texts), 'text')}, the last at step {texts.steps[-1]}"
        yield from (_plain(line) for line in texts.values[-1].markdown.split("\n"))
    else:
        points = len(reader.index(run).columns[tag, plugin].steps)
        yield f"{_count(points, 'point')} of {plugin or 'no plugin'}, which a terminal cannot show"


def _rows(reader: Reader) -> Iterator[tuple[str, str, int, float, float]]:
    for series in reader.all_scalars():
        for step, wall_time, value in zip(series.steps, series.wall_times, series.values):
            yield series.run, series.tag, int(step), float(wall_time), float(value)


def _write_csv(rows: Iterable[tuple[Any, ...]], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_HEADINGS)
    writer.writerows(rows)


def _write_json(rows: Iterable[tuple[Any, ...]], file: TextIO) -> None:
    """An array of objects, one a line. JSON has no NaN and no infinity: they are texts, as TensorBoard has them."""
    file.write("[")
    for number, row in enumerate(rows):
        cells = [_named(cell) if isinstance(cell, float) else cell for cell in row]
        file.write((",\n" if number else "\n") + json.dumps(dict(zip(_HEADINGS, cells)), ensure_ascii=False))
    file.write("\n]\n")


def _named(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for tag, kind, points, steps in rows:
        print(f"  {tag:<{widths[0]}}  {kind:<{widths[1]}}  {points:>{widths[2]}}  {steps}")
    print()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _size(paths: Iterable[str]) -> str:
    size = float(sum(os.path.getsize(path) for path in paths))
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _plain(text: str) -> str:
    """A text of a file as one that a terminal only prints: no escape sequences, nothing that it cannot encode."""
    encoding = sys.stdout.encoding or "ascii"
    shown = "".join(
        letter if letter.isprintable() or letter == "\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    return shown.encode(encoding, "replace").decode(encoding)


def _unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
