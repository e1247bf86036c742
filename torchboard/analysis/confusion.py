"""Which class is taken for which, as a matrix of counts; with many classes, as the pairs that are confused most.

Both cost one pass over the examples, and neither holds more than ``MOST_CELLS`` squared counts, whatever the classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchboard.analysis.predictions import Predictions

MOST_CELLS = 1000
"""So many rows and columns a matrix has at most: one a pixel of a picture that fits on a screen."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """A confusion matrix.

    Attributes:
        counts: int64[rows, rows], how many examples of the class of a row were taken for that of a column.
        size: how many neighbouring classes a row stands for; 1 for at most ``MOST_CELLS`` classes.
        classes: the names of all classes.
    """

    counts: np.ndarray
    size: int
    classes: tuple[str, ...]

    @property
    def shares(self) -> np.ndarray:
        """float64[rows, rows]: the shares of each row; one without examples is 0."""
        return self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)


def confusion_of(predictions: Predictions) -> Confusion:
    """The matrix of all predictions, its rows the true classes."""
    size = -(-len(predictions.classes) // MOST_CELLS)
    rows = -(-len(predictions.classes) // size)
    cells = predictions.targets // size * rows + predictions.guesses // size
    counts = np.bincount(cells, minlength=rows * rows).reshape(rows, rows)
    return Confusion(counts, size, predictions.classes)


def most_confused(predictions: Predictions, most: int) -> list[tuple[int, int, int]]:
    """``(true class, guessed class, how many)`` of the most frequent confusions, the most frequent first."""
    wrong = predictions.guesses != predictions.targets
    count = len(predictions.classes)
    pairs, times = np.unique(predictions.targets[wrong] * count + predictions.guesses[wrong], return_counts=True)
    order = np.argsort(-times, kind="stable")[:most]
    return [(*map(int, divmod(pairs[index], count)), int(times[index])) for index in order]  # type: ignore[misc]
