"""How long one rank waits for another that may never come."""

from __future__ import annotations

from collections.abc import Hashable

_SHORT = 1.0
"""Seconds that a rank which came again is waited for."""


class Patience:
    """Seconds to wait for each of several: all at first, half a second at most for one that did not come and half as long
    each time that it does not, so that it costs a second in all; a second for one that came again, and then ever longer.

    Args:
        seconds: the longest wait.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._left: dict[Hashable, float] = {}

    def __getitem__(self, whom: Hashable) -> float:
        return self._left.get(whom, self._seconds)

    def note(self, whom: Hashable, came: bool) -> None:
        """Says whether one that was waited for came."""
        left = self[whom]
        self._left[whom] = min(max(2 * left, _SHORT), self._seconds) if came else min(left, _SHORT) / 2
