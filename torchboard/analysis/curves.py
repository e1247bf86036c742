"""What a threshold does: the exact ROC curve, the area under it, and average precision, from scores alone.

A curve only turns where its threshold passes a positive example, so its corners are found by looking the few positives up
among the sorted negatives: one sort of the negatives and one of the positives a class, no threshold left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchboard.values import PrCurve
from torchboard.values.pr_curve import ROWS

_PART = 1 << 20
"""So many scores are counted at a time."""


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """How many examples lie above each threshold, for every score of a positive example from the greatest down.

    Attributes:
        true: float64[k], positives at the threshold or above.
        false: float64[k], negatives at the threshold or above.
        false_before: float64[k], negatives above it; the difference to ``false`` is those that tie with a positive.
        positives, negatives: how many there are in all.
    """

    true: np.ndarray
    false: np.ndarray
    false_before: np.ndarray
    positives: int
    negatives: int

    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of the curve: false and true positive rates, from (0, 0) to (1, 1). Needs both kinds of examples."""
        before = np.concatenate([[0.0], self.true[:-1]])
        false = np.stack([self.false_before, self.false], 1).reshape(-1) / self.negatives
        true = np.stack([before, self.true], 1).reshape(-1) / self.positives
        return np.concatenate([[0.0], false, [1.0]]), np.concatenate([[0.0], true, [1.0]])

    @property
    def auc(self) -> float:
        """The area under the ROC curve: how likely a positive scores above a negative, ties counting half (Hanley and
        McNeil, 1982); NaN where there are only examples of one kind."""
        if not self.positives or not self.negatives:
            return float("nan")
        below = self.negatives - (self.false + self.false_before) / 2
        gained = np.diff(self.true, prepend=0.0)
        return float((below * gained).sum() / (self.positives * self.negatives))

    @property
    def average_precision(self) -> float:
        """Precision at every threshold, weighted by the recall gained there, without interpolation, as scikit-learn's
        ``average_precision_score`` has it; NaN where there is no positive."""
        if not self.positives:
            return float("nan")
        precision = self.true / (self.true + self.false)
        return float((precision * np.diff(self.true, prepend=0.0)).sum() / self.positives)


def operating_points(truth: np.ndarray, scores: np.ndarray) -> OperatingPoints:
    """The corners of a binary classifier's curves, from what is true, bool[N], and its finite scores [N]."""
    above, below = scores[truth], np.sort(scores[~truth])
    thresholds, counts = np.unique(above, return_counts=True)
    thresholds, counts = thresholds[::-1], counts[::-1]
    false, before = (len(below) - np.searchsorted(below, thresholds, side) for side in ("left", "right"))
    return OperatingPoints(np.cumsum(counts) * 1.0, false * 1.0, before * 1.0, len(above), len(below))


def micro_pr_curve(targets: np.ndarray, scores: np.ndarray) -> PrCurve:
    """The curve of all pairs of an example and a class, each a yes or no question: about 60 ns a pair."""
    rows = max(1, _PART // scores.shape[1])
    counts: np.ndarray | float = 0.0
    for start in range(0, len(scores), rows):
        part = scores[start : start + rows]
        truth = np.arange(part.shape[1]) == targets[start : start + rows, None]
        counts = counts + PrCurve.from_predictions(truth, part.clip(0, 1)).table[:4].astype(np.float64)
    found = dict(zip(ROWS, counts))  # type: ignore[call-overload]
    true, guessed = found["true positives"], found["true positives"] + found["false positives"]
    precision = np.divide(true, guessed, out=np.zeros_like(true), where=guessed > 0)
    return PrCurve.from_rows(*counts, precision, true / true[0])  # type: ignore[misc]
