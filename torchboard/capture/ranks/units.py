"""Dead units over the batches of all ranks: a unit is dead where it is on every rank, at one and the same value.

Each rank sends two numbers a unit. Ranks that compute on one batch together hold different units of a layer; there the
first rank's are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from torchboard.capture.pictures.dead_units import DeadUnitSnapshot
from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.posts import packed, unpacked
from torchboard.capture.snapshot import HostCopy
from torchboard.values import Pending

CHANNEL = "units"


def with_units(pending: Sequence[Pending], ranks: Ranks, counts: bool) -> list[Pending]:
    """The same, on rank 0 with what the units of all ranks' models did.

    Every rank calls it at the same ends of epochs, whatever it has seen; ``counts`` is False on one whose units are others.
    """
    mine = next((one for one in pending if isinstance(one, DeadUnitSnapshot)), None)
    sends = counts and mine is not None
    posts = ranks.gather(CHANNEL, packed([mine.tags, mine.facts], mine.copy.wait()) if sends else b"")
    if mine is None or not posts or not counts:
        return list(pending)
    ranges = mine.copy.wait()
    numbers = [count for _, count in mine.facts]
    for rank, post in posts.items():
        if not post or rank == ranks.rank:
            continue
        (tags, seen), found = unpacked(post)
        for tag, facts, theirs in zip(tags, seen, found):
            place = mine.tags.index(tag) if tag in mine.tags else -1
            if place >= 0 and theirs.shape == ranges[place].shape and facts[0] == mine.facts[place][0]:
                ends = np.minimum(ranges[place][0], theirs[0]), np.maximum(ranges[place][1], theirs[1])
                ranges[place] = np.stack(ends)
                numbers[place] += facts[1]
    facts = tuple((after, count) for (after, _), count in zip(mine.facts, numbers))
    copy = HostCopy([torch.from_numpy(np.ascontiguousarray(part)) for part in ranges])
    whole = replace(mine, copy=copy, facts=facts)
    return [whole if one is mine else one for one in pending]
