"""Whether probabilities mean what they say: of all guesses made with 70 %, are 70 % right?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchboard.analysis.predictions import Predictions

BINS = 15
"""As Guo et al. have them."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Predictions by how confident they are, in equal bins of 0..1.

    Attributes:
        counts: float64[bins], how many predictions fall into each.
        confidence: float64[bins], their mean confidence; 0 in an empty one.
        accuracy: float64[bins], the share of them that came true; 0 in an empty one.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error, in 0..1: the gap between confidence and accuracy of each bin, weighted by its
        predictions (Naeini et al., 2015; Guo et al., "On Calibration of Modern Neural Networks", 2017, eq. 3)."""
        return float((self.counts * np.abs(self.confidence - self.accuracy)).sum() / self.counts.sum())


def calibration_of(predictions: Predictions, bins: int = BINS) -> Calibration:
    """Bins of the probability that the guess is right, or of a binary classifier the probability of class 1.

    A bin holds what is above its lower and not above its upper edge; the first also holds 0.
    """
    if predictions.is_binary:
        confidence, right = predictions.scores[:, 1], predictions.targets == 1
    else:
        confidence, right = predictions.scores.max(1), predictions.guesses == predictions.targets
    edges = np.arange(1, bins) / bins
    index = np.searchsorted(edges, confidence.astype(np.float64), side="left")
    counts, sums, hits = (
        np.bincount(index, weights, bins).astype(np.float64) for weights in (None, confidence, right.astype(np.float64))
    )
    present = np.maximum(counts, 1)
    return Calibration(counts, sums / present, hits / present)
