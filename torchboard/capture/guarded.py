"""Values of ours that are lost, and raise nothing, where they cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torchboard.values import Pending, Value


@dataclass(frozen=True)
class Guarded:
    """A ``Pending`` that gives what another one gives until that raises.

    What a sink cannot have of a user's own write is an error of the next call; what a collector cannot give is none of the
    training's.

    Attributes:
        pending: the other one.
        failed: called with what it raises, on the thread that settles.
    """

    pending: Pending
    failed: Callable[[Exception], object]

    @property
    def nbytes(self) -> int:
        return self.pending.nbytes

    @property
    def plugins(self) -> dict[str, str]:
        return self.pending.plugins

    def settle(self) -> Iterable[tuple[str, Value]]:
        try:
            yield from self.pending.settle()
        except Exception as error:
            self.failed(error)
