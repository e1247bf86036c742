"""Which steps of optimizers make one training step."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable

from torch.optim import Optimizer

from torchboard.capture.steps import StepWatcher, parameters_of

_STEP = Optimizer.profile_hook_step(len).__code__
"""What runs around the step of every optimizer, and calls its hooks."""


class StepOrder:
    """Follows the steps of the optimizers of one model.

    A training step ends when every optimizer that was seen has stepped in it, or, at the latest, before one of them steps again.
    While trainable parameters are left that no optimizer seen so far holds, as in the first step of a GAN's training, another
    one is waited for. One that is found later, behind all the others and with parameters that none of them holds, is late: it
    belongs to the training step that these have ended. The steps that an optimizer lets others take within its own, as one
    does that wraps another, are part of that one.

    Args:
        watcher: knows the optimizers.

    Attributes:
        is_first: whether no training step has ended yet.
        is_late: whether the optimizer that steps now belongs to the training step before.
        stepped: the optimizers that have stepped in the present training step, by their ``id``.
        takes_more: whether an optimizer that is found now may belong to the training step that has ended.
        inner: the optimizers that have stepped within another one's step.
    """

    def __init__(self, watcher: StepWatcher) -> None:
        self.is_first = True
        self.is_late = False
        self.stepped: set[int] = set()
        self.takes_more = False
        self.inner: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._watcher = watcher
        self._known = watcher.optimizers
        self._outer: weakref.ref[Optimizer] | None = None
        self._inner = 0

    def rest(self) -> None:
        """While there is but one optimizer, each of its steps is a training step that is only counted, until ``wake``."""
        self._outer = self._watcher.rest()  # so that a step of another one in one of these is seen to be a part of it

    def wake(self) -> None:
        """Every step is reported again."""
        self._outer = None
        self._watcher.resting = None

    def begin(self, optimizer: Optimizer) -> bool | None:
        """An optimizer is about to step; whether the present training step has ended before it. None, and nothing else is to be
        done, where that is part of another one's step."""
        outer = self._outer() if self._outer is not None else None
        if outer is not None and _is_stepping(outer):
            self._inner += 1
            self.inner.add(optimizer)
            return None
        self._outer, self._inner = weakref.ref(optimizer), 0
        known, self._known = self._known, self._watcher.optimizers
        self.is_late = self.takes_more and known is not self._known and _holds_others(optimizer, known)
        return id(optimizer) in self.stepped

    def end(self, optimizer: Optimizer) -> bool | None:
        """It has stepped; whether the present training step has ended with it, None as for ``begin``."""
        if self._inner:
            self._inner -= 1
            self.stepped.add(id(optimizer))
            return None
        self._outer = None
        if self.is_late:
            return False
        self.stepped.add(id(optimizer))
        return self.have_all_stepped() and (not self.is_first or self._watcher.hold_all())

    def have_all_stepped(self) -> bool:
        """Whether every optimizer seen so far has stepped in the present training step."""
        known = self._watcher.optimizers
        return len(known) == 1 or {id(other) for other in self._watcher.live_optimizers()} <= self.stepped


def _is_stepping(outer: Optimizer) -> bool:
    """Whether the step whose hooks run now was called inside of one that ``outer`` takes; looks through the stack."""
    frame, steps = sys._getframe(1), 0
    while frame is not None:
        if frame.f_code is _STEP:
            steps += 1
            if steps > 1 and frame.f_locals.get("self") is outer:
                return True
        frame = frame.f_back
    return False


def _holds_others(optimizer: Optimizer, known: Iterable[weakref.ref[Optimizer]]) -> bool:
    """Whether an optimizer holds no parameter of the known ones, which all exist still."""
    held = {id(parameter) for parameter in parameters_of(optimizer)}
    before = [reference() for reference in known]
    return all(one is not None and held.isdisjoint(map(id, parameters_of(one))) for one in before)
