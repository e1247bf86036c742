"""Norms of gradients and the size of updates, one number an epoch, worked out from the sketches where the log is written.

``gradient_norm``: the Euclidean norm of all gradients together, as the optimizers used them. ``update_ratio/<parameter>``:
the root mean square of a parameter's changes over that of the parameter at the epoch's end. A step that counts is a captured
one; over several the root mean square is given. Nothing of this costs a device anything: a sketch has the sums, and where
sketches are merged, of shards or ranks, these are the norms of the whole. There is no norm where a gradient cannot be
measured, as a complex one.

``gradient_norm_before_clipping``: the same norm as the last backward pass of each step left the gradients, reduced and
accumulated, with a loss scaler's factor taken off: before clipping, or whatever else changed them before the optimizer
stepped. It is read when the backward pass ends, by one reduction of the gradients, and given where the two differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from torchboard.capture.select import tag
from torchboard.capture.sketches import SketchSnapshot
from torchboard.capture.snapshot import HostCopy
from torchboard.capture.tensors import measurable
from torchboard.graph.tensors import is_sharded
from torchboard.sketch import layout
from torchboard.values import Scalar, Value

GRADIENT_NORM = "gradient_norm"
BEFORE_CLIPPING = "gradient_norm_before_clipping"
UPDATE_RATIO = "update_ratio"
_SAME = 1e-3
"""Norms that differ by less are of the same gradients."""


class BackwardNorms:
    """The norm of the gradients as each step's last backward pass left them.

    Known where all gradients of an optimizer lie whole on one device; of a sharded one no process has the norm.
    """

    def __init__(self) -> None:
        self._norms: dict[int, Tensor] = {}
        self._sums: dict[int, Tensor] = {}

    def note(self, parameters: Iterable[nn.Parameter]) -> None:
        """A backward pass has ended. Two launches; waits for nothing."""
        self._norms = {}
        gradients = {id(weight): weight.grad for weight in parameters if weight.grad is not None}
        plain = [measurable(gradient) for gradient in gradients.values() if not is_sharded(gradient)]
        local = [gradient for gradient in plain if gradient is not None and gradient.is_floating_point()]
        if len(local) == len(gradients) and len({gradient.device for gradient in local}) == 1:
            wide = max((torch.float32, *(gradient.dtype for gradient in local)), key=lambda dtype: dtype.itemsize)
            self._norms = dict(zip(gradients, torch._foreach_norm(local, 2.0, dtype=wide)))

    def step(self, optimizer: int, parameters: Sequence[nn.Parameter], divisor: Tensor | None) -> None:
        """Counts the step of an optimizer, told by a number, that uses these gradients.

        Args:
            optimizer: its identity.
            parameters: those that it holds and that have a gradient.
            divisor: what the gradients were multiplied with for the backward pass; NaN if the step is skipped.
        """
        norms = [self._norms[id(weight)] for weight in parameters if id(weight) in self._norms]
        if not norms or len(norms) < len(parameters):
            return
        square = torch.stack(norms).square().sum()
        if divisor is not None:
            square = square / divisor.reshape(()).to(square.device, non_blocking=True) ** 2
        counts = square == square
        entry = torch.stack((torch.where(counts, square, 0.0), counts.to(square.dtype)))
        known = self._sums.get(optimizer)
        self._sums[optimizer] = entry if known is None else known + entry

    def collect(self) -> list[Tensor]:
        """Of every optimizer the sum of squared norms and the number of steps since the last call; begins anew."""
        sums, self._sums, self._norms = [*self._sums.values()], {}, {}
        return sums


@dataclass(frozen=True)
class Norms:
    """A ``Pending`` that gives the norms and ratios of this module.

    Attributes:
        sketches: of gradients, updates and parameters, under their tags; they may be given elsewhere too.
        sizes: parameter -> how many elements its gradient has in a step, of all its parts.
        backward: what ``BackwardNorms`` collected.
        skips: whether steps may be among them that a loss scaler skipped. What is not finite is of those, and left out;
            else it makes a norm NaN or infinite.
    """

    sketches: tuple[SketchSnapshot, ...]
    sizes: Mapping[str, float]
    backward: HostCopy
    skips: bool

    @property
    def nbytes(self) -> int:
        return self.backward.nbytes

    @property
    def plugins(self) -> dict[str, str]:
        tags = GRADIENT_NORM, BEFORE_CLIPPING, *(tag(UPDATE_RATIO, name) for name in self.sizes)
        return dict.fromkeys(tags, Scalar.plugin)

    def settle(self) -> Iterable[tuple[str, Value]]:
        squares: dict[str, float] = {}
        for sketch in self.sketches:
            squares |= _mean_squares(sketch, self.skips)
        gradients = {name: squares.get(tag("gradients", name)) for name, size in self.sizes.items() if size}
        if gradients and None not in gradients.values():
            norm = math.sqrt(sum(self.sizes[name] * square for name, square in gradients.items()))
            yield GRADIENT_NORM, Scalar(norm, "of the gradients as the optimizers used them")
            yield from self._before_clipping(norm)
        for name in self.sizes:
            update, weight = (squares.get(tag(kind, name)) for kind in ("updates", "parameters"))
            if update is not None and weight:
                yield tag(UPDATE_RATIO, name), Scalar(math.sqrt(update / weight))

    def _before_clipping(self, norm: float) -> Iterable[tuple[str, Value]]:
        sums = [(total, steps) for total, steps in self.backward.wait() if steps]
        before = math.sqrt(sum(total / steps for total, steps in sums))
        if sums and abs(before - norm) > _SAME * norm:
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
