"""Norms of gradients and the size of updates, one number an epoch, worked out from the sketches where the log is written.

``gradient_norm``: the Euclidean norm of all gradients together, as the optimizers used them. ``update_ratio/<parameter>``:
the root mean square of a parameter's changes over that of the parameter at the epoch's end. A step that counts is a captured
one; over several the root mean square is given, of norms with nothing of a parameter in steps of its optimizer at which it
has no gradient. Nothing of this costs a device anything: a sketch has the sums, and where sketches are merged, of shards or
ranks, these are the norms of the whole. There is no norm where a gradient cannot be measured, as a complex one, or one whose
terms lie on several ranks (``Partial``): ``monitor/left_out/gradient_norm`` says so.

``gradient_norm_before_clipping``: the same norm as the last backward pass of each step left the gradients, reduced and
accumulated, with a loss scaler's factor taken off: before clipping, or whatever else changed them before the optimizer
stepped. ``backward_norms`` says how it is known; it is given where the two differ, and not of a model that a stage of a
pipeline runs: its schedule divides the gradients behind the last backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from torchboard.capture.backward_norms import BackwardSums
from torchboard.capture.select import tag
from torchboard.capture.sketches import SketchSnapshot
from torchboard.sketch import layout
from torchboard.values import Scalar, Text, Value

GRADIENT_NORM = "gradient_norm"
BEFORE_CLIPPING = "gradient_norm_before_clipping"
UPDATE_RATIO = "update_ratio"
NO_NORM = "monitor/left_out/gradient_norm"
_WHY = (
    "no gradient could be measured (it is complex, its class keeps its numbers to itself, its terms lie on several ranks, it "
    "is a part that does not tell of what, or the rank that has it is missing)"
)
_SAME = 1e-3
"""Norms that differ by less are of the same gradients."""


@dataclass(frozen=True)
class Norms:
    """A ``Pending`` that gives the norms and ratios of this module.

    Attributes:
        sketches: of gradients, updates and parameters, under their tags; they may be given elsewhere too.
        sizes: parameter -> how many elements its gradient has in a step of its optimizer, on average, of all its parts: none
            in one at which there was no gradient.
        steps: parameter -> the captured steps of its optimizer, of all epochs so far.
        backward: what ``BackwardNorms`` collected.
        skips: whether steps may be among them that a loss scaler skipped. What is not finite is of those, and left out;
            else it makes a norm NaN or infinite.
    """

    sketches: tuple[SketchSnapshot, ...]
    sizes: Mapping[str, float]
    steps: Mapping[str, int]
    backward: BackwardSums
    skips: bool

    @property
    def nbytes(self) -> int:
        return self.backward.copy.nbytes

    @property
    def plugins(self) -> dict[str, str]:
        tags = GRADIENT_NORM, BEFORE_CLIPPING, *(f"{UPDATE_RATIO}/{path}" for path in self._updated())
        return {**dict.fromkeys(tags, Scalar.plugin), NO_NORM: Text.plugin}

    def settle(self) -> Iterable[tuple[str, Value]]:
        squares: dict[str, float] = {}
        for sketch in self.sketches:
            squares |= _mean_squares(sketch, self.skips)
        gradients = {name: squares.get(tag("gradients", name)) for name, size in self.sizes.items() if size}
        lost = [f"`{name}`" for name, square in gradients.items() if square is None]
        if lost and len(lost) < len(gradients):
            yield NO_NORM, Text(f"There is no `{GRADIENT_NORM}`: of {', '.join(lost)} {_WHY}.")
        if gradients and not lost:
            norm = math.sqrt(sum(self.sizes[name] * square for name, square in gradients.items()))
            yield GRADIENT_NORM, Scalar(norm, "of the gradients as the optimizers used them")
            yield from self._before_clipping(norm)
        for path in self._updated():
            update, weight = (squares.get(f"{kind}/{path}") for kind in ("updates", "parameters"))
            if update is not None and weight:
                yield f"{UPDATE_RATIO}/{path}", Scalar(math.sqrt(update / weight))

    def _updated(self) -> Iterator[str]:
        """The parameters of which there are updates, as they stand in tags: where ranks are merged, those of all ranks."""
        for sketch in self.sketches:
            for kind, _, path in (name.partition("/") for name in sketch.tags):
                if kind == "updates":
                    yield path

    def _before_clipping(self, norm: float) -> Iterable[tuple[str, Value]]:
        before = self.backward.norm()
        if before is not None and abs(before - norm) > _SAME * norm:
            yield BEFORE_CLIPPING, Scalar(before, "of the gradients as the backward passes left them")


def _mean_squares(sketch: SketchSnapshot, skips: bool) -> dict[str, float]:
    """Tag -> the mean square of the elements that its sketch saw, of every one that saw any."""
    moments, parameters = sketch.moments()
    finite = layout.finite(moments)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        means = layout.norm(moments, parameters) ** 2 / finite
    if not skips:
        infinite = moments[:, layout.POS_INF] + moments[:, layout.NEG_INF]
        means = np.where(infinite > 0, np.inf, means)
        means = np.where(moments[:, layout.NAN] > 0, np.nan, means)
    seen = (finite if skips else moments[:, layout.COUNT]) > 0
    return {tag: float(mean) for tag, mean, counts in zip(sketch.tags, means, seen) if counts}
