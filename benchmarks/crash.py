"""A writer at full speed, killed at random moments: what is left of its log?

    python benchmarks/crash.py [--kills 100] [--seed 0]

A process logs scalars as fast as it can, three tags in turn, and flushes now and then; it notes in shared memory how many
it has logged and for how many ``flush`` has returned. After some random time of up to 0.2 s, every tenth time up to
2.2 s, it gets SIGKILL. Of each log is asked, with torchboard's reader and with both of TensorBoard's: is everything there
that was flushed, are the steps contiguous, is the file whole but for a torn last record, and how old was the oldest scalar
that was lost. Writes ``results/crash.md``; exits with 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import importlib.util
import mmap
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness import machine, table, write_result

SECONDS = (0.2, 2.2)
"""Within how much time nine of ten writers are killed, and within how much every tenth one."""
FLUSH_INTERVAL = 2.0
TAGS = ("loss", "accuracy", "learning_rate")
LOGGED, FLUSHED = 0, 8
CHILD = """
import mmap, random, struct, sys
from torchboard import SummaryWriter
log_dir, notes, seed = sys.argv[1:]
with open(notes, "r+b") as file:
    notes = mmap.mmap(file.fileno(), 16)
writer, chance, tags, step = SummaryWriter(log_dir), random.Random(seed), {tags!r}, 0
while True:
    for _ in range(chance.choice((10, 1000, 100_000, 1_000_000))):
        for tag in tags:
            writer.add_scalar(tag, float(step % 1000), step)
        step += 1
        struct.pack_into("<q", notes, 0, step)
    writer.flush()
    struct.pack_into("<q", notes, 8, step)
"""


@dataclass(frozen=True)
class Kill:
    """What one kill left behind; numbers are of steps.

    Attributes:
        logged: for how many ``add_scalar`` had returned.
        flushed: for how many ``flush`` had returned.
        kept: how many can be read, by each reader; None where steps or values are wrong, or the file is broken inside.
        age: seconds that the oldest lost scalar was old.
    """

    logged: int
    flushed: int
    kept: dict[str, int | None]
    age: float


def kill(log_dir: Path, seed: int) -> Kill:
    """Starts a writer, kills it and looks at its log."""
    notes_path = log_dir.with_suffix(".notes")
    notes_path.write_bytes(bytes(16))
    command = [sys.executable, "-c", CHILD.format(tags=TAGS), str(log_dir), str(notes_path), str(seed)]
    with notes_path.open("r+b") as file:
        notes = mmap.mmap(file.fileno(), 16)
    child = subprocess.Popen(command)
    while not struct.unpack_from("<q", notes, LOGGED)[0]:
        assert child.poll() is None, "the writer ended by itself"
        time.sleep(0.001)
    began = time.time()
    time.sleep(random.Random(seed).uniform(0, SECONDS[seed % 10 == 0]))
    child.send_signal(signal.SIGKILL)
    killed = time.time()
    child.wait()
    (logged,), (flushed,) = struct.unpack_from("<q", notes, LOGGED), struct.unpack_from("<q", notes, FLUSHED)
    ours, newest = _ours(log_dir)
    kept = {"torchboard": ours, "TensorBoard (Python)": _python(log_dir)}
    if importlib.util.find_spec("tensorboard_data_server"):
        kept["TensorBoard (Rust)"] = _rust(log_dir, ours)
    shutil.rmtree(log_dir)
    return Kill(logged, flushed, kept, killed - (newest or began))


def _ours(log_dir: Path) -> tuple[int | None, float]:
    """How many steps can be read, and the time of the last one."""
    import torchboard

    log = torchboard.read(log_dir)
    series = [log.scalars(tag) for tag in TAGS if tag in log.tags()]
    whole = all("torn" in problem.what or "ends" in problem.what for problem in log.problems)
    counts = [len(one) for one in series] + [0] * (len(TAGS) - len(series))
    sound = whole and all(
        (one.steps == range(len(one))).all() and (one.values == one.steps % 1000).all() for one in series
    )
    newest = max((one.wall_times[-1] for one in series if len(one)), default=0.0)
    return (min(counts) if sound and max(counts) - min(counts) <= 1 else None), float(newest)


def _python(log_dir: Path) -> int | None:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    steps: dict[str, list[int]] = {tag: [] for tag in TAGS}
    for path in sorted(log_dir.iterdir()):
        for data in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(data)
            for value in event.summary.value:
                steps[value.tag].append(event.step)
    return min(map(len, steps.values())) if all(one == list(range(len(one))) for one in steps.values()) else None


def _rust(log_dir: Path, expected: int | None) -> int | None:
    """How many steps TensorBoard's data server finds, asked for all of them."""
    import tensorboard_data_server
    from tensorboard.context import RequestContext
    from tensorboard.data.server_ingester import ServerBinary, SubprocessServerDataIngester
    from tensorboard.util.grpc_util import ChannelCredsType

    ingester = SubprocessServerDataIngester(
        server_binary=ServerBinary(tensorboard_data_server.server_binary(), version=None),
        logdir=str(log_dir),
        reload_interval=3600,
        channel_creds_type=ChannelCredsType.LOCAL,
        samples_per_plugin={"scalars": 2**31},
    )
    ingester.start()
    deadline = time.monotonic() + 20
    while True:  # it goes on loading while it answers
        read = ingester.data_provider.read_scalars(
            RequestContext(), experiment_id="", plugin_name="scalars", downsample=2**31 - 1
        )
        steps = [[point.step for point in points] for points in read.get(".", {}).values()]
        steps += [[]] * (len(TAGS) - len(steps))
        if min(map(len, steps)) >= (expected or 1) or time.monotonic() > deadline:
            return min(map(len, steps)) if all(one == list(range(len(one))) for one in steps) else None
        time.sleep(0.1)


def main() -> None:
    """Kills, looks and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crash-") as directory:
        root = Path(directory)
        names = [f"kill{number:03d}" for number in range(arguments.kills)]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            kills = list(pool.map(lambda item: kill(root / item[1], arguments.seed + item[0]), enumerate(names)))
    broken = [one for one in kills if not _promises_kept(one)]
    write_result("crash", _report(kills, broken)) if arguments.kills >= 100 else print(_report(kills, broken))
    for one in broken:
        print("broken:", one, file=sys.stderr)
    sys.exit(bool(broken))


def _promises_kept(one: Kill) -> bool:
    kept = set(one.kept.values())
    return len(kept) == 1 and None not in kept and min(kept) >= one.flushed and one.age <= FLUSH_INTERVAL


def _report(kills: list[Kill], broken: list[Kill]) -> str:
    lost = [one.logged - (one.kept["torchboard"] or 0) for one in kills]
    rows = [
        ["kills", str(len(kills))],
        ["readers that agreed on every log", ", ".join(kills[0].kept)],
        ["kills after which a promise was broken", str(len(broken))],
        ["scalars logged before a kill, median and most", _of([3 * one.logged for one in kills])],
        ["scalars lost, median and most", _of([3 * max(0, one) for one in lost])],
        ["age of what was lost in ms, median and most", _of([1000 * one.age for one in kills])],
    ]
    return "\n".join(
        [
            "# A writer at full speed, killed",
            "",
            "SIGKILL at a random moment within 0.2 s, every tenth time within 2.2 s. Promises: what `flush` returned for is",
            "there, nothing older than the flush interval of 2 s is lost, steps are contiguous, and no record is",
            f"broken but the last one. Command: `python benchmarks/crash.py --kills {len(kills)}`.",
            "",
            table(["", ""], rows),
            "",
            machine("torch", "tensorboard"),
        ]
    )


def _of(numbers: list[float]) -> str:
    return f"{statistics.median(numbers):,.0f}, {max(numbers):,.0f}"


if __name__ == "__main__":
    main()
