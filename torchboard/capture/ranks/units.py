"""Dead units over the batches of all ranks: a unit is dead where it is on every rank, at one and the same value.

Each rank sends two numbers a unit. Ranks that compute on one batch together hold different units of a layer; there the
first rank's are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from torchboard.capture.pictures.dead_units import DeadUnitSnapshot
from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.posts import exchanged, packed, read_each, unpacked
from torchboard.capture.snapshot import HostCopy
from torchboard.values import Pending

CHANNEL = "units"


def with_units(pending: Sequence[Pending], ranks: Ranks, counts: bool) -> list[Pending]:
    """The same, on rank 0 with what the units of all ranks' models did.

    Every rank calls it at the same ends of epochs, whatever it has seen; ``counts`` is False on one whose units are others.
    """

    def send(mine: DeadUnitSnapshot) -> bytes:
        return packed([mine.tags, mine.facts], mine.copy.wait()) if counts else b""

    def merge(mine: DeadUnitSnapshot, posts: Mapping[int, bytes]) -> DeadUnitSnapshot:
        units = _Units(mine)
        read_each(posts, ranks, lambda _, post: units.add(post))
        return units.whole()

    return exchanged(pending, DeadUnitSnapshot, ranks, CHANNEL, send, merge if counts else lambda mine, _: mine)


class _Units:
    """The ends of each unit's range and how many values it had: this rank's, widened by those of others."""

    def __init__(self, mine: DeadUnitSnapshot) -> None:
        self._mine = mine
        self._seen = {
            tag: (after, count, ends) for tag, (after, count), ends in zip(mine.tags, mine.facts, mine.copy.wait())
        }

    def add(self, post: bytes) -> None:
        """All of another rank's layers that are here too, or none where it raises."""
        (tags, facts), ranges = unpacked(post)
        seen = dict(self._seen)
        for tag, (after, count), (low, high) in zip(tags, facts, ranges):
            mine, number, ends = seen.get(tag, (None, 0, None))
            if after == mine and low.shape == high.shape == ends[0].shape:
                widened = np.stack((np.minimum(ends[0], low), np.maximum(ends[1], high)))
                seen[tag] = mine, number + int(count), widened
        self._seen = seen

    def whole(self) -> DeadUnitSnapshot:
        copy = HostCopy([torch.from_numpy(np.ascontiguousarray(ends)) for _, _, ends in self._seen.values()])
        return replace(self._mine, copy=copy, facts=tuple((after, count) for after, count, _ in self._seen.values()))
