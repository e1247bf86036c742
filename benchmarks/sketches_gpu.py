"""What a sketch costs on a GPU: bytes read a second beside ``torch.sum`` and a copy on the device, and what many tensors
take in one call.

All variants of a measurement run in turn in one process, round after round, timed by events on the stream; quoted are
medians, and ratios of figures of the same round. Writes ``results/sketches_gpu.md``. Without a GPU it says so, and
leaves the last result as it is.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from harness import machine, table, write_result
from torch.utils.tensorboard import SummaryWriter

from torchboard.sketch import ops
from torchboard.sketch.table import SketchTable

ROUNDS = 15
GIBIBYTE = 1 << 30
PEER_ELEMENTS = 10_000_000
DTYPES = [torch.float32, torch.bfloat16]


def milliseconds(variants: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Device time of each variant, one entry a round; a round before them does not count."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            stop.record()
            stop.synchronize()
            if number:
                times[name].append(start.elapsed_time(stop))
    return times


def host_microseconds(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median wall time until a call returns, the device being idle when it starts."""
    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        times.append(1e6 * (time.perf_counter() - start))
    torch.cuda.synchronize()
    return statistics.median(times[1:])


def table_of(rows: int) -> SketchTable:
    sketches = SketchTable("cuda")
    for _ in range(rows):
        sketches.add_row()
    return sketches


def datasets(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A gibibyte each. The constant and the last are seen from a pivot of their own; nearly everything in a network is
    seen from 0."""
    number = GIBIBYTE // dtype.itemsize
    normal = torch.randn(number, device="cuda", dtype=dtype)
    return {
        "Gaussian": normal,
        "zeros": torch.zeros_like(normal),
        "ReLU": normal.relu(),
        "constant": torch.full_like(normal, 0.1),
        "integers 0 to 9": torch.randint(0, 10, (number,), device="cuda").to(dtype),
        "one NaN every 2**16": torch.where(torch.arange(number, device="cuda") % 2**16 == 0, torch.nan, normal),
        "1 +- 0.01 (a pivot)": 1 + 0.01 * normal,
    }


def bandwidth_rows(dtype: torch.dtype) -> list[list[str]]:
    """One line a data set: bytes of data a second, and the ratios."""
    rows, sketches = [], table_of(1)
    for name, data in datasets(dtype).items():
        sketches.clear_()
        target = torch.empty_like(data)
        times = milliseconds(
            {
                "sketch": lambda data=data: sketches.observe_(0, data),
                "sum": lambda data=data: data.sum(),
                "copy": lambda data=data, target=target: target.copy_(data),
            }
        )
        speed = {key: statistics.median(GIBIBYTE / 1e6 / value for value in values) for key, values in times.items()}
        of_sum = statistics.median(base / ours for ours, base in zip(times["sketch"], times["sum"]))
        of_copy = statistics.median(base / 2 / ours for ours, base in zip(times["sketch"], times["copy"]))
        figures = [f"{speed['sketch']:.0f}", f"{speed['sum']:.0f}", f"{2 * speed['copy']:.0f}"]
        rows.append([str(dtype)[6:], name, *figures, f"{of_sum:.2f}", f"{of_copy:.2f}"])
    return rows


def gpt2_shapes() -> list[tuple[int, ...]]:
    """Parameters of GPT-2 with 124 million of them."""
    width = 768
    block = [
        *[(width,)] * 4, (width, 3 * width), (3 * width,), (width, width), (width,),
        (width, 4 * width), (4 * width,), (4 * width, width), (width,),
    ]  # fmt: skip
    return [(50257, width), (1024, width), *block * 12, (width,), (width,)]


def many_rows() -> list[list[str]]:
    """Device and host time of one call for many tensors, and of packing their rows."""
    rows = []
    for name, shapes, dtype in (
        ("500 tensors of 768", [(768,)] * 500, torch.float32),
        ("GPT-2 124M, parameters and gradients", gpt2_shapes() * 2, torch.float32),
        ("GPT-2 124M, parameters and gradients", gpt2_shapes() * 2, torch.bfloat16),
    ):
        tensors = [0.02 * torch.randn(shape, device="cuda", dtype=dtype) for shape in shapes]
        sketches = table_of(len(tensors))
        numbers = range(len(tensors))

        def observe(sketches=sketches, tensors=tensors, numbers=numbers) -> None:
            sketches.observe_many_(numbers, tensors)

        observe()
        taken = sketches.read()
        times = milliseconds(
            {"observe": observe, "pack": lambda taken=taken: ops.pack(taken.counts, taken.moments, taken.parameters)}
        )
        sizes = f"{len(tensors)} tensors, {sum(tensor.nbytes for tensor in tensors) / 1e6:.0f} MB"
        device = f"{statistics.median(times['observe']):.3f}"
        host = f"{host_microseconds(observe) / 1e3:.3f}"
        rows.append([name, str(dtype)[6:], sizes, device, host, f"{statistics.median(times['pack']):.3f}"])
    return rows


def peer_rows() -> list[list[str]]:
    """Wall time until everything is done, beside the peer's, which copies the data to the host."""
    rows = []
    for dtype in DTYPES:
        data = torch.randn(PEER_ELEMENTS, device="cuda", dtype=dtype)
        sketches = table_of(1)
        with tempfile.TemporaryDirectory() as directory, SummaryWriter(directory) as writer:
            times: dict[str, list[float]] = {"ours": [], "theirs": []}
            for number in range(4):
                torch.cuda.synchronize()
                start = time.perf_counter()
                sketches.observe_(0, data)
                torch.cuda.synchronize()
                middle = time.perf_counter()
                writer.add_histogram("x", data, number)
                stop = time.perf_counter()
                if number:
                    times["ours"].append(middle - start)
                    times["theirs"].append(stop - middle)
        ours, theirs = (1e3 * statistics.median(values) for values in times.values())
        ratio = statistics.median(b / a for a, b in zip(times["ours"], times["theirs"]))
        rows.append([str(dtype)[6:], f"{ours:.3f}", f"{theirs:.0f}", f"{ratio:.0f}"])
    return rows


def report() -> str:
    """The whole text."""
    bandwidth = ["type", "data", "sketch GB/s", "`torch.sum` GB/s", "copy GB/s", "of sum", "of copy"]
    many = ["tensors", "type", "size", "device ms", "host ms", "packing ms"]
    peer = ["type", "sketch ms", "`add_histogram` ms", "times faster"]
    speeds = [row for dtype in DTYPES for row in bandwidth_rows(dtype)]
    return "\n\n".join(
        [
            "# Sketches on a GPU",
            f"{torch.cuda.get_device_name()}, {machine('torch')}; medians of {ROUNDS} rounds.",
            "One tensor of 1 GiB. Sketch and sum read it; a copy reads and writes it, which counts twice.",
            table(bandwidth, speeds),
            "All tensors in one call; host: until the call returns, with no work queued before it.",
            table(many, many_rows()),
            f"{PEER_ELEMENTS:,} elements, until all is done; `torch.utils.tensorboard` copies them to the host.",
            table(peer, peer_rows()),
        ]
    )


def main() -> None:
    if not torch.cuda.is_available():
        print("no GPU: nothing was measured, and results/sketches_gpu.md is as it was")
        return
    write_result("sketches_gpu", report())


if __name__ == "__main__":
    main()
