"""Targets and scores as users have them, checked once and brought into one form: a row of probabilities an example.

Everything is checked before anything is computed or written, so a call that is refused leaves nothing behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchboard.arrays import to_array
from torchboard.errors import InvalidValueError

_SUM_TOLERANCE = 0.02
"""How far from 1 the probabilities of an example may add up: a thousand of them in bfloat16 stay within that."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What is true of N examples, and what a classifier makes of them.

    Attributes:
        targets: int64[N], the number of each example's class.
        scores: float32 or float64 [N, C], probabilities, C >= 2; of a binary classifier those of 0 and 1.
        classes: C names, no two alike.
    """

    targets: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...]

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes; 1 is then the positive one."""
        return len(self.classes) == 2

    @property
    def guesses(self) -> np.ndarray:
        """int64[N], the class with the greatest probability, the first of equals."""
        return self.scores.argmax(1)

    @property
    def losses(self) -> np.ndarray:
        """float[N], cross entropy in nats; a probability of 0 counts as the least positive number of its type."""
        chosen = np.take_along_axis(self.scores, self.targets[:, None], 1)[:, 0]
        return -np.log(np.maximum(chosen, np.finfo(chosen.dtype).tiny))

    def where(self, members: np.ndarray) -> Predictions:
        """Those of the examples that a mask bool[N] or indices choose."""
        return Predictions(self.targets[members], self.scores[members], self.classes)


def predictions_of(targets: Any, scores: Any, classes: Sequence[str] | None, logits: bool) -> Predictions:
    """Checked predictions.

    Args:
        targets: [N] whole numbers or booleans: tensor on any device, array or list; or a list of such, one a batch.
        scores: as many probabilities [N] of class 1, or [N, C]; in batches where the targets are.
        classes: C names; by default numbers.
        logits: the scores are logits: a sigmoid of [N], or a softmax of [N, C], makes probabilities of them.

    Raises:
        InvalidValueError: something does not fit, or a score is not finite.
    """
    truth, given = whole(targets, targets), whole(scores, targets)
    probabilities = _probabilities(given, logits)
    names = _names(classes, probabilities.shape[1])
    return Predictions(_checked_targets(truth, probabilities), probabilities, names)


def batch_sizes(targets: Any) -> list[int] | None:
    """How many examples each batch has, where targets come as a list of arrays or tensors; None where they are whole."""
    if not isinstance(targets, (list, tuple)) or not targets:
        return None
    return [len(part) for part in targets] if all(getattr(part, "ndim", 0) for part in targets) else None


def whole(values: Any, targets: Any) -> np.ndarray:
    """An array; where the targets come in batches, of as many batches of the same sizes, joined.

    Raises:
        InvalidValueError: the batches differ, or there is no array in it.
    """
    sizes = batch_sizes(targets)
    if sizes is None:
        return to_array(values)
    parts = [to_array(part) for part in values] if isinstance(values, (list, tuple)) else []
    found = [len(part) if part.ndim else 0 for part in parts]
    if found != sizes or len({part.shape[1:] for part in parts}) != 1:
        raise InvalidValueError(
            f"{len(found)} batches of {sum(found)} for targets in {len(sizes)} batches of {sum(sizes)} examples",
            "each batch of targets has its own of everything else, of the same size",
            "give lists of equal length, or tensors of all batches",
        )
    return np.concatenate(parts)


def _probabilities(scores: np.ndarray, logits: bool) -> np.ndarray:
    """Scores as probabilities [N, C], C >= 2."""
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if scores.ndim not in (1, 2) or not scores.size or scores.dtype.kind not in "biuf":
        raise InvalidValueError(
            f"scores {scores.dtype}{list(scores.shape)}",
            "they are real numbers, [N] of a binary classifier or [N, C] of one with C classes, and N is 1 or more",
            "give one row an example",
        )
    scores = scores.astype(np.float64 if scores.dtype == np.float64 else np.float32, copy=False)
    finite = np.isfinite(scores)
    if not finite.all():
        place = np.argwhere(~finite)[0]
        raise InvalidValueError(
            f"scores with {scores[tuple(place)]} at {place.tolist()}, {int((~finite).sum())} of {scores.size} not finite",
            "a curve of them would say nothing",
            "look for what made them, or leave those examples out",
        )
    if logits:
        return _of_logits(scores)
    _check_probabilities(scores)
    return np.stack([1 - scores, scores], 1) if scores.ndim == 1 else scores


def _of_logits(scores: np.ndarray) -> np.ndarray:
    """The softmax of rows, and of single logits the sigmoid, which is the softmax of (0, x)."""
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], 1)
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _check_probabilities(scores: np.ndarray) -> None:
    outside = (scores < 0) | (scores > 1)
    if outside.any():
        raise InvalidValueError(
            f"scores with {scores[outside][0]}", "a probability is in 0..1", "give logits=True if these are logits"
        )
    sums = scores.sum(1, dtype=np.float64) if scores.ndim == 2 else np.ones(1)
    wrong = np.abs(sums - 1) > _SUM_TOLERANCE
    if wrong.any():
        raise InvalidValueError(
            f"scores of example {int(wrong.argmax())} that add up to {sums[wrong][0]:.3g}",
            "the probabilities of the classes of one example add up to 1",
            "give logits=True if these are logits; where an example has several labels, log each label by itself, as [N]",
        )


def _checked_targets(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.shape != scores.shape[:1] or targets.dtype.kind not in "biuf":
        raise InvalidValueError(
            f"targets {targets.dtype}{list(targets.shape)} for {len(scores)} examples",
            "each example has one, the number of its class",
            "give whole numbers [N], such as one_hot.argmax(1)",
        )
    count = scores.shape[1]
    wrong = ~((targets >= 0) & (targets < count) & (targets == np.floor(targets)))
    if wrong.any():
        raise InvalidValueError(
            f"target {targets[wrong][0]} of example {int(wrong.argmax())}",
            f"with scores of {count} classes a target is a whole number in 0..{count - 1}",
            "count classes from 0, and leave out examples without one",
        )
    return targets.astype(np.int64)


def _names(classes: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The names of the classes, those that come twice with their numbers behind them."""
    if classes is None:
        return tuple(map(str, range(count)))
    names = list(classes) if not isinstance(classes, str) else [classes]
    if len(names) != count or not all(isinstance(name, str) and name for name in names):
        raise InvalidValueError(
            f"classes {names!r:.100}",
            f"there are scores of {count} classes, and each has a name",
            "give a str for each",
        )
    times = Counter(names)
    return tuple(name if times[name] == 1 else f"{name} ({number})" for number, name in enumerate(names))
