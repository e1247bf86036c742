"""A log that the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from handmade import event, scalar, write

from torchboard.values import Histogram, Image, Text


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two runs: scalars, one of them not finite, a text, a histogram and a picture."""
    curves = {run: [scalar(step, "loss", factor * step) for step in range(4)] for run, factor in RUNS.items()}
    others = [
        scalar(0, "odd", float("nan")),
        scalar(1, "odd", float("-inf")),
        event(7, "notes", Text("one *line*\nanother \x1b[31m")),
        event(1, "weights", Histogram(np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 8.0]]))),
        event(1, "picture", Image(np.full((2, 3, 4, 3), 7, np.uint8))),
    ]
    write(tmp_path / "log" / "train", [*curves["train"], *others])
    write(tmp_path / "log" / "validation", curves["validation"])
    return tmp_path / "log"


RUNS = {"train": 1.0, "validation": 2.0}
