"""What every kind of value takes on disk, small ones and large ones, in the files of each writer.

    TENSORFLOW_PYTHON=/path/to/python python benchmarks/bytes.py

Each case is logged once, at step 1 unless it says otherwise, by a fresh writer in a process that is its own package's alone; from
the bytes of all files below its directory those of a writer that logged nothing are taken off. The figures are the same on
every run but for the PNGs of matplotlib and of other versions of Pillow and zlib.

With an interpreter that has TensorFlow, ``tf.summary`` takes part, with the kinds that it and TensorBoard's own summary
functions have. A writer that lacks a kind, or a package for it, has a dash.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
from bytes_cases import cases_of

LABELS = {
    "torchboard": "torchboard",
    "torch": "torch.utils.tensorboard",
    "tensorboardX": "tensorboardX",
    "tensorflow": "tf.summary",
}
NOTES = {
    "nothing": "ours begins with the start of a session, which lets TensorBoard hide what a run held before it began again; "
    "so does each run of `add_scalars`",
    "tensor": "whole numbers are their own bytes, as in memory; PyTorch's writer lists them as varints, and there tbparse gives "
    "up on the whole log",
    "histogram": "at most 900 bytes, in buckets that follow the data; tf.summary has 30 equal ones",
    "pictures": "several pictures or figures are as many files, which TensorBoard pages, where PyTorch and tensorboardX "
    "write one sheet: 57 bytes and a Huffman table each",
    "picture with boxes": "the boxes are torchvision's, so it is not the same picture",
    "graph": "ours has the shapes, parameters and FLOPs of the operations, the layers as a graph of their own, and a table "
    "of them",
}
"""Kind -> what ours carries that the others do not, and takes bytes."""


def size_of(log_dir: str) -> int:
    return sum(path.stat().st_size for path in Path(log_dir).rglob("*") if path.is_file())


def open_writer(name: str, log_dir: str) -> Any:
    if name == "tensorflow":
        import tensorflow as tf

        writer = tf.summary.create_file_writer(log_dir)
        writer.set_as_default()
        return writer
    if name == "torchboard":
        from torchboard import SummaryWriter
    elif name == "torch":
        from torch.utils.tensorboard import SummaryWriter
    else:
        from tensorboardX import SummaryWriter
    return SummaryWriter(log_dir)


def size_with(name: str, case: str) -> int | None:
    """Bytes below the directory of a fresh writer after one case, or none at all; None where it cannot do it."""
    with tempfile.TemporaryDirectory() as log_dir:
        writer = open_writer(name, log_dir)
        try:
            if case:
                cases_of(name, writer)[case]()
        except Exception as error:  # a kind or a package that it lacks
            print(f"{name}: {case}: {error!r:.200}", file=sys.stderr)
            return None
        finally:
            writer.close()
        return size_of(log_dir)


def measure(name: str) -> dict[str, float]:
    """Case -> bytes, of one writer; those that it cannot do are left out."""
    import matplotlib

    matplotlib.use("Agg")
    empty = size_with(name, "")
    with tempfile.TemporaryDirectory() as log_dir:
        writer = open_writer(name, log_dir)
        cases = list(cases_of(name, writer))
        writer.close()
    figures = {"nothing / a new run": float(empty)}
    for case in cases:
        size = size_with(name, case)
        if size is not None and size > empty:  # a call may say that it wrote, and drop it
            figures[case] = float(size - empty)
    return figures


def row_of(case: str, figures: dict[str, dict[str, float]]) -> list[str]:
    """A line of the table: the bytes of each, ours less PyTorch's, and ours over PyTorch's and over the least."""
    cells = [f"{figures[name][case]:,.0f}" if case in figures[name] else "-" for name in figures]
    ours, peer = figures["torchboard"][case], figures["torch"].get(case)
    theirs = [figures[name][case] for name in figures if name != "torchboard" and case in figures[name]]
    more = f"{ours - peer:+,.0f}" if peer else "-"
    ratios = [f"{ours / other:.3f}" if other else "-" for other in (peer, min(theirs, default=None))]
    return [case, *cells, more, *ratios]


def report(rounds: int) -> str:
    """The measured table."""
    names = [name for name in LABELS if name != "tensorflow" or harness.TENSORFLOW_PYTHON]
    figures = {name: harness.run_variant(__file__, name, []) for name in names}
    rows = [row_of(case, figures) for case in figures["torchboard"]]
    more = [row[0] for row in rows if row[-3].startswith("+") and row[-3] != "+0"]
    notes = [f"* {kind}: {note}." for kind, note in NOTES.items()]
    return "\n\n".join(
        [
            "# What every kind of value takes on disk, in bytes",
            f"`python benchmarks/bytes.py`: {harness.machine('torch', 'tensorboard', 'tensorboardX', 'pillow', 'matplotlib')}. "
            "One call at step 1, without what a file begins with. The last columns are ours less PyTorch's, over PyTorch's, and "
            "over the least of the others.",
            harness.table(["", *(LABELS[name] for name in names), "less torch", "/ torch", "/ least"], rows),
            f"More than PyTorch's writer: {len(more)} of {len(rows)}{': ' if more else ''}{'; '.join(more)}.",
            "What takes more than some other has more in it:",
            "\n".join(notes),
        ]
    )


if __name__ == "__main__":
    harness.main("bytes", __doc__, LABELS, measure, report, rounds=1)
