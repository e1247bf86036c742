"""TensorBoard itself, started on a log directory and asked over HTTP as its own pages ask it.

Nothing here sleeps for a fixed time: every wait polls until an answer is what it should be, or fails at a deadline with
the last answer seen.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

LOADERS = {"default": "true", "python": "false"}
"""TensorBoard's two readers of event files, by name: the value of ``--load_fast`` that picks each."""

DEADLINE = 60.0
"""Seconds after which an answer counts as one that never comes."""

_POLL = 0.1
_ADDRESS = re.compile(r"TensorBoard \S+ at (http://\S+?)/? ")
_COMPLAINT = re.compile(r"^[WEF]\d{4} |\b(WARN|ERROR)\b|Traceback|panicked|Error:|\" 50\d ", re.MULTILINE)
_opener = build_opener(ProxyHandler({}))


class Board:
    """A running TensorBoard, or the part of it that shows one directory of its runs.

    Attributes:
        log_dir: what it shows.
        url: where it is served, without a slash at the end.
        above: the directory of runs that names of runs are relative to; empty for ``log_dir`` itself.
        allowed: words that make a complaint an expected one.
    """

    def __init__(self, log_dir: Path, url: str, output: Path, above: str = "") -> None:
        self.log_dir = log_dir
        self.url = url
        self.above = above
        self.allowed: list[str] = []
        self._output = output
        self._heard = len(_text(output))

    def below(self, directory: str) -> Board:
        """The part that shows the runs of one directory of the log."""
        return Board(self.log_dir, self.url, self._output, directory)

    def full(self, run: str) -> str:
        """TensorBoard's name of a run."""
        return posixpath.normpath(posixpath.join(self.above, run))

    def fetch(self, path: str, **query: Any) -> tuple[str, bytes]:
        """Media type and body of one page below ``/data/``."""
        address = f"{self.url}/data/{path}"
        with _opener.open(f"{address}?{urlencode(query)}" if query else address, timeout=DEADLINE) as answer:
            return answer.headers.get_content_type(), answer.read()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of one page below ``/data/``."""
        media_type, body = self.fetch(path, **query)
        assert media_type == "application/json", (path, media_type, body[:200])
        return json.loads(body)

    def plugin(self, plugin: str, path: str, **query: Any) -> Any:
        """The JSON that one plugin answers; a ``run`` is named relative to ``above``."""
        if "run" in query:
            query["run"] = self.full(query["run"])
        return self.get(f"plugin/{plugin}/{path}", **query)

    def tags(self, plugin: str, run: str) -> Any:
        """The tags of one run that one plugin shows, with what it knows of them."""
        return self.plugin(plugin, "tags").get(self.full(run), {})

    def series(self, plugin: str, run: str, tag: str) -> list[list[Any]]:
        """``[wall time, step, value]`` of every point that a scalars, histograms or distributions page shows."""
        return self.plugin(plugin, plugin, run=run, tag=tag)

    def points(self, run: str, tag: str) -> list[tuple[int, float]]:
        """``(step, value)`` of every point of a curve."""
        return [(step, float(value)) for _, step, value in self.series("scalars", run, tag)]

    def await_points(self, run: str, tag: str, last: int, value: float | None = None) -> list[tuple[int, float]]:
        """The curve, once it ends at step ``last``, with ``value`` if one is given."""

        def ends(points: list[tuple[int, float]]) -> bool:
            return bool(points) and points[-1] == (last, points[-1][1] if value is None else value)

        return until(lambda: self.points(run, tag), ends)

    def await_histograms(self, run: str, tag: str, last: int) -> list[list[Any]]:
        """``[wall time, step, buckets]`` of every histogram of a tag, once that of step ``last`` is there."""
        return until(lambda: self.series("histograms", run, tag), lambda series: series and series[-1][1] == last)

    def complaints(self) -> list[str]:
        """Warnings and errors that TensorBoard wrote since the last call, but expected ones; each with some lines after it."""
        text = _text(self._output)
        fresh, self._heard = text[self._heard :], len(text)
        found = [fresh[match.start() : match.end() + 1500] for match in _COMPLAINT.finditer(fresh)]
        return [
            complaint for complaint in found if not any(words in complaint.splitlines()[0] for words in self.allowed)
        ]


@contextmanager
def tensorboard(log_dir: Path, loader: str, output: Path, python: str = sys.executable) -> Iterator[Board]:
    """TensorBoard on ``log_dir`` at a free port, with one of ``LOADERS``; what it prints goes to the file ``output``."""
    options = {"logdir": log_dir, "host": "127.0.0.1", "port": 0, "load_fast": LOADERS[loader], "reload_interval": 1}
    command = [python, "-m", "tensorboard.main", *(f"--{name}={value}" for name, value in options.items())]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=_environment()
        )
    try:
        board = Board(log_dir, until(lambda: _address(process, output)), output)
        provider = until(lambda: board.get("environment"))["debug"]["data_provider"]
        assert provider.startswith({"default": "Grpc", "python": "Multiplexer"}[loader]), provider
        yield board
    finally:
        stop(process)


def until(ask: Callable[[], Any], accept: Callable[[Any], bool] = bool, seconds: float = DEADLINE) -> Any:
    """The first answer that is accepted; a page that is not there yet is asked again.

    Raises:
        AssertionError: the deadline passed; the message holds the last answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = ask()
            if accept(answer):
                return answer
        except (HTTPError, URLError, KeyError) as error:
            answer = repr(error)
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s; the last answer was {str(answer)[:2000]}"
        time.sleep(_POLL)


def stop(process: subprocess.Popen) -> None:
    """Ends a process that we started."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _address(process: subprocess.Popen, output: Path) -> str | None:
    text = _text(output)
    if process.poll() is not None:
        raise RuntimeError(f"TensorBoard ended with status {process.returncode}:\n{text}")
    match = _ADDRESS.search(text)
    return match and match[1]


def _text(output: Path) -> str:
    return output.read_text(encoding="utf-8", errors="replace")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
