"""Steps that a loss scaler skipped, counted from the scales it went through.

``GradScaler`` leaves an optimizer's step out where a gradient is not finite, and no hook tells. But each time it does, it
lowers its scale, by a factor that it states. So the scale is noted before each step: one small copy on its device a step, and
nothing at all without a scaler. How many steps were left out between two of them is worked out where the log is written.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from torchboard.capture.snapshot import HostCopy, Snapshot
from torchboard.values import Scalar, Value

SKIPPED_STEPS = "monitor/skipped_steps"
_FRAMES = 12
"""How far up from an optimizer's hook the scaler that called its step is looked for."""
_TOGETHER = 256
"""Scales that are kept one by one before they become one tensor."""


class LossScale:
    """The scale of the scaler that steps the optimizers, if there is one. It is found when it first steps one."""

    def __init__(self) -> None:
        self._scaler: weakref.ref[GradScaler] | None = None
        self._scaled: dict[int, tuple[weakref.ref[Optimizer], bool]] = {}
        self._rules: _Rules | None = None
        self._start: tuple[float, float] | None = None
        self._notes: list[Tensor] = []

    @property
    def is_watched(self) -> bool:
        """Whether a scaler was found."""
        return self._scaler is not None

    def before_step(self, optimizer: Optimizer, captured: bool = True) -> Tensor | None:
        """Notes the scale that this step was taken with; gives it, on its device, or None where no scaler steps it.

        An optimizer that no scaler stepped the last time is looked at again in captured steps.
        """
        reference, scaled = self._scaled.get(id(optimizer), (None, False))
        known = reference is not None and reference() is optimizer
        if not known or scaled or captured:
            is_scaled = self._find(optimizer)
            if not known or is_scaled != scaled:
                others = {key: entry for key, entry in self._scaled.items() if entry[0]() is not None}
                self._scaled = {**others, id(optimizer): (weakref.ref(optimizer), is_scaled)}
            return self._note() if is_scaled else None
        return None

    def collect(self) -> list[SkippedSteps]:
        """How many steps were skipped since the last call, on its way to the host."""
        self._note()
        if self._rules is None or not self._notes:
            return []
        notes = torch.cat(self._notes)
        self._notes = [notes[-1:]]
        start, self._start = self._start, None
        return [SkippedSteps((SKIPPED_STEPS,), HostCopy([notes]), self._rules, start, self._tells_good_steps())]

    def _tells_good_steps(self) -> bool:
        """Whether each note is of a good step: there is one scaled optimizer, and its steps are left out by the scaler."""
        scaled = [reference() for reference, is_scaled in self._scaled.values() if is_scaled]
        live = [optimizer for optimizer in scaled if optimizer is not None]
        return len(live) == 1 and not getattr(live[0], "_step_supports_amp_scaling", False)

    def _find(self, optimizer: Optimizer) -> bool:
        """Whether a scaler is stepping the optimizer right now; the first one is the one that is watched."""
        frame = sys._getframe(1)
        for _ in range(_FRAMES):
            frame = frame.f_back
            if frame is None:
                return False
            if frame.f_code.co_name in ("step", "_maybe_opt_step"):
                scaler = frame.f_locals.get("self")
                if isinstance(scaler, GradScaler):
                    if not scaler.is_enabled():
                        return False
                    if self._scaler is None:
                        self._watch(scaler, optimizer)
                    return self._scaler() is scaler
        return False

    def _watch(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        factors = scaler.get_growth_factor(), scaler.get_backoff_factor()
        self._rules = _Rules(*factors, scaler.get_growth_interval())
        self._scaler = weakref.ref(scaler)
        if not optimizer.state:  # else it has stepped before, and what the scaler skipped then is not ours to count
            self._start = (scaler._init_scale, scaler._init_growth_tracker)

    def _note(self) -> Tensor | None:
        scaler = self._scaler and self._scaler()
        if scaler is None or scaler._scale is None:
            return None
        self._notes.append(torch.stack((scaler._scale, scaler._growth_tracker)).reshape(1, 2))
        if len(self._notes) > _TOGETHER:
            self._notes = [torch.cat(self._notes)]
        return scaler._scale


@dataclass(frozen=True)
class _Rules:
    """What a scaler multiplies its scale by: after so many good steps in a row, and after a bad one."""

    growth: float
    backoff: float
    interval: int


@dataclass(frozen=True)
class SkippedSteps(Snapshot):
    """The number of skipped steps.

    Attributes:
        rules: of the scaler.
        start: its scale and its count of good steps before the first note; None where the first note is the start.
        follow_good_steps: whether each note but the first is of a good step, so that one lies behind it.
    """

    rules: _Rules
    start: tuple[float, float] | None
    follow_good_steps: bool

    kind = Scalar

    def settle(self) -> Iterable[tuple[str, Value]]:
        (notes,) = self.copy.wait()
        if self.start is not None and not notes[0, 1] > self.start[1]:  # no good step lies before the first note
            notes = np.concatenate([np.array([self.start], notes.dtype), notes])
        good = chain([0], repeat(1)) if self.follow_good_steps else repeat(None)
        skipped = sum(_skipped(*pair, self.rules, steps) for *pair, steps in zip(notes, notes[1:], good))
        yield SKIPPED_STEPS, Scalar(float(skipped), "steps of this epoch that the loss scaler left out")


def _skipped(before: np.ndarray, after: np.ndarray, rules: _Rules, good: int | None) -> int:
    """Steps skipped between two notes of (scale, good steps in a row); between them none or one was good, None for not known.

    A good step counts one up, or starts the count anew and raises the scale; a bad one starts it anew and lowers the scale.
    """
    (scale, count), (new_scale, new_count) = before, after
    if (
        not good and new_count == count and (count or scale == new_scale)
    ):  # no step in between, or the user has set the scale
        return 0
    if good is None and new_scale < scale and np.isclose(new_scale, scale * rules.backoff):
        return 1
    grew = good != 0 and count + 1 == rules.interval
    top = scale * rules.growth if grew else scale
    return max(0, round(float(np.log(new_scale / top) / np.log(rules.backoff))))
