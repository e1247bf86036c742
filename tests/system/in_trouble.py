"""Scripts that log and get into trouble, each in a process of its own, and what is left of their logs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from torchboard import proto
from torchboard.eventfile.scanning import scan

SETUP = """
import contextlib, os, resource, shutil, signal, sys, threading, time
from torchboard import SummaryWriter
log_dir = sys.argv[1]

def log(count, first=0, tag="loss"):
    for step in range(first, first + count):
        writer.add_scalar(tag, float(step), step)

def until(ready, seconds=60):
    end = time.monotonic() + seconds
    while not ready() and time.monotonic() < end:
        time.sleep(0.01)

def grown_to(size):
    names = [os.path.join(log_dir, name) for name in os.listdir(log_dir)]
    return sum(map(os.path.getsize, names)) >= size
"""
"""What every script begins with; it makes its own ``writer``."""

TIMEOUT = 180


def run(code: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A script, run to its end; one that hangs raises ``subprocess.TimeoutExpired``."""
    return finish(start(code, *arguments), check)


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A script, running."""
    command = [sys.executable, "-c", SETUP + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """The end of a script that was started."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert not check or process.returncode == 0, errors
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def files(directory: Path) -> list[Path]:
    """The event files of one run."""
    return sorted(path for path in directory.iterdir() if "tfevents" in path.name)


def steps(directory: Path, tag: str = "loss") -> list[int]:
    """The steps of a scalar in one run, in the order of the files; a record that is not whole fails, but a torn last one.

    Every value is the float of its step.
    """
    found = []
    for path in files(directory):
        for record in scan(path):
            event = proto.Event.FromString(record.data)
            for value in event.summary.value:
                if value.tag == tag:
                    assert value.simple_value == event.step
                    found.append(event.step)
    return found


def last(directory: Path, tag: str) -> float:
    """The last value of a scalar in one run."""
    values = [
        value.simple_value
        for path in files(directory)
        for record in scan(path)
        for value in proto.Event.FromString(record.data).summary.value
        if value.tag == tag
    ]
    return values[-1]


def steps_for_tensorboard(directory: Path, tag: str = "loss") -> list[int]:
    """The steps that TensorBoard's Python loader gets out of the files of one run."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [
        event.step
        for path in files(directory)
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == tag
    ]
