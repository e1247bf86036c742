"""What reading a log costs: CPU time, time, and memory.

    python benchmarks/reading.py

Three logs, written into a temporary directory first: a million scalars of 100 tags, one an event; the same million, a
hundred an event; and 500 MB of scalars, histograms of 9.8 KB and pictures of 197 KB. Read by torchboard, checksums
verified; by TensorBoard's ``EventAccumulator``, told to keep all points; by tbparse; and by TensorBoard's data server in
Rust, told to keep all points, which are then asked for over gRPC: it verifies no checksum. CPU time is that of the
reader and of the processes that it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

LOGS = {"single": "1M scalars, one an event", "many": "1M scalars, 100 an event", "mixed": "500 MB, mixed"}
READERS = {
    "torchboard": "torchboard",
    "accumulator": "EventAccumulator",
    "tbparse": "tbparse",
    "rust": "Rust data server, over gRPC",
}
SCALARS, TAGS = 1_000_000, 100
MIXED = {"scalars": 31_600, "histograms": 25_000, "images": 1_300}
EVERYTHING = dict.fromkeys(("scalars", "tensors", "histograms", "compressedHistograms", "images", "audio"), 0)
MOST = 1 << 30


def write_logs(directory: Path) -> None:
    """Writes the three logs."""
    import numpy as np

    from torchboard import proto

    random = np.random.default_rng(0)
    values = random.standard_normal(SCALARS).astype(np.float32).reshape(-1, TAGS).tolist()
    tags = [f"group_{tag % 10}/metric_{tag}" for tag in range(TAGS)]

    def event(step: int, offset: float = 0.0):
        return proto.Event(wall_time=1.7e9 + step + offset, step=step)

    def singles():
        for step, row in enumerate(values):
            for number, (tag, value) in enumerate(zip(tags, row)):
                message = event(step, number / TAGS)
                message.summary.value.add(tag=tag, simple_value=value)
                yield message

    def many():
        for step, row in enumerate(values):
            message = event(step)
            for tag, value in zip(tags, row):
                message.summary.value.add(tag=tag, simple_value=value)
            yield message

    def mixed():
        limits, picture = np.linspace(-1, 1, 612).tolist(), random.bytes(197_000)
        for step in range(MIXED["histograms"]):
            message = event(step)
            bucket = random.random(612).tolist()
            message.summary.value.add(tag=f"weights_{step % 50}").histo.bucket_limit.extend(limits)
            message.summary.value[0].histo.bucket.extend(bucket)
            yield message
            if step * MIXED["images"] // MIXED["histograms"] != (step + 1) * MIXED["images"] // MIXED["histograms"]:
                message = event(step)
                message.summary.value.add(tag="picture").image.encoded_image_string = picture
                yield message
            for number in range(
                step * MIXED["scalars"] // MIXED["histograms"], (step + 1) * MIXED["scalars"] // MIXED["histograms"]
            ):
                message = event(step)
                message.summary.value.add(tag=f"loss_{number % 10}", simple_value=values[0][number % TAGS])
                yield message

    for name, events in (("single", singles), ("many", many), ("mixed", mixed)):
        write_file(directory / name / "run", events())


def write_file(run: Path, events) -> None:
    """Writes one event file."""
    from torchboard import proto
    from torchboard.eventfile.framing import frame

    run.mkdir(parents=True)
    with open(run / "events.out.tfevents.1700000000.host.1.0000", "wb") as file:
        file.write(frame(proto.Event(wall_time=1.7e9, file_version="brain.Event:2").SerializeToString()))
        for event in events:
            file.write(frame(event.SerializeToString()))


def torchboard_reader():
    from torchboard.reader import read

    def load(log: Path, _: int) -> int:
        reader = read(log)
        assert not reader.problems
        return sum(len(series) for series in reader.all_scalars())

    return load


def accumulator_reader():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def load(log: Path, _: int) -> int:
        loaded = EventAccumulator(str(log / "run"), EVERYTHING).Reload()
        return sum(len(loaded.Scalars(tag)) for tag in loaded.Tags()["scalars"])

    return load


def tbparse_reader():
    from tbparse import SummaryReader

    return lambda log, _: len(SummaryReader(str(log)).scalars)


def rust_reader():
    import grpc
    import tensorboard_data_server
    from tensorboard.data.proto import data_provider_pb2 as messages
    from tensorboard.data.proto import data_provider_pb2_grpc as service

    def load(log: Path, expected: int) -> int:
        """Starts the server, waits until it has loaded the log, and asks for all scalars."""
        port_file = log.parent / f"port_{os.getpid()}"
        command = [tensorboard_data_server.server_binary(), "--logdir", str(log), "--reload", "once", "--port", "0"]
        command += ["--samples-per-plugin", "scalars=all", "--port-file", str(port_file)]
        request = messages.ReadScalarsRequest(plugin_filter={"plugin_name": "scalars"}, downsample={"num_points": MOST})
        server = subprocess.Popen(command)
        try:
            while not (port_file.exists() and port_file.read_text().endswith("\n")):
                time.sleep(0.01)
            options = [("grpc.max_receive_message_length", MOST)]
            stub = service.TensorBoardDataProviderStub(
                grpc.insecure_channel(f"localhost:{port_file.read_text().strip()}", options)
            )
            count = 0
            while count < expected:
                time.sleep(0.02)
                if stub.ListScalars(messages.ListScalarsRequest(plugin_filter={"plugin_name": "scalars"})).runs:
                    runs = stub.ReadScalars(request).runs
                    count = sum(len(tag.data.value) for run in runs for tag in run.tags)
            return count
        finally:
            server.kill()
            server.wait()

    return load


LOADERS = {
    "torchboard": torchboard_reader,
    "accumulator": accumulator_reader,
    "tbparse": tbparse_reader,
    "rust": rust_reader,
}


def usage() -> tuple[float, int]:
    """CPU seconds and the most memory in bytes, of this process and those it started."""
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sum(one.ru_utime + one.ru_stime for one in (own, others))
    return seconds, 1024 * (own.ru_maxrss + others.ru_maxrss)


def measure(name: str, log: Path) -> dict[str, float]:
    """The figures of one reader and one log; imports do not count."""
    expected = MIXED["scalars"] if log.name == "mixed" else SCALARS
    load = LOADERS[name]()
    (cpu, memory), wall = usage(), time.perf_counter()
    count = load(log, expected)
    wall = time.perf_counter() - wall
    cpu, memory = (after - before for after, before in zip(usage(), (cpu, memory)))
    if count != expected:
        raise SystemExit(f"{name} read {count} of {expected} scalars")
    return {"cpu": cpu, "wall": wall, "memory": memory / 1e6}


def report(rounds: int, directory: Path) -> str:
    """The measured tables."""
    parts = [
        "# What reading a log costs",
        f"`python benchmarks/reading.py --rounds {rounds}`: "
        f"{harness.machine('tensorboard', 'tensorboard-data-server', 'tbparse', 'numpy', 'protobuf')}. "
        "Medians over the rounds; ratios are taken within a round: median (least to greatest). "
        "CPU seconds include those of processes that the reader starts; memory is by how much the peak grew.",
    ]
    columns = {"cpu": "CPU s", "wall": "wall s", "memory": "memory, MB"}
    for log, title in LOGS.items():
        figures = harness.paired(__file__, list(READERS), rounds, ["--log", str(directory / log)])
        rows = [
            [
                label,
                *(f"{harness.median(figures, name, column):,.2f}" for column in columns),
                *(harness.ratio(figures, name, "torchboard", column) for column in ("cpu", "wall")),
            ]
            for name, label in READERS.items()
        ]
        header = ["reader", *columns.values(), "CPU / torchboard's", "wall / torchboard's"]
        parts += [f"## {title}", harness.table(header, rows)]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=READERS)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", type=Path, help="only write the logs into this directory")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.log)))
        return
    if options.write:
        write_logs(options.write)
        return
    with tempfile.TemporaryDirectory() as directory:
        # A process's peak of memory is inherited by those that it starts, so this one must stay small.
        subprocess.run([sys.executable, __file__, "--write", directory], check=True)
        harness.write_result("reading", report(options.rounds, Path(directory)))


if __name__ == "__main__":
    main()
