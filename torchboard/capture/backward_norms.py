"""Norms of the gradients as backward passes leave them, before anything else changes them.

Read once, when a step's last backward pass has ended, after gradients were reduced and accumulated: one reduction of each
gradient on its device, and nothing waits. What is kept is a sum of squares for each gradient over the captured steps. Sums
of squares add up over shards, so those of all ranks make the whole norm, without a collective.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchboard.capture.ranks.parts import part_of
from torchboard.capture.snapshot import HostCopy
from torchboard.capture.tensors import measurable
from torchboard.sketch.host_compiled import squares_of


class GradientPart(NamedTuple):
    """What of a gradient this process has.

    Attributes:
        name: the parameter's.
        place: which of its shards; None for a whole one.
        share: how much of its elements: 1 for a whole one.
        counts: whether the process is the one of several with this shard that counts.
    """

    name: str
    place: str | None
    share: float
    counts: bool


class Share(NamedTuple):
    """What another rank had of a gradient that is in a group, and the sum of squares of that."""

    gradient: int
    place: str
    share: float
    square: float


Shares = Mapping[str, tuple[int, Sequence[Share]]]
"""Group -> how many steps used it on a rank, and what the rank had of its sharded gradients."""


@dataclass(frozen=True)
class BackwardSums:
    """Sums of squares of gradients over steps, on their way to the host.

    Attributes:
        groups: a digest of the names of gradients that an optimizer used together, alike on all ranks -> these gradients.
        copy: an array a group: a sum for each gradient, and at the end the number of steps.
        missed: parameter -> the steps of its optimizer at which it had no gradient.
        others: what other ranks had of the same gradients.
    """

    groups: Mapping[str, tuple[GradientPart, ...]]
    copy: HostCopy
    missed: Mapping[str, int]
    others: tuple[Shares, ...] = ()

    @property
    def is_sharded(self) -> bool:
        """Whether other ranks have parts of these gradients."""
        return any(part.place is not None for parts in self.groups.values() for part in parts)

    def shares(self) -> Shares:
        """What this process has of sharded gradients, for rank 0. Waits for the copy."""
        found = {}
        for (group, parts), (*squares, steps) in zip(self.groups.items(), self.copy.wait()):
            mine = [
                Share(number, part.place, part.share, float(square))
                for number, (part, square) in enumerate(zip(parts, squares))
                if part.place is not None and part.counts
            ]
            found[group] = int(steps), mine
        return found

    def norm(self) -> float | None:
        """The norm of all gradients together, of each the root mean square over its steps. Waits for the copy.

        Where a rank's share of a gradient did not come, it is taken to be as large as the others. None where no step was
        seen, or ranks saw different ones.
        """
        totals: dict[str, tuple[float, float]] = {}
        for (group, parts), (*squares, steps) in zip(self.groups.items(), self.copy.wait()):
            others = [shares[group] for shares in self.others if group in shares]
            if any(count != int(steps) for count, _ in others):
                return None
            for name, square in _whole_squares(parts, squares, [shares for _, shares in others]):
                total, count = totals.get(name, (0.0, 0.0))
                totals[name] = total + square, count + float(steps)
        means = [square / (steps + self.missed.get(name, 0)) for name, (square, steps) in totals.items() if steps]
        return math.sqrt(sum(means)) if means else None


def _whole_squares(
    parts: Sequence[GradientPart], squares: Sequence[float], others: Iterable[Sequence[Share]]
) -> Iterator[tuple[str, float]]:
    """Name and sum of squares of each gradient, of all its shards, each of which counts once."""
    known = [{part.place: (part.share, float(square))} for part, square in zip(parts, squares)]
    for shares in others:
        for number, place, share, square in shares:
            if parts[number].place is not None:
                known[number].setdefault(place, (share, square))
    for part, places in zip(parts, known):
        share = sum(share for share, _ in places.values())
        if share:
            yield part.name, sum(square for _, square in places.values()) / share


class BackwardNorms:
    """The norms of the gradients as each step's last backward pass left them.

    Known where all gradients lie on one device and can be measured, in whole or in shards; unknown where one is complex, or
    a sum whose terms several ranks hold (``Partial``), and where a gradient was replaced after another optimizer's step: a
    pass has come since that nothing told of.
    """

    def __init__(self) -> None:
        self._norms: dict[int, Tensor] = {}
        self._squares: dict[int, float] = {}
        self._parts: dict[str, tuple[GradientPart, ...]] = {}
        self._sums: dict[str, Tensor] = {}
        self._host_sums: dict[str, list[float]] = {}
        self._is_known = True
        self._noted: list[nn.Parameter] = []
        self._waiting: dict[int, weakref.ref[Tensor]] = {}  # gradients of other optimizers, since one has stepped

    def note(self, parameters: Iterable[nn.Parameter]) -> None:
        """A backward pass has ended. One call for gradients that compiled code can read in the host's memory, else two
        launches; waits for nothing."""
        self._noted, self._waiting = [*parameters], {}
        gradients = {id(weight): gradient for weight in self._noted if (gradient := weight.grad) is not None}
        squares = squares_of([*gradients.values()])
        self._norms, self._squares = {}, {} if squares is None else dict(zip(gradients, squares))
        if squares is None:
            self._note(gradients)

    def forget(self) -> None:
        """What was noted of a pass behind which no step came is not that of the next one."""
        self._norms, self._squares, self._noted, self._waiting = {}, {}, [], {}

    def _note(self, gradients: dict[int, Tensor]) -> None:
        plain = [measurable(gradient) for gradient in gradients.values()]
        local = [gradient for gradient in plain if gradient is not None and gradient.is_floating_point()]
        if len(local) == len(gradients) and len({gradient.device for gradient in local}) == 1:
            wide = max((torch.float32, *(gradient.dtype for gradient in local)), key=lambda dtype: dtype.itemsize)
            self._norms = dict(zip(gradients, torch._foreach_norm(local, 2.0, dtype=wide)))

    def step(self, used: Sequence[tuple[str, nn.Parameter]], divisor: Tensor | None) -> None:
        """Counts the step of an optimizer.

        Args:
            used: the parameters that it holds and that have a gradient, and their names.
            divisor: what the gradients were multiplied with for the backward pass; NaN if the step is skipped.
        """
        squares = self._take([id(weight) for _, weight in used])
        if self._waiting and any(self._is_replaced(weight) for _, weight in used):
            squares = None
        self._wait()
        if squares is None:
            self._is_known = self._is_known and not used  # the other norm is of this step too
            return
        group = _group(tuple([name for name, _ in used]))
        if group not in self._parts:
            self._parts[group] = tuple(_part(name, weight.grad) for name, weight in used)
        if isinstance(squares, list) and divisor is None:  # numbers of the host, which need no launches
            self._add_on_host(group, squares)
            return
        on_device = squares if isinstance(squares, Tensor) else _on_host(squares)
        self._add(group, _entry(on_device, divisor))

    def _add_on_host(self, group: str, squares: list[float]) -> None:
        known = self._host_sums.setdefault(group, [0.0] * (len(squares) + 1))
        if not math.isnan(sum(squares)):
            self._host_sums[group] = [total + square for total, square in zip(known, [*squares, 1.0])]

    def _add(self, group: str, entry: Tensor) -> None:
        known = self._sums.get(group)
        self._sums[group] = entry if known is None else known + entry.to(known.device, non_blocking=True)

    def _take(self, keys: list[int]) -> list[float] | Tensor | None:
        """The squares of the norms of these parameters' gradients, each of which is taken once; None where one is not known."""
        squares = [self._squares.pop(key, None) for key in keys]
        if squares and None not in squares:
            return squares
        norms = [self._norms.pop(key, None) for key in keys]
        return torch.stack(norms).square() if norms and not any(norm is None for norm in norms) else None

    def _wait(self) -> None:
        """What the step has left, of other optimizers, is kept as it was noted."""
        waiting = self._squares or self._norms
        self._noted = [weight for weight in self._noted if id(weight) in waiting] if waiting else []
        left = ((id(weight), weight.grad) for weight in self._noted)
        self._waiting = {key: weakref.ref(gradient) for key, gradient in left if gradient is not None}

    def _is_replaced(self, weight: nn.Parameter) -> bool:
        noted = self._waiting.get(id(weight))
        return noted is not None and noted() is not weight.grad

    def collect(self, missed: Mapping[str, int] | None = None, is_last: bool = True) -> BackwardSums:
        """What there is since the last call; begins anew. ``missed`` is as in ``BackwardSums``; not ``is_last`` says that
        gradients are not yet whole when a backward pass has ended, so that nothing is known."""
        for group, totals in self._host_sums.items():
            self._add(group, _on_host(totals))
        parts = self._parts if self._is_known and is_last else {}
        sums = BackwardSums(parts, HostCopy([self._sums[group] for group in parts]), missed or {})
        self._is_known = True
        self._parts, self._sums, self._host_sums = {}, {}, {}
        self.forget()
        return sums


@lru_cache(maxsize=128)
def _group(names: tuple[str, ...]) -> str:
    """What gradients of these names are known as on all ranks."""
    return blake2b("\0".join(names).encode(), digest_size=8).hexdigest()


def _on_host(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def _entry(squares: Tensor, divisor: Tensor | None) -> Tensor:
    """What a step adds: its squares and 1, or zeros if a square is NaN."""
    if divisor is not None:
        squares = squares / divisor.reshape(()).to(squares.device, non_blocking=True) ** 2
    total = squares.sum(0, keepdim=True)
    counts = total == total
    return torch.cat((torch.where(counts, squares, 0.0), counts.to(squares.dtype)))


def _part(name: str, gradient: Tensor) -> GradientPart:
    part = part_of(gradient)
    if part is None:
        return GradientPart(name, None, 1.0, True)
    local = measurable(gradient)
    return GradientPart(name, part.place, local.numel() / max(gradient.numel(), 1), part.counts)
