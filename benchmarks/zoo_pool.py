"""Measures many models in worker processes, one after the other: what hangs or dies costs its own figures alone.

A benchmark script starts itself with ``--worker``; the worker gets jobs by name and prints one JSON object a job, a line
each. Figures are kept line by line in a file beside the results, so that a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Figures = dict[str, Any]

GIGABYTES = 12
"""Of data that a worker may have."""
JOBS = 25
"""That a worker does before another one takes over, so that what models leave behind does not add up."""


class Kept:
    """Figures of earlier runs, by the job's name.

    Args:
        path: a file of JSON lines; made when the first figures are added.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Figures]:
        """All of them; of a job that was measured twice the later ones."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return {figures.pop("job"): figures for figures in map(json.loads, lines)}

    def add(self, job: str, figures: Figures) -> None:
        """Writes them down at once."""
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"job": job, **figures}) + "\n")

    def forget(self, jobs: Iterable[str]) -> None:
        """Leaves these out from now on."""
        left_out = set(jobs)
        kept = {job: figures for job, figures in self.read().items() if job not in left_out}
        self._path.unlink(missing_ok=True)
        for job, figures in kept.items():
            self.add(job, figures)


def arguments(description: str) -> argparse.ArgumentParser:
    """The options of a benchmark over a zoo."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one model of each family")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured")
    parser.add_argument("--known", action="store_true", help="measure nothing, and report what is known")
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    return parser


def measure(script: str, jobs: list[str], kept: Kept, seconds: float, options: argparse.Namespace) -> None:
    """Measures the jobs that are not known yet, or as the options say. One that takes more than ``seconds`` is ``lost``, with
    its worker."""
    if options.fresh:
        kept.forget(jobs)
    known = kept.read()
    waiting = [job for job in jobs if job not in known and not options.known]
    while waiting:
        portion = waiting[:JOBS]
        command = ["nice", sys.executable, script, "--worker", *portion]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
            for job in portion:
                line = worker.stdout.readline() if select.select([worker.stdout], [], [], seconds)[0] else ""
                figures = json.loads(line) if line else {"lost": f"no answer in {seconds:.0f} s, or the process died"}
                if job != portion[0] and _is_short_of_memory(
                    figures
                ):  # which earlier jobs may hold: once more, and first
                    worker.kill()
                    break
                kept.add(waiting.pop(0), figures)
                print(f"{len(waiting)} to go; {job}: {_shortly(figures)}", file=sys.stderr)
                if not line:
                    worker.kill()
                    break


def serve(jobs: list[str], figures_of: Callable[[str], Figures]) -> None:
    """The worker's side: prints the figures of each job."""
    bytes_ = GIGABYTES << 30
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_, bytes_))
    answers, sys.stdout = sys.stdout, sys.stderr
    for job in jobs:
        answers.write(json.dumps(figures_of(job)) + "\n")
        answers.flush()


class OverTime(BaseException):
    """A job took too long."""


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raises ``OverTime`` in what takes more processor time."""

    began = time.process_time()

    def look(*_: Any) -> None:
        if time.process_time() - began > seconds:
            raise OverTime(f"more than {seconds} s of processor time")

    # a timer of processor time would make the process's clock as coarse as a tick
    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def described(error: BaseException) -> str:
    """An exception on a short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def _is_short_of_memory(figures: Figures) -> bool:
    said = " ".join(str(figures.get(key, "")) for key in ("cannot", "failed"))
    return any(words in said for words in ("allocate memory", "MemoryError", "could not create a primitive"))


def _shortly(figures: Figures) -> str:
    return next((f"{key}: {figures[key]}" for key in ("lost", "cannot", "failed") if key in figures), "ok")
