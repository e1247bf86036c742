"""What pictures, sound and embeddings cost: the caller's wait, the time until all is on disk, the CPU time, the bytes.

    TENSORFLOW_PYTHON=/path/to/python python benchmarks/media.py

Each writer runs in a process of its own and logs the same things a few times; figures are for one. With an interpreter
that has TensorFlow, ``tf.summary`` is one of the writers. "by hand" is what one does without a writer: 64 subplots of
matplotlib saved to a file, and an animated GIF as Pillow makes it by default. The last table is about the other
threads of the process: how long a loop in Python waits for the interpreter while pictures are encoded.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
from pictures import line_figure, photo

Figures = dict[str, float]
PEERS = ["torch", "tensorboardX", "tensorflow"]
LABELS = {
    "torchboard": "torchboard",
    "torch": "torch.utils.tensorboard",
    "tensorboardX": "tensorboardX",
    "tensorflow": "tf.summary",
    "hand": "by hand",
}
CASES = {
    "photo_uint8": ("picture 512 x 512 x 3, photograph, uint8", 6),
    "photo_float": ("the same, float32, with noise", 6),
    "blocks": ("picture 512 x 512 x 3, of 256 squares, uint8", 6),
    "images": ("64 pictures of 32 x 32 x 3, float32", 4),
    "histogram": ("histogram of 1,000,000 elements", 6),
    "figure": ("figure of matplotlib, 640 x 480", 4),
    "audio": ("sound of 5 s at 44.1 kHz", 6),
    "video": ("video of 32 frames of 128 x 128 x 3", 3),
    "maps": ("64 feature maps of 56 x 56", 2),
    "embedding": ("embedding of 10,000 x 128, labels, pictures of 28 x 28", 1),
}
"""Name -> what it is, and how often one process logs it."""
LOOP_IMAGES = 50


def things() -> dict[str, Any]:
    """What is logged, by case; tensors, as a training has them."""
    import torch

    random, picture = np.random.default_rng(0), photo()
    noisy = np.clip(picture / 255 + random.normal(0, 0.03, picture.shape), 0, 1).astype(np.float32)
    blocks = random.integers(0, 256, (16, 16, 3), np.uint8).repeat(32, axis=0).repeat(32, axis=1)
    channels_first = [torch.from_numpy(array.transpose(2, 0, 1).copy()) for array in (picture, noisy, blocks)]
    crops = [noisy[row : row + 32, column : column + 32] for row in range(0, 512, 64) for column in range(0, 512, 64)]
    frames = [picture[4 * index : 4 * index + 128, 3 * index + 60 : 3 * index + 188] for index in range(32)]
    torch.manual_seed(0)
    coarse = torch.rand(10_000, 1, 7, 7)
    return {
        **dict(zip(("photo_uint8", "photo_float", "blocks"), channels_first)),
        "images": torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2).copy()),
        "histogram": torch.randn(1_000_000),
        "figure": line_figure(random.normal(size=300).cumsum()),
        "audio": 0.1 * torch.randn(1, 5 * 44_100),
        "video": torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).copy())[None],
        "maps": torch.nn.functional.interpolate(torch.randn(1, 64, 14, 14), 56, mode="bicubic")[0],
        "embedding": torch.randn(10_000, 128),
        "thumbnails": torch.nn.functional.interpolate(coarse, 28, mode="bilinear").expand(-1, 3, -1, -1),
    }


def map_figure(maps: np.ndarray) -> Any:
    """8 x 8 subplots, as tutorials draw feature maps."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(8, 8, figsize=(8, 8))
    for axis, picture in zip(axes.flat, maps):
        axis.imshow(picture)
        axis.axis("off")
    return figure


def adders(name: str, log_dir: str, what: dict[str, Any]) -> tuple[dict[str, Callable[[int], object]], Any]:
    """Case -> what logs it at a step; and the writer."""
    if name == "tensorflow":
        return tensorflow_adders(log_dir, what)
    if name == "hand":
        return hand_adders(log_dir, what), None
    if name == "torchboard":
        from torchboard import SummaryWriter
    elif name == "torch":
        from torch.utils.tensorboard import SummaryWriter
    else:
        from tensorboardX import SummaryWriter
    writer = SummaryWriter(log_dir)
    cases = {
        case: lambda step, case=case: writer.add_image("a", what[case], step)
        for case in ("photo_uint8", "photo_float", "blocks")
    }
    labels = [f"item {number}" for number in range(10_000)]
    cases |= {
        "images": lambda step: writer.add_images("a", what["images"], step),
        "histogram": lambda step: writer.add_histogram("a", what["histogram"], step),
        "figure": lambda step: writer.add_figure("a", what["figure"], step, close=False),
        "audio": lambda step: writer.add_audio("a", what["audio"], step),
        "video": lambda step: writer.add_video("a", what["video"], step),
        "maps": lambda step: writer.add_figure("a", map_figure(what["maps"].numpy()), step),
        "embedding": lambda step: writer.add_embedding(what["embedding"], labels, what["thumbnails"], step),
    }
    if name == "torchboard":
        from torchboard.drawing.sheets import Planes

        sheet = Planes(tuple(what["maps"].shape), len(what["maps"]))
        cases["maps"] = lambda step: writer.add_image("a", sheet.draw(what["maps"].numpy()), step, dataformats="HWC")
    return cases, writer


def tensorflow_adders(log_dir: str, what: dict[str, Any]) -> tuple[dict[str, Callable[[int], object]], Any]:
    """The kinds that tf.summary has; arrays are made tensors outside of what is timed."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(log_dir)
    writer.set_as_default()
    pictures = {case: tf.constant(what[case].permute(1, 2, 0).numpy()[None]) for case in list(CASES)[:3]}
    batch = tf.constant(what["images"].permute(0, 2, 3, 1).numpy())
    values, sound = tf.constant(what["histogram"].numpy()), tf.constant(what["audio"].numpy()[:, :, None])
    cases = {case: lambda step, case=case: tf.summary.image("a", pictures[case], step) for case in pictures}
    cases |= {
        "images": lambda step: tf.summary.image("a", batch, step, max_outputs=64),
        "histogram": lambda step: tf.summary.histogram("a", values, step),
        "audio": lambda step: tf.summary.audio("a", sound, 44_100, step),
    }
    return cases, writer


def hand_adders(log_dir: str, what: dict[str, Any]) -> dict[str, Callable[[int], object]]:
    """What one does without a writer."""
    import matplotlib.pyplot as plt
    import PIL.Image

    def maps(step: int) -> None:
        figure = map_figure(what["maps"].numpy())
        figure.savefig(f"{log_dir}/maps{step}.png")
        plt.close(figure)

    def video(step: int) -> None:
        first, *rest = (PIL.Image.fromarray(frame) for frame in what["video"][0].permute(0, 2, 3, 1).numpy())
        buffer = io.BytesIO()
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=250, loop=0)
        Path(log_dir, f"video{step}.gif").write_bytes(buffer.getvalue())

    return {"maps": maps, "video": video}


def size_of(log_dir: str) -> int:
    return sum(path.stat().st_size for path in Path(log_dir).rglob("*") if path.is_file())


def measure_case(name: str, case: str, what: dict[str, Any]) -> Figures:
    """The figures of one case of one writer; none where it cannot do it."""
    with tempfile.TemporaryDirectory() as log_dir:
        cases, writer = adders(name, log_dir, what)
        if case not in cases:
            return {}
        repeats, waits = CASES[case][1], []
        if hasattr(writer, "add_scalar"):
            writer.add_scalar("warm_up", 0.0, 0)
        getattr(writer, "flush", int)()
        empty = size_of(log_dir)
        cpu, begin = time.process_time(), time.perf_counter()
        try:
            for step in range(repeats):
                call = time.perf_counter()
                cases[case](step)
                waits.append(time.perf_counter() - call)
        except Exception:  # a package that the peer needs is missing
            return {}
        getattr(writer, "close", int)()
        total, cpu = time.perf_counter() - begin, time.process_time() - cpu
        size = (size_of(log_dir) - empty) / repeats
    if size < 500:  # said to be written, and dropped
        return {}
    figures = {"call": statistics.median(waits), "total": total / repeats, "cpu": cpu / repeats}
    return {key: 1e3 * value for key, value in figures.items()} | {"bytes": size}


def kept_waiting(begin: float) -> float:
    """Seconds since ``begin`` that this thread neither ran nor waited for a core: it waited for the interpreter."""
    status = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    busy = sum(map(int, status.read_text().split()[:2])) / 1e9 if status.exists() else time.thread_time()
    return time.perf_counter() - begin - busy


def measure_loop(name: str, what: dict[str, Any]) -> Figures:
    """How long a loop in Python has to wait while another thread logs pictures, and how long that takes; for one."""

    def log(stop: threading.Event) -> None:
        for step in range(1, 1 + LOOP_IMAGES):
            cases["photo_uint8"](step)
        getattr(writer, "close", int)()
        stop.set()

    with tempfile.TemporaryDirectory() as log_dir:
        cases, writer = adders(name, log_dir, what)
        cases["photo_uint8"](0)
        stop, count = threading.Event(), 0
        thread = threading.Thread(target=log, args=(stop,))
        begin = time.perf_counter()
        waited = kept_waiting(begin)
        thread.start()
        while not stop.is_set():
            for _ in range(1000):
                count += 1
        waited, wall = kept_waiting(begin) - waited, time.perf_counter() - begin
        thread.join()
    return {"waited": 1e3 * waited / LOOP_IMAGES, "wall": 1e3 * wall / LOOP_IMAGES}


def measure(name: str) -> Figures:
    """All figures of one writer, as ``<case>.<figure>``."""
    import matplotlib
    import torch

    matplotlib.use("Agg")
    torch.set_num_threads(1)
    what = things()
    figures = {"loop": measure_loop(name, what)} if name in ("torchboard", "torch", "tensorboardX") else {}
    for case in CASES:
        if case != "embedding" and measure_case(name, case, what):  # once for the packages to load
            figures[case] = measure_case(name, case, what)
        elif case == "embedding":
            figures[case] = measure_case(name, case, what)
    return {f"{case}.{key}": value for case, group in figures.items() for key, value in group.items()}


def best_ratio(figures: dict[str, list[Figures]], key: str, others: list[str]) -> str:
    """Ours over the best of the others, within a round: median (least to greatest)."""
    ratios = []
    for number, ours in enumerate(figures["torchboard"]):
        theirs = [figures[name][number][key] for name in others if key in figures[name][number]]
        if theirs:
            ratios.append(ours[key] / min(theirs))
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})" if ratios else "-"


def table_of(figures: dict[str, list[Figures]], figure: str, others: list[str]) -> str:
    """One figure of every case and writer, and ours over the best of the others."""
    rows = []
    for case, (what, _) in CASES.items():
        key = f"{case}.{figure}"
        cells = [
            f"{harness.median(figures, name, key):,.{0 if figure == 'bytes' else 2}f}"
            if key in figures[name][0]
            else "-"
            for name in figures
        ]
        rows.append([what, *cells, best_ratio(figures, key, others)])
    return harness.table(["", *(LABELS[name] for name in figures), "torchboard / best other"], rows)


def loop_table(figures: dict[str, list[Figures]]) -> str:
    """The last table."""
    names = [name for name in figures if "loop.waited" in figures[name][0]]
    keys = ("loop.waited", "loop.wall")
    rows = [[LABELS[name], *(f"{harness.median(figures, name, key):.2f}" for key in keys)] for name in names]
    rows.append(["torchboard / best other", *(best_ratio(figures, key, names[1:]) for key in keys)])
    return harness.table(["", "the loop waited, ms a picture", "logging took, ms a picture"], rows)


def report(rounds: int) -> str:
    """The measured tables."""
    peers = [name for name in PEERS if name != "tensorflow" or harness.TENSORFLOW_PYTHON]
    figures = harness.paired(__file__, ["torchboard", *peers, "hand"], rounds, [])
    others = [*peers, "hand"]
    packages = ["torch", "tensorboard", "tensorboardX", "pillow", "matplotlib"]
    titles = {
        "call": "The caller waits, ms",
        "total": "Until all is on disk, ms of wall time",
        "cpu": "CPU time of all threads, ms",
        "bytes": "Bytes on disk",
    }
    parts = [
        "# What pictures, sound and embeddings cost",
        f"`python benchmarks/media.py --rounds {rounds}`: {harness.machine(*packages)}. Medians over the rounds; ratios are "
        "taken within a round, over the best of the others: median (least to greatest). A writer that lacks a kind, or a package "
        "for it (moviepy, soundfile), has a dash. The 64 subplots are made within what is timed, the figure is not. Of 64 "
        "pictures the peers write one sheet, tf.summary and torchboard 64 files.",
    ]
    for figure, title in titles.items():
        parts += [f"## {title}", table_of(figures, figure, others)]
    parts += [
        "## A loop in Python beside it",
        f"{LOOP_IMAGES} photographs are logged from another thread while the main thread counts; how long it waited for the "
        "interpreter, and not for a core.",
        loop_table(figures),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    harness.main("media", __doc__, LABELS, measure, report, rounds=3)
