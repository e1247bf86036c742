"""How true a histogram is once TensorBoard has drawn it: ours, ``tf.summary``'s, ``torch.utils.tensorboard``'s, NumPy's.

    python benchmarks/accuracy.py

Deterministic, half a minute, nothing is timed. Writes ``results/accuracy.md`` and the tables of ``docs/histograms.md``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import harness
import numpy as np
import torch
from tensorboard.compat.proto import summary_pb2
from tensorboard.data_compat import migrate_value
from tensorboard.util import tensor_util

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "sketch"))

from sketch_scores import datasets, misplaced, misplaced_in, percentile_errors, sketched, thirty_equal_bins  # noqa: E402

from torchboard import proto  # noqa: E402
from torchboard.values.histogram import Histogram  # noqa: E402

PAGE = ROOT / "docs" / "histograms.md"
WORSE = 0.1
"""Points of a percent beyond which a data set counts as drawn worse."""


@cache
def torch_limits() -> list[float]:
    """The limits of bins of a ``SummaryWriter``."""
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as log_dir, SummaryWriter(log_dir) as writer:
        return writer.default_bins


def torch_buckets(tensor: torch.Tensor) -> np.ndarray:
    """What ``torch.utils.tensorboard`` writes, as TensorBoard's reader turns it into buckets."""
    from torch.utils.tensorboard.summary import histogram

    values = tensor.half().float() if tensor.dtype == torch.bfloat16 else tensor.float()
    written = histogram("", values.numpy(), torch_limits()).SerializeToString()
    value = migrate_value(summary_pb2.Summary.FromString(written).value[0])
    return tensor_util.make_ndarray(value.tensor).astype(float)


def numpy_buckets(tensor: torch.Tensor) -> np.ndarray:
    """64 equal bins."""
    counts, edges = np.histogram(tensor.double().numpy(), 64)
    return np.stack([edges[:-1], edges[1:], counts], 1)


METHODS: dict[str, Callable[[torch.Tensor], np.ndarray]] = {
    "torchboard": lambda tensor: sketched(tensor).buckets,
    "tf.summary, 30 equal bins": lambda tensor: thirty_equal_bins(tensor.double().numpy()),
    "torch.utils.tensorboard": torch_buckets,
    "numpy.histogram, 64 bins": numpy_buckets,
}
MEASURES = ["own range", "other ranges", "percentiles, of the range", "percentiles, of their spread"]
OWN, OTHER, OF_RANGE, OF_SPREAD = range(len(MEASURES))


def scores(tensor: torch.Tensor, buckets: np.ndarray) -> list[float]:
    """Errors in percent, in the order of ``MEASURES``."""
    values = tensor.double().numpy()
    low, high = values.min(), values.max()
    own = misplaced_in(values, buckets, low, high) if low < high else 0.0
    return [100 * error for error in (own, misplaced(values, buckets), *percentile_errors(values, buckets))]


def bytes_of(buckets: np.ndarray) -> int:
    """On disk, as an event of its own with a tag of usual length."""
    event = proto.Event(wall_time=1.7e9, step=1000)
    Histogram(buckets).encode("parameters/layer1/0/conv1/weight", event)
    return len(event.SerializeToString()) + 16  # the record's frame


def summary_table(errors: dict[str, np.ndarray], made: dict[str, list[np.ndarray]]) -> str:
    """One line a method: medians and worst cases over all data sets."""
    base = errors["tf.summary, 30 equal bins"]
    rows = []
    for method, error in errors.items():
        worse = (error > base + WORSE).sum(0)
        pairs = [f"{median:.2f} / {worst:.4g}" for median, worst in zip(np.median(error, 0), error.max(0))]
        sizes = [len(buckets) for buckets in made[method]]
        rows.append([method, f"{np.median(sizes):.0f} / {max(sizes)}", *pairs, ", ".join(map(str, worse))])
    header = ["histogram", "buckets", *MEASURES, "data sets worse than 30 equal bins"]
    return harness.table(header, rows)


def detail_table(errors: dict[str, np.ndarray], names: list[str]) -> str:
    """One line a data set: how much of the mass stands wrong over other ranges, and the percentiles' error."""
    rows = [
        [name, *(f"{errors[method][row, OTHER]:.2f} / {errors[method][row, OF_RANGE]:.2f}" for method in METHODS)]
        for row, name in enumerate(names)
    ]
    return harness.table(["data", *METHODS], rows)


def size_line(made: dict[str, list[np.ndarray]], names: list[str]) -> str:
    """How large records are."""
    sizes = [bytes_of(buckets) for buckets in made["torchboard"]]
    large = [f"{name} ({size:,})" for name, size in zip(names, sizes) if size > 900]
    return (
        f"A histogram takes {np.median(sizes):.0f} bytes of the event file in the median and {max(sizes):,} at most."
        + (f" Above 900: {', '.join(large)}." if large else "")
    )


def main() -> None:
    data = datasets(0)
    made = {method: [make(tensor) for tensor in data.values()] for method, make in METHODS.items()}
    errors = {
        method: np.array([scores(tensor, buckets) for tensor, buckets in zip(data.values(), made[method])])
        for method in METHODS
    }
    names = list(data)
    text = "\n\n".join(
        [
            f"{len(names)} data sets; errors in percent, median / worst.",
            summary_table(errors, made),
            "Mass that stands in a wrong bin over other ranges / worst percentile, of the range:",
            detail_table(errors, names),
            size_line(made, names),
        ]
    )
    harness.write_result("accuracy", f"# How true histograms are drawn\n\n`python benchmarks/accuracy.py`\n\n{text}")
    page = PAGE.read_text()
    start, end = "<!-- written by benchmarks/accuracy.py -->", "<!-- end -->"
    PAGE.write_text(re.sub(f"{start}.*{end}", lambda _: f"{start}\n\n{text}\n\n{end}", page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
