"""Values that the training thread knows already, beside those that are still on their way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torchboard.values import Value


@dataclass(frozen=True)
class Figures:
    """A ``Pending`` that gives values as they are.

    Attributes:
        pairs: ``(tag, value)``.
    """

    pairs: tuple[tuple[str, Value], ...]

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for _, value in self.pairs)

    @property
    def plugins(self) -> dict[str, str]:
        return {tag: value.plugin for tag, value in self.pairs}

    def settle(self) -> Iterable[tuple[str, Value]]:
        return self.pairs
