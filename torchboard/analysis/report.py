"""All that is logged of a classifier's predictions, as tags and values of one event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from torchboard.analysis.calibration import calibration_of
from torchboard.analysis.confusion import confusion_of, most_confused
from torchboard.analysis.curves import OperatingPoints, micro_pr_curve, operating_points
from torchboard.analysis.figures import (
    confusion_figure,
    reliability_figure,
    roc_band_figure,
    roc_figure,
    sheet_figure,
    to_image,
)
from torchboard.analysis.predictions import Predictions, batch_sizes
from torchboard.arrays import to_array
from torchboard.errors import InvalidValueError
from torchboard.values import PrCurve, Scalar, Text, Value
from torchboard.values.image import to_pixels
from torchboard.values.text import wide_table

MOST_CURVES = 12
"""Classes up to which each has curves of its own."""
_TOP = 16
"""How many losses and confusions are shown."""
_GRID = np.linspace(0, 1, 101)

Pairs = Iterator[tuple[str, Value]]


def report(tag: str, predictions: Predictions, pictures: Sequence[np.ndarray] | None) -> tuple[tuple[str, Value], ...]:
    """Tags below ``tag`` and their values; ``pictures`` are those of ``top_losses``, or None."""
    pairs = [*_curves(predictions), *_matrices(predictions), *_calibration(predictions)]
    pairs += _top_losses(predictions, pictures)
    return tuple((f"{tag}/{name}", value) for name, value in pairs)


def top_losses(predictions: Predictions) -> np.ndarray:
    """The examples with the greatest losses, the greatest first: int64, at most 16."""
    losses = predictions.losses
    top = np.argpartition(-losses, min(_TOP, len(losses)) - 1)[:_TOP]
    return top[np.argsort(-losses[top], kind="stable")]


def pictures_of(images: Any, targets: Any, chosen: np.ndarray) -> list[np.ndarray]:
    """The pictures of the chosen examples, uint8[height, width, channels] each; no other is touched.

    Args:
        images: [N, C, H, W] or [N, H, W], or anything with a length whose items are [C, H, W] or [H, W]; in batches where the
            targets are.
        targets: as the user gave them.

    Raises:
        InvalidValueError: they are not as many as the examples, or one makes no picture.
    """
    sizes = batch_sizes(targets)
    parts, sizes = (images, sizes) if sizes is not None else ([images], [len(targets)])
    found = [len(part) if hasattr(part, "__len__") else 0 for part in parts] if hasattr(parts, "__len__") else []
    if found != sizes:
        raise InvalidValueError(
            f"{sum(found)} images in {len(found)} parts for {sum(sizes)} examples in {len(sizes)}",
            "each example has one",
            "give as many images as targets, or none",
        )
    starts = np.cumsum([0, *sizes])
    batches = np.searchsorted(starts, chosen, side="right") - 1
    return [_picture(parts[batch][int(index - starts[batch])]) for batch, index in zip(batches, chosen)]


def _picture(image: Any) -> np.ndarray:
    array = to_array(image)
    return to_pixels(array, "HW" if array.ndim == 2 else "CHW")[0]


def _curves(predictions: Predictions) -> Pairs:
    """PR curves, the ROC curve, and the areas under both: a class against all others, and the mean of those that occur."""
    shown = [1] if predictions.is_binary else range(len(predictions.classes))
    points = {number: _points_of(predictions, number) for number in shown}
    points = {number: found for number, found in points.items() if found.positives and found.negatives}
    few = len(shown) <= MOST_CURVES
    if few:
        for number in shown:
            name = predictions.classes[number].replace("/", "_")
            scores = predictions.scores[:, number].clip(0, 1)
            yield f"pr_curve/{name}", PrCurve.from_predictions(predictions.targets == number, scores)
    else:
        yield "pr_curve/all_classes", micro_pr_curve(predictions.targets, predictions.scores)
    if points:
        area = float(np.mean([found.auc for found in points.values()]))
        yield "roc", to_image(_roc_figure(predictions.classes, points, area, few))
        yield "roc_auc", Scalar(area)
        yield "average_precision", Scalar(float(np.mean([found.average_precision for found in points.values()])))


def _roc_figure(classes: Sequence[str], points: dict[int, OperatingPoints], area: float, few: bool) -> Any:
    if few:
        return roc_figure([(classes[number], found.auc, *found.roc()) for number, found in points.items()])
    return roc_band_figure(_GRID, np.stack([np.interp(_GRID, *found.roc()) for found in points.values()]), area)


def _points_of(predictions: Predictions, number: int) -> OperatingPoints:
    return operating_points(predictions.targets == number, predictions.scores[:, number])


def _matrices(predictions: Predictions) -> Pairs:
    confusion = confusion_of(predictions)
    yield "accuracy", Scalar(float((predictions.guesses == predictions.targets).mean()))
    yield "confusion", to_image(confusion_figure(confusion, shares=False))
    yield "confusion_normalised", to_image(confusion_figure(confusion, shares=True))
    names, sizes = predictions.classes, np.bincount(predictions.targets, minlength=len(predictions.classes))
    rows = [
        (names[true], names[guess], count, f"{count / sizes[true]:.1%}")
        for true, guess, count in most_confused(predictions, _TOP)
    ]
    yield "most_confused", Text(wide_table(("true", "guessed", "examples", "of the true class"), rows))


def _calibration(predictions: Predictions) -> Pairs:
    calibration = calibration_of(predictions)
    yield "reliability", to_image(reliability_figure(calibration, predictions.is_binary))
    yield "expected_calibration_error", Scalar(calibration.error)


def _top_losses(predictions: Predictions, pictures: Sequence[np.ndarray] | None) -> Pairs:
    top = top_losses(predictions)
    names, worst = predictions.classes, predictions.where(top)
    rows = [
        (index, names[true], names[guess], f"{scores[true]:.3g}", f"{scores[guess]:.3g}", f"{loss:.3f}")
        for index, true, guess, scores, loss in zip(top, worst.targets, worst.guesses, worst.scores, worst.losses)
    ]
    header = ("example", "true", "guessed", "p(true)", "p(guessed)", "loss")
    yield "top_losses/table", Text(wide_table(header, rows))
    if pictures is not None:
        captions = [f"{row[0]}: {row[1]}\nguessed {row[2]}, loss {row[5]}".replace("$", r"\$") for row in rows]
        yield "top_losses/images", to_image(sheet_figure(pictures, captions))
