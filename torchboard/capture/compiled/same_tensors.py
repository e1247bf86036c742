"""Outputs that are the very tensor which a layer has returned before: one gradient comes back to all of them.

A layer that hands on what a child of its own returned, or returns one tensor in two places, has there an output with a past. A
tap behind the layer would see what comes back from outside alone, and not what the layer has made of the tensor itself.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import NamedTuple

from torch import Tensor


class Place(NamedTuple):
    """One of the outputs of a layer."""

    layer: str
    suffix: str


class _First(NamedTuple):
    """Who returned a tensor first, and the tensor's version then: in another one it has another gradient."""

    tensor: weakref.ref[Tensor]
    version: int
    place: Place


class SameTensors:
    """Told of each output in an eager step, knows which are others' always. Keeps no tensor alive."""

    def __init__(self) -> None:
        self._first: dict[int, _First] = {}
        self._calls: Counter[Place] = Counter()
        self._sources: dict[Place, set[Place]] = {}

    def see(self, place: Place, tensor: Tensor) -> None:
        """A layer has returned this tensor."""
        first = self._first.get(id(tensor))
        if first is None or first.tensor() is not tensor or first.version != tensor._version:
            first = self._first[id(tensor)] = _First(weakref.ref(tensor), tensor._version, place)
        self._calls[place] += 1
        self._sources.setdefault(place, set()).add(first.place)

    def take(self) -> dict[Place, Place]:
        """Each output that always was what another one was before -> that one, if it was handed on always; and forgets them."""
        lone = {place: next(iter(sources)) for place, sources in self._sources.items() if len(sources) == 1}
        found = {
            place: source
            for place, source in lone.items()
            if source != place and self._calls[source] == self._calls[place]
        }
        for seen in (self._first, self._calls, self._sources):
            seen.clear()
        return found
