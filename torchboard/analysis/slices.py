"""How a classifier does on each part of its examples, and how far the parts lie apart: fairness, over time.

Rates of a binary classifier at a threshold are those that fairness is stated in: demographic parity compares positive
rates, equal opportunity true positive rates, and equalised odds these and false positive rates (Hardt, Price and Srebro,
"Equality of Opportunity in Supervised Learning", 2016). A gap is the greatest minus the least of the slices' rates, as in
Fairlearn's ``*_difference`` metrics. Limits of a rate are Wilson's score interval at 95 % (Wilson, 1927).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchboard.analysis.predictions import Predictions, batch_sizes, whole
from torchboard.errors import InvalidValueError

MOST_SLICES = 100
_Z = 1.959964
"""The normal distribution's 97.5 % quantile."""


@dataclass(frozen=True)
class Rate:
    """A share of examples.

    Attributes:
        hits: how many were counted.
        of: of how many; 0 where there is none, and then there is no rate.
    """

    hits: int
    of: int

    @property
    def value(self) -> float:
        """The share; NaN of none."""
        return self.hits / self.of if self.of else float("nan")

    @property
    def limits(self) -> tuple[float, float]:
        """Where the true share is, 19 times in 20: Wilson's score interval. NaN of none."""
        if not self.of:
            return float("nan"), float("nan")
        share, square = self.hits / self.of, _Z**2 / self.of
        middle = (share + square / 2) / (1 + square)
        reach = _Z * (share * (1 - share) / self.of + square / (4 * self.of)) ** 0.5 / (1 + square)
        return max(0.0, middle - reach), min(1.0, middle + reach)


def rates_of(predictions: Predictions, threshold: float) -> dict[str, Rate]:
    """The rates of some predictions by name: five of a binary classifier at a threshold of class 1, else the accuracy."""
    if not predictions.is_binary:
        return {"accuracy": _rate(predictions.guesses == predictions.targets)}
    true, yes = predictions.targets == 1, predictions.scores[:, 1] >= threshold
    return {
        "accuracy": _rate(true == yes),
        "positive_rate": _rate(yes),
        "true_positive_rate": _rate(yes[true]),
        "false_positive_rate": _rate(yes[~true]),
        "precision": _rate(true[yes]),
    }


def gap(rates: Iterable[Rate]) -> float:
    """The greatest rate minus the least, of those that there are; NaN of fewer than two."""
    values = [rate.value for rate in rates if rate.of]
    return max(values) - min(values) if len(values) > 1 else float("nan")


def slices_of(groups: Any, targets: Any, count: int) -> dict[str, np.ndarray]:
    """Slice -> its members, bool[N], in the order of the names, or of the dict.

    Args:
        groups: N labels, texts, whole numbers or booleans: a slice a label. Or a dict of name -> labels, whose slices are
            ``name=label``, or name -> mask bool[N], the members of one slice; slices may then share members. In batches
            where the targets are.
        targets: as the user gave them.
        count: N.

    Raises:
        InvalidValueError: there are not as many, a slice has no member, or there are more than 100 slices.
    """
    if isinstance(groups, Mapping):
        found: dict[str, np.ndarray] = {}
        for name, values in groups.items():
            labels = _labels(f"groups[{name!r}]", values, targets, count)
            masks = {"": labels} if labels.dtype == np.bool_ else _by_label(f"groups[{name!r}]", labels)
            found |= {f"{name}={label}" if label else str(name): members for label, members in masks.items()}
    else:
        found = _by_label("groups", _labels("groups", groups, targets, count))
    if not found or len(found) > MOST_SLICES:
        raise _too_many("groups", len(found))
    for name, members in found.items():
        if not members.any():
            raise InvalidValueError(f"slice {name!r}", "it has no member, so it has no rate", "leave it out")
    return found


def run_names(slices: Iterable[str], tag: str) -> dict[str, str]:
    """Slice -> the name of its run: what a directory may be called, no two alike."""
    names: dict[str, str] = {}
    for name in slices:
        plain = f"{tag}_{name}".replace("/", "_").replace("\\", "_").replace("\0", "_")
        if plain in names.values():
            raise InvalidValueError(f"slice {name!r}", "another slice has that name too", "give each its own")
        names[name] = plain
    return names


def _rate(hits: np.ndarray) -> Rate:
    return Rate(int(hits.sum()), len(hits))


def _labels(name: str, values: Any, targets: Any, count: int) -> np.ndarray:
    """One label an example."""
    batched = batch_sizes(targets) is not None and batch_sizes(values) is not None
    labels = whole(values, targets if batched else None)
    if labels.dtype == object:
        labels = np.array([str(label) for label in labels.reshape(-1)]).reshape(labels.shape)
    if labels.shape != (count,) or labels.dtype.kind not in "biuU":
        raise InvalidValueError(
            f"{name} {labels.dtype}{list(labels.shape)} for {count} examples",
            "each example has one label, a text, a whole number or a boolean",
            "give labels [N]; put continuous ones into bins first, as np.digitize does",
        )
    return labels


def _by_label(name: str, labels: np.ndarray) -> dict[str, np.ndarray]:
    known = np.unique(labels)
    if len(known) > MOST_SLICES:
        raise _too_many(name, len(known))
    return {str(label): labels == label for label in known}


def _too_many(name: str, count: int) -> InvalidValueError:
    wrong = f"there are 1 to {MOST_SLICES}, and each is a run of its own"
    return InvalidValueError(f"{name} with {count} slices", wrong, "put labels together")
