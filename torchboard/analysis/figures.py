"""Predictions as pictures, drawn at the call by matplotlib's own objects: pyplot and its figures are left alone.

Drawing takes about 0.1 s a picture. A cell of a large confusion matrix is a whole number of pixels, so that no class
falls between two of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure

from torchboard.analysis.calibration import Calibration
from torchboard.analysis.confusion import Confusion
from torchboard.arrays import draw_figure
from torchboard.values import Image
from torchboard.values.image import over_white

DPI = 100
_MOST_NUMBERS = 20
"""Classes up to which cells hold their numbers."""
_MOST_NAMES = 40
"""Classes up to which each has its name on the axes."""
_SIDE = 800
"""Pixels that a large matrix has at least."""
_MARGINS = (150, 110, 90, 40)
"""Pixels left, below, right and above of a matrix."""
_LONGEST = 18
"""Letters of a name that are shown."""


def to_image(figure: Figure, description: str = "") -> Image:
    """The picture of a figure, on white."""
    return Image(over_white(draw_figure(figure))[None], description)


def confusion_figure(confusion: Confusion, shares: bool) -> Figure:
    """A confusion matrix: counts on a logarithmic scale of colours, or shares of the rows, on one that lifts small ones."""
    matrix = confusion.shares if shares else confusion.counts
    rows = len(matrix)
    cell = min(60, max(30, 400 // rows)) if rows <= _MOST_NAMES else max(1, round(_SIDE / rows))
    left, below, right, above = _MARGINS
    width, height = left + rows * cell + right, below + rows * cell + above
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((left / width, below / height, rows * cell / width, rows * cell / height))
    picture = axes.imshow(_with_holes(matrix), cmap="Blues", norm=_scale(matrix, shares), interpolation="nearest")
    bar = figure.add_axes((1 - (right - 20) / width, below / height, 15 / width, rows * cell / height))
    figure.colorbar(picture, cax=bar)
    _name_classes(axes, confusion)
    kind = "share of the true class" if shares else "examples"
    groups = f", {confusion.size} classes a cell" if confusion.size > 1 else ""
    axes.set(xlabel="guessed", ylabel="true", title=f"{kind}{groups}")
    if rows <= _MOST_NUMBERS:
        _number_cells(axes, matrix, shares)
    return figure


def roc_figure(curves: Sequence[tuple[str, float, np.ndarray, np.ndarray]]) -> Figure:
    """ROC curves: ``(name, area, false positive rates, true positive rates)`` each."""
    figure, axes = _square()
    for name, area, false, true in curves:
        axes.plot(false, true, linewidth=1.5, label=f"{short(name)} ({area:.3f})")
    if curves:
        axes.legend(loc="lower right", fontsize=7, title="area under the curve", title_fontsize=7)
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    return figure


def roc_band_figure(grid: np.ndarray, rates: np.ndarray, area: float) -> Figure:
    """The ROC curves of many classes, float[classes, points] over one grid: their mean, their median and what most are in."""
    figure, axes = _square()
    low, middle, high = np.quantile(rates, (0.1, 0.5, 0.9), axis=0)
    axes.fill_between(grid, low, high, alpha=0.25, label="eight of ten classes")
    axes.plot(grid, middle, label="median class")
    axes.plot(grid, rates.mean(0), label=f"mean class ({area:.3f})")
    axes.legend(loc="lower right", fontsize=7)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=f"{len(rates)} classes")
    return figure


def reliability_figure(calibration: Calibration, binary: bool) -> Figure:
    """A reliability diagram: what came true against what was said, and how often each was said."""
    figure = Figure(figsize=(5, 6), dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = len(calibration.counts)
    used = calibration.counts > 0
    centres = (np.arange(bins) + 0.5) / bins
    above.bar(centres[used], calibration.accuracy[used], 0.9 / bins, color="tab:blue", label="came true")
    gaps = calibration.confidence - calibration.accuracy
    above.bar(
        centres[used], gaps[used], 0.9 / bins, calibration.accuracy[used], color="tab:red", alpha=0.35, label="gap"
    )
    above.plot((0, 1), (0, 1), color="gray", linestyle="--", linewidth=1)
    above.set(ylim=(0, 1), xlim=(0, 1), ylabel="accuracy" if not binary else "share of class 1")
    above.set_title(f"expected calibration error {calibration.error:.4f}")
    above.legend(loc="upper left", fontsize=8)
    below.bar(centres, calibration.counts, 0.9 / bins, color="gray")
    below.set(xlabel="confidence" if not binary else "probability of class 1", ylabel="examples")
    if calibration.counts.max() > 100:
        below.set_yscale("symlog")
    return figure


def sheet_figure(pictures: Sequence[np.ndarray], captions: Sequence[str]) -> Figure:
    """Pictures uint8[height, width, channels], four a row, each with what is said of it above."""
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.7 * rows), dpi=DPI, layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes in cells:
        axes.axis("off")
    for axes, picture, caption in zip(cells, pictures, captions):
        drawn = picture[:, :, 0] if picture.shape[2] < 3 else picture
        axes.imshow(drawn, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(caption, fontsize=8)
    return figure


def _square() -> tuple[Figure, object]:
    figure = Figure(figsize=(5, 5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="gray", linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    return figure, axes


def _with_holes(matrix: np.ndarray) -> np.ndarray:
    """The matrix with nothing drawn where it is 0, so that a single confusion among a million cells shows."""
    return np.ma.masked_equal(matrix, 0)


def _scale(matrix: np.ndarray, shares: bool) -> Normalize:
    """Of a large matrix, single examples get a darker colour: they are single pixels there."""
    large = len(matrix) > _MOST_NAMES
    if shares:
        return PowerNorm(0.3 if large else 0.5, 0, 1)
    return LogNorm(0.02 if large else 0.5, max(1, matrix.max()))


def _name_classes(axes, confusion: Confusion) -> None:
    rows = len(confusion.counts)
    ticks = np.arange(0, rows, 1 if rows <= _MOST_NAMES else -(-rows // 20))
    names = [short(confusion.classes[tick * confusion.size]) for tick in ticks]
    axes.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)


def _number_cells(axes, matrix: np.ndarray, shares: bool) -> None:
    dark = 0.3 if shares else np.sqrt(max(1, matrix.max()))
    size = 9 if len(matrix) <= 12 else 6
    for (row, column), value in np.ndenumerate(matrix):
        if value:
            text = f"{value:.2f}" if shares else _count(int(value))
            color = "white" if value > dark else "black"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)


def _count(number: int) -> str:
    """A count in at most five letters."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= 10 * unit:
            return f"{number / unit:.0f}{letter}"
    return str(number)


def short(name: str) -> str:
    """A name as it is drawn: short, and letter by letter, though matplotlib takes dollars for formulas."""
    cut = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    return cut.replace("$", r"\$")
