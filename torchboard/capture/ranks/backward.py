"""Norms of sharded gradients before clipping: what each rank has of them, brought together on rank 0.

A rank sends a few numbers for each sharded gradient, and nothing where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torchboard.capture.backward_norms import GradientPart, Share, Shares
from torchboard.capture.norms import Norms
from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.posts import exchanged, read_each
from torchboard.values import Pending

CHANNEL = "backward"


def with_shares(pending: Sequence[Pending], ranks: Ranks) -> list[Pending]:
    """The same, on rank 0 with what other ranks have of the gradients. Every rank calls it at the same ends of epochs."""

    def send(mine: Norms) -> bytes:
        return _packed(mine.backward.shares()) if mine.backward.is_sharded else b""

    def merge(mine: Norms | None, posts: Mapping[int, bytes]) -> list[Norms]:
        if mine is None:
            return []
        others: list[Shares] = []
        read_each(posts, ranks, lambda _, post: others.append(_unpacked(post, mine.backward.groups)))
        return [replace(mine, backward=replace(mine.backward, others=tuple(others)))]

    return exchanged(pending, Norms, ranks, CHANNEL, send, merge)


def _packed(shares: Shares) -> bytes:
    return json.dumps([(group, steps, mine) for group, (steps, mine) in shares.items()]).encode()


def _unpacked(post: bytes, groups: Mapping[str, Sequence[GradientPart]]) -> Shares:
    """What a rank has of the gradients in these groups; raises where it is no such thing."""
    found: dict[str, tuple[int, list[Share]]] = {}
    for group, steps, shares in json.loads(post):
        if group in groups:
            found[group] = int(steps), [_share(groups[group], *fields) for fields in shares]
    return found


def _share(parts: Sequence[GradientPart], gradient: int, place: str, share: float, square: float) -> Share:
    if not 0 <= gradient < len(parts):
        raise ValueError(f"there is no gradient {gradient} among {len(parts)}")
    return Share(int(gradient), str(place), float(share), float(square))
