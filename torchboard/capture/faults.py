"""What could not be captured, and why: kept until the end of an epoch, so that nothing is raised into a training."""

from __future__ import annotations

from collections.abc import Callable, ItemsView
from functools import partial
from typing import Any


class Faults:
    """The first fault of each kind of thing that is captured."""

    def __init__(self) -> None:
        self._first: dict[str, Exception] = {}

    def keep(self, what: str, error: Exception) -> None:
        """Keeps a fault, if it is the first of its kind."""
        self._first.setdefault(what, error)

    def of(self, what: str) -> Callable[[Exception], None]:
        """What keeps those of one kind."""
        return partial(self.keep, what)

    def seen(self, what: str, collect: Callable[[], Any]) -> list[Any]:
        """What a collector has, or nothing where it raises."""
        try:
            return [*collect()]
        except Exception as error:
            self.keep(what, error)
            return []

    def items(self) -> ItemsView[str, Exception]:
        """Kinds and faults."""
        return self._first.items()
