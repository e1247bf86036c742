"""Feeds the reader random and damaged event files, and compares what it finds with the plainest way of reading.

    python tests/fuzz/fuzz_reader.py --inputs 100000 --seed 0

Every input comes from its own seed, so one that fails is repeated by ``--seed N --inputs 1``. What counts as a failure: a
difference, an exception other than torchboard's own, more than a few seconds, more memory than the file accounts for.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plain_reading import differences
from random_logs import damaged, event_file

import torchboard
from torchboard.errors import TorchboardError
from torchboard.eventfile import stretches
from torchboard.reader import templates

INPUTS_A_LOG = 10
MOST_SECONDS = 60
MOST_BYTES = 200 << 20
"""Far above what reading any of these files takes, and far below what some of them claim to hold."""


@lru_cache(maxsize=1)
def undamaged(seed: int) -> tuple[bytes, ...]:
    """The contents of the files of one run, as writers leave them."""
    random = np.random.default_rng(seed)
    events = 2000 if random.random() < 0.005 else int(random.choice([5, 30, 60, 90]))
    return tuple(event_file(random, events) for _ in range(1 if random.random() < 0.9 else 2))


def files_of(seed: int) -> list[bytes]:
    """The contents of the files of one run, of which most are damaged: one log serves a few inputs."""
    random = np.random.default_rng(seed)
    if random.random() < 0.02:
        return [random.bytes(random.integers(0, 300))]
    return [damaged(random, data) if random.random() < 0.8 else data for data in undamaged(seed // INPUTS_A_LOG)]


def failures(seed: int, directory: Path) -> list[str]:
    """What goes wrong with one input: empty if nothing does."""
    files = files_of(seed)
    for number, data in enumerate(files):
        (directory / f"events.out.tfevents.{number}").write_bytes(data)
    begin, memory = time.perf_counter(), _peak()
    try:
        reader = torchboard.read(directory)
        found = differences(reader.index("."), files)
        _read_all(reader)
    except Exception as error:
        found = [f"{type(error).__name__}: {error}"]
    finally:
        for number in range(len(files)):
            (directory / f"events.out.tfevents.{number}").unlink()
    if time.perf_counter() - begin > MOST_SECONDS:
        found.append("it took too long")
    if _peak() - memory > MOST_BYTES:
        found.append(f"it took {_peak() - memory:,} bytes of memory")
    return found


def _peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _read_all(reader: torchboard.reader.Reader) -> None:
    """Asks for every value; only torchboard's own errors may come of it."""
    for tag in reader.tags():
        with contextlib.suppress(TorchboardError):
            reader.values(tag)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first input; the others follow")
    options = parser.parse_args()
    bad, begin = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        for done, seed in enumerate(range(options.seed, options.seed + options.inputs), 1):
            stretches._STRETCH_BYTES = (2000, 20_000, 4 << 20)[seed % 3]
            templates._FEW, templates._FEW_ALIKE = ((2, 1), (16, 4))[seed % 2]
            found = failures(seed, Path(directory))
            for line in found:
                print(f"seed {seed}: {line[:400]}")
            bad += bool(found)
            if done % 5000 == 0 or done == options.inputs:
                print(
                    f"{done} inputs from seed {options.seed}, {bad} failed, {time.perf_counter() - begin:.0f} s",
                    flush=True,
                )
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
