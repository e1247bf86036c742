"""Norms of sharded gradients before clipping: what each rank has of them, brought together on rank 0.

A rank sends a few numbers for each sharded gradient, and nothing where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from torchboard.capture.backward_norms import Share, Shares
from torchboard.capture.norms import Norms
from torchboard.capture.ranks.exchange import Ranks
from torchboard.values import Pending

CHANNEL = "backward"


def with_shares(pending: Sequence[Pending], ranks: Ranks) -> list[Pending]:
    """The same, on rank 0 with what other ranks have of the gradients. Every rank calls it at the same ends of epochs."""
    mine = next((one for one in pending if isinstance(one, Norms)), None)
    sends = mine is not None and mine.backward.is_sharded
    posts = ranks.gather(CHANNEL, _packed(mine.backward.shares()) if sends and not ranks.writes else b"")
    others = tuple(_unpacked(post) for _, post in sorted(posts.items()) if post)
    if not others or not sends:
        return list(pending)
    whole = replace(mine, backward=replace(mine.backward, others=others))
    return [whole if one is mine else one for one in pending]


def _packed(shares: Shares) -> bytes:
    return json.dumps([(group, steps, mine) for group, (steps, mine) in shares.items()]).encode()


def _unpacked(post: bytes) -> Shares:
    return {group: (steps, [Share(*one) for one in mine]) for group, steps, mine in json.loads(post)}
