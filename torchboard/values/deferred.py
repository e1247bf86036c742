"""Values that are made of a copy of the user's array, away from the training thread.

The caller pays for the checks and the copy; turning numbers into pixels, samples or frames waits until the event is
settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from torchboard.values.value import Value


class Arrival(Protocol):
    """Arrays that are on their way, or there."""

    @property
    def nbytes(self) -> int:
        """How much memory they hold."""

    def wait(self) -> list[np.ndarray]:
        """The arrays, once they are there."""


@dataclass(frozen=True, eq=False)
class Arrived:
    """One array that is there."""

    array: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def wait(self) -> list[np.ndarray]:
        return [self.array]


@dataclass(frozen=True, eq=False)
class Copied:
    """A copy of the user's array, and what can be told of it before it is there.

    Attributes:
        arrival: the copy.
        shape: of the array.
        dtype: of the array that ``arrival`` gives.
    """

    arrival: Arrival
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True, eq=False)
class Deferred:
    """A ``Pending`` of one value.

    Attributes:
        tag: the value's.
        kind: its type.
        arrival: one array.
        make: the value of that array; it must not fail, so what it refuses is checked at the call.
    """

    tag: str
    kind: type[Value]
    arrival: Arrival
    make: Callable[[np.ndarray], Value]

    @property
    def nbytes(self) -> int:
        return self.arrival.nbytes

    @property
    def plugins(self) -> dict[str, str]:
        return {self.tag: self.kind.plugin}

    def settle(self) -> Iterable[tuple[str, Value]]:
        (array,) = self.arrival.wait()
        yield self.tag, self.make(array)
