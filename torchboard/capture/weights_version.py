"""Whether weights were written to by a step that nobody reports."""

from __future__ import annotations

import weakref

from torch import Tensor, nn


class WeightsVersion:
    """Tells of steps that nobody reports, by the version counters that autograd keeps of weights that are written to.

    The counter of one weight is looked at, the first trainable one: a microsecond. Those of all are, 0.1 us each, where no steps
    are reported, or in captured ones alone, as of a compiled optimizer: it may hold other weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._owner: weakref.ref[nn.Module] | None = None
        self._key = ""
        self._version = (0, 0)
        self._all: list[weakref.ref[Tensor]] = []
        self._total: int | None = None
        self.report(captured=True)
        self.changed()

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
        before, self._version = self._version, (0, 0) if weight is None else (id(weight), weight._version)
        written = self._version != before
        if self._captured if reported else self._total is not None:
            known, total = self._all, self._total
            self._total = self._sum()
            written = written or known is self._all and self._total != total
        else:
            self._total = None
        return written and not reported

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
