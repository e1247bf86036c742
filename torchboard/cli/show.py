"""``torchboard show``: a log in the terminal, tag by tag, the curves of all runs over each other."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from urllib.parse import quote

import numpy as np

from torchboard.cli.chart import COLOURS, MARKS, Style, bars, draw, smoothed
from torchboard.cli.log import add_globs, load, no_tag, open_log, warn_of_problems
from torchboard.cli.terminal import colours, count, plain, unicode
from torchboard.errors import InvalidValueError
from torchboard.reader import Reader, Series

_ROWS = 8
"""Most histograms of a tag that are drawn."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    add_globs(parser, "show")
    parser.add_argument(
        "--log", action="store_true", help="logarithmic vertical axis; what is not positive is left out"
    )
    parser.add_argument(
        "--smooth", metavar="WEIGHT", type=float, default=0.0, help="smooth as TensorBoard does, from 0 to below 1"
    )
    parser.add_argument("--width", type=int, help="characters a line (default: those of the terminal)")
    parser.add_argument("--height", type=int, default=8, help="lines a chart (default: %(default)s)")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--save", metavar="DIR", help="write pictures as PNG and audio as WAV below this directory")


def run(options: argparse.Namespace) -> int:
    """Draws scalars and histograms, prints the last of each text, and names or saves what else there is."""
    _check(options)
    reader = open_log(options.log_dir)
    runs = load(reader, options.run)
    columns = [(tag, plugin, run) for run in runs for tag, plugin in reader.tags(run).items()]
    found = sorted(column for column in columns if fnmatchcase(column[0], options.tag))
    if not found:
        raise no_tag(options)
    shown = _Shown(reader, options)
    for tag, plugin in dict.fromkeys((tag, plugin) for tag, plugin, _ in found):
        print(f"{plain(tag)}  ({plugin or 'no plugin'})")
        for line in shown.lines(tag, plugin, [run for *key, run in found if key == [tag, plugin]]):
            print(line)
        print()
    warn_of_problems(reader, runs)
    return 0


class _Shown:
    """The lines of each kind of tag."""

    def __init__(self, reader: Reader, options: argparse.Namespace) -> None:
        self._reader = reader
        self._options = options
        self._style = Style(
            options.width or shutil.get_terminal_size().columns,
            options.height,
            unicode() and not options.ascii,
            colours() and not options.ascii,
            options.log,
        )

    def lines(self, tag: str, plugin: str, runs: list[str]) -> Iterator[str]:
        """What is shown of one tag."""
        if plugin == "scalars":
            yield from self._scalars([self._reader.scalars(tag, run) for run in runs])
            return
        kinds: dict[str, Callable[[str, str], Iterator[str]]] = {
            "text": self._text,
            "histograms": self._histograms,
            "images": self._pictures,
            "audio": self._clips,
        }
        for run in runs:
            yield from kinds.get(plugin, self._other)(tag, run)

    def _scalars(self, curves: list[Series[np.ndarray]]) -> Iterator[str]:
        most = len(MARKS)
        for number, curve in enumerate(curves[:most]):
            yield self._legend(number if len(curves) > 1 else None, curve)
        if len(curves) > most:
            yield f"  and {count(len(curves) - most, 'run')} more, which are not drawn: choose with --run"
        weight = self._options.smooth
        points = [(curve.steps, smoothed(curve.values, weight) if weight else curve.values) for curve in curves[:most]]
        yield from draw(points, self._style)

    def _legend(self, number: int | None, curve: Series[np.ndarray]) -> str:
        lost = int((~np.isfinite(curve.values)).sum())
        words = [
            count(len(curve), "point"),
            f"steps {curve.steps.min()} to {curve.steps.max()}",
            f"last {curve.values[-1]:.6g} at step {curve.steps[-1]}",
        ]
        if lost:
            words.append(f"{lost} not finite")
        name = plain(curve.run)
        if number is not None and self._style.colours:
            name = f"\x1b[{COLOURS[number]}m{name}\x1b[0m"
        elif number is not None:
            name = f"{MARKS[number]} {name}"
        return f"  {name}: {', '.join(words)}"

    def _text(self, tag: str, run: str) -> Iterator[str]:
        texts = self._reader.texts(tag, run)
        yield f"  {plain(run)}: {count(len(texts), 'text')}, the last at step {texts.steps[-1]}"
        last = texts.values[-1]
        blocks = [last.markdown] if hasattr(last, "markdown") else last.cells
        for block in blocks:
            yield from (plain(line) for line in block.split("\n"))

    def _histograms(self, tag: str, run: str) -> Iterator[str]:
        series = self._reader.histograms(tag, run)
        yield f"  {plain(run)}: {count(len(series), 'histogram')}, steps {series.steps.min()} to {series.steps.max()}"
        picked = np.unique(np.linspace(0, len(series) - 1, min(len(series), _ROWS)).round().astype(int))
        names = [f"step {series.steps[number]}" for number in picked]
        totals = [f"{series.values[number].buckets[:, 2].sum():.6g}" for number in picked]
        left, right = max(map(len, names)), max(map(len, totals))
        columns = max(self._style.width - left - right - 6, 10)
        rows, low, high = bars([series.values[number].buckets for number in picked], columns, self._style.unicode)
        edge = "│" if self._style.unicode else "|"
        for name, row, total in zip(names, rows, totals):
            yield f"  {name:>{left}} {edge}{row}{edge} {total:>{right}}"
        first, last = f"{low:.4g}", f"{high:.4g}"
        yield " " * (left + 4) + first + last.rjust(columns - len(first))

    def _pictures(self, tag: str, run: str) -> Iterator[str]:
        from torchboard.values.png import encode_pngs

        if not self._options.save:
            yield from self._other(tag, run, "--save DIR writes them")
            return
        series = self._reader.images(tag, run)
        files = {
            _name(int(step), number, len(image.pixels), "png"): file
            for step, image in zip(series.steps, series.values)
            for number, file in enumerate(encode_pngs(image.pixels))
        }
        yield self._saved(tag, run, files, "picture")

    def _clips(self, tag: str, run: str) -> Iterator[str]:
        from torchboard.values.audio import encode_wav

        if not self._options.save:
            yield from self._other(tag, run, "--save DIR writes them")
            return
        series = self._reader.values(tag, run)
        files = {
            _name(int(step), number, len(audio.clips), "wav"): encode_wav(clip, audio.sample_rate)
            for step, audio in zip(series.steps, series.values)
            for number, clip in enumerate(audio.clips)
        }
        yield self._saved(tag, run, files, "clip")

    def _other(self, tag: str, run: str, remedy: str = "a terminal cannot show them") -> Iterator[str]:
        series = [column for (name, _), column in self._reader.index(run).columns.items() if name == tag]
        steps = np.asarray(series[0].steps)
        yield f"  {plain(run)}: {count(len(steps), 'point')}, the last at step {steps[-1]}; {remedy}"

    def _saved(self, tag: str, run: str, files: dict[str, bytes], noun: str) -> str:
        parts = [] if run == "." else run.split(os.sep)
        directory = os.path.join(self._options.save, *map(_safe, [*parts, *tag.split("/")]))
        os.makedirs(directory, exist_ok=True)
        for name, data in files.items():
            with open(os.path.join(directory, name), "wb") as file:
                file.write(data)
        return f"  {plain(run)}: {count(len(files), noun)} written to {plain(directory)}"


def _check(options: argparse.Namespace) -> None:
    if not 0 <= options.smooth < 1:
        raise InvalidValueError(f"--smooth {options.smooth}", "a weight lies from 0 to below 1", "give one such as 0.6")
    if options.height < 2 or (options.width is not None and options.width < 24):
        raise InvalidValueError(
            f"--width {options.width} --height {options.height}",
            "a chart has at least 24 characters a line and 2 lines",
            "give more",
        )


def _name(step: int, number: int, total: int, ending: str) -> str:
    return f"step-{step}.{ending}" if total == 1 else f"step-{step}-{number}.{ending}"


def _safe(part: str) -> str:
    """One part of a tag as a name of a directory, another one for every part."""
    name = quote(part, safe=" !#$&'()+,;=@[]^`{}~")[:200]
    return name.replace(".", "%2E") if set(name) <= {"."} else name
