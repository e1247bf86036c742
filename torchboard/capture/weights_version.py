"""Whether weights were written to by a step that nobody reports."""

from __future__ import annotations

import math
import weakref

from torch import Tensor, nn

_PATIENCE = 32
"""Batches with gradients in which no weight is seen to change before it is taken for granted that each changes them."""


class WeightsVersion:
    """Tells of steps that nobody reports, by the version counters that autograd keeps of weights that are written to.

    The counter of one weight is looked at, the first trainable one: a microsecond. Those of all are, 0.1 us each, where no steps
    are reported, or in captured ones alone, as of a compiled optimizer: it may hold other weights. What is written through
    ``weight.data`` counts nowhere: where no step is seen at all, each batch behind the first 32 that have left a gradient is one.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._owner: weakref.ref[nn.Module] | None = None
        self._key = ""
        self._seen: tuple[weakref.ref[Tensor], int] | None = None
        self._all: list[weakref.ref[Tensor]] = []
        self._total: int | None = None
        self._unmoved = 0.0
        self.report(captured=True)
        self.changed()
        self._unmoved = 0.0

    def look_again(self) -> None:
        """Another weight may be the first one by now."""
        self._owner = None

    def report(self, captured: bool) -> None:
        """A step has ended, a captured one or not; what is written until ``changed`` is asked belongs to it."""
        self._reported, self._captured = True, captured

    def changed(self) -> bool:
        """Whether weights were written to since the last call, and no step was reported since."""
        reported, self._reported = self._reported, False
        owner = self._owner() if self._owner is not None else None
        weight = owner._parameters[self._key] if owner is not None and self._key in owner._parameters else None
        if weight is None or not weight.requires_grad:
            weight = self._look()
        before, self._seen = self._seen, None if weight is None else (weakref.ref(weight), weight._version)
        last = None if before is None else before[0]()  # not always the first one now: some may be frozen since
        written = last is not None and last._version != before[1]
        if self._captured if reported else self._total is not None:
            known, total = self._all, self._total
            self._total = self._sum()
            written = written or known is self._all and self._total != total
        else:
            self._total = None
        self._unmoved = -math.inf if written or reported else self._unmoved + 1
        is_moved_unseen = self._unmoved > _PATIENCE and weight is not None and weight.grad is not None
        return (written or is_moved_unseen) and not reported

    def _sum(self) -> int:
        weights = [reference() for reference in self._all]
        model = self._model()
        if model is not None and (not weights or any(weight is None for weight in weights)):
            weights = [weight for weight in model.parameters() if _is_counted(weight)]
            self._all = [weakref.ref(weight) for weight in weights]
        return sum(weight._version for weight in weights if weight is not None)

    def _look(self) -> Tensor | None:
        """The first trainable parameter; its place is kept."""
        model = self._model()
        for module in model.modules() if model is not None else ():
            for key, weight in module._parameters.items():
                if weight is not None and _is_counted(weight):
                    self._owner, self._key = weakref.ref(module), key
                    return weight
        return None


def _is_counted(weight: Tensor) -> bool:
    """Whether it is trainable and what is written to it is counted, which is not so of one made in ``inference_mode``."""
    try:
        return weight.requires_grad and weight._version >= 0
    except RuntimeError:
        return False
