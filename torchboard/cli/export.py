"""``torchboard export``: scalars as rows of run, tag, step, wall_time and value, for everything that reads tables.

Rows go out in pieces as they are made, and a file gets its name when it is complete.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, TextIO

import numpy as np

from torchboard.cli.log import add_globs, indexes, no_tag, open_log, warn_of_problems
from torchboard.errors import InvalidValueError, TorchboardError
from torchboard.reader import Reader, Series

_COLUMNS = ("run", "tag", "step", "wall_time", "value")
_PIECE = 1 << 16
"""Points of one curve that are turned into rows at once."""
_GROUP = 1 << 20
"""Rows of a Parquet file that are written at once."""
_ENDINGS = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".pq": "parquet"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    add_globs(parser, "export")
    parser.add_argument("--out", metavar="FILE", default="-", help="the file to write (default: -, which is stdout)")
    parser.add_argument(
        "--format", choices=("csv", "json", "parquet"), help="default: by the ending of FILE, and CSV on stdout"
    )


def run(options: argparse.Namespace) -> int:
    """Writes the scalars that fit."""
    form = _form(options)
    if form == "parquet":
        _pyarrow(options.out)
    reader = open_log(options.log_dir)
    pieces = _pieces(reader, options)
    first = next(pieces, None)
    if first is None:
        raise no_tag(options)
    pieces = _chain(first, pieces)
    if options.out == "-":
        _TEXTS[form](pieces, sys.stdout)
    else:
        _write_file(options.out, form, pieces)
    warn_of_problems(reader, [run for run in reader.runs if fnmatchcase(run, options.run)])
    return 0


def _form(options: argparse.Namespace) -> str:
    ending = os.path.splitext(options.out)[1].lower()
    form = options.format or ("csv" if options.out == "-" else _ENDINGS.get(ending))
    if form is None:
        raise InvalidValueError(
            f"--out {options.out!r}", "the name tells no format", "end it in .csv, .json or .parquet, or give --format"
        )
    if form == "parquet" and options.out == "-":
        raise InvalidValueError(
            "--format parquet", "its bytes are not for stdout", "name a file with --out, such as scalars.parquet"
        )
    return form


def _pieces(reader: Reader, options: argparse.Namespace) -> Iterator[Series[np.ndarray]]:
    """The curves that fit, long ones in pieces."""
    for run, index in indexes(reader, options.run):
        for tag, plugin in sorted(index.columns):
            if plugin != "scalars" or not fnmatchcase(tag, options.tag) or not len(index.columns[tag, plugin].steps):
                continue
            series = reader.scalars(tag, run)
            for start in range(0, len(series), _PIECE):
                cut = slice(start, start + _PIECE)
                yield Series(run, tag, plugin, series.steps[cut], series.wall_times[cut], series.values[cut])


def _chain(first: Series[np.ndarray], rest: Iterator[Series[np.ndarray]]) -> Iterator[Series[np.ndarray]]:
    yield first
    yield from rest


def _write_file(path: str, form: str, pieces: Iterator[Series[np.ndarray]]) -> None:
    temporary = f"{path}.part"
    try:
        if form == "parquet":
            _write_parquet(pieces, temporary)
        else:
            with open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
                _TEXTS[form](pieces, file)
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error, TorchboardError):
            raise
        raise TorchboardError(
            f"--out {path!r}", f"the file cannot be written ({error})", "give a path that you may write to"
        ) from error
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _rows(piece: Series[np.ndarray]) -> Iterator[tuple[Any, ...]]:
    for row in zip(piece.steps.tolist(), piece.wall_times.tolist(), piece.values.tolist()):
        yield (piece.run, piece.tag, *row)


def _write_csv(pieces: Iterator[Series[np.ndarray]], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for piece in pieces:
        writer.writerows(_rows(piece))


def _write_json(pieces: Iterator[Series[np.ndarray]], file: TextIO) -> None:
    """An array of objects, one a line. JSON has no NaN and no infinity: they are texts, as TensorBoard has them."""
    between = "[\n"
    for piece in pieces:
        for row in _rows(piece):
            cells = [_named(cell) if isinstance(cell, float) else cell for cell in row]
            file.write(between + json.dumps(dict(zip(_COLUMNS, cells)), ensure_ascii=False))
            between = ",\n"
    file.write("\n]\n")


def _named(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _write_parquet(pieces: Iterator[Series[np.ndarray]], path: str) -> None:
    """One table in groups of about a million rows; texts are stored once a group, whatever the number of rows."""
    arrow, parquet = _pyarrow(path)
    kinds = (arrow.string(), arrow.string(), arrow.int64(), arrow.float64(), arrow.float64())
    schema = arrow.schema(list(zip(_COLUMNS, kinds)))
    with parquet.ParquetWriter(path, schema) as writer:
        waiting: list[Any] = []
        for piece in pieces:
            texts = [
                arrow.repeat(text.encode("utf-8", "replace").decode(), len(piece)) for text in (piece.run, piece.tag)
            ]
            numbers = [arrow.array(column) for column in (piece.steps, piece.wall_times, piece.values)]
            waiting.append(arrow.Table.from_arrays([*texts, *numbers], schema=schema))
            if sum(table.num_rows for table in waiting) >= _GROUP:
                writer.write_table(arrow.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(arrow.concat_tables(waiting))


def _pyarrow(path: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise TorchboardError(
            f"--format parquet for {path!r}", "pyarrow is not installed", "run 'pip install pyarrow', or export .csv"
        ) from error
    return pyarrow, pyarrow.parquet


_TEXTS: dict[str, Callable[[Iterator[Series[np.ndarray]], TextIO], None]] = {"csv": _write_csv, "json": _write_json}
