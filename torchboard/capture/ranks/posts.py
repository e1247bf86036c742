"""The bytes that a rank sends: something said in JSON, and arrays behind it; and what rank 0 makes of those of all ranks."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from torchboard.capture.ranks.exchange import Ranks
from torchboard.values import Pending

_Mine = TypeVar("_Mine", bound=Pending)


def packed(said: Any, arrays: Iterable[np.ndarray]) -> bytes:
    """What ``unpacked`` reads."""
    file = io.BytesIO()
    np.savez(file, np.frombuffer(json.dumps(said).encode(), np.uint8), *arrays)
    return file.getvalue()


def unpacked(post: bytes) -> tuple[Any, list[np.ndarray]]:
    """What was said, and the arrays. Runs no code that a post may hold; raises whatever it may where the post is another's."""
    with np.load(io.BytesIO(post), allow_pickle=False) as arrays:
        said, *others = (arrays[f"arr_{number}"] for number in range(len(arrays.files)))
    return json.loads(said.tobytes()), others


def read_each(posts: Mapping[int, bytes], ranks: Ranks, read: Callable[[int, bytes], object]) -> None:
    """Reads the posts in the order of ranks. One at which ``read`` raises, say another version's, is passed over and told of."""
    for rank, post in sorted(posts.items()):
        try:
            read(rank, post)
        except Exception as error:
            ranks.tell(f"What rank {rank} sent is no log of this version's ({type(error).__name__}: {error}).")


def exchanged(
    pending: Sequence[Pending],
    kind: type[_Mine],
    ranks: Ranks,
    channel: str,
    send: Callable[[_Mine], bytes],
    merge: Callable[[_Mine | None, Mapping[int, bytes]], Sequence[Pending]],
) -> list[Pending]:
    """The same, on rank 0 with what is made of the one of a kind, if there is one, and of what the others sent of theirs.

    Every rank calls it at the same ends of epochs; one that has none of the kind sends nothing, which is an empty post.
    """
    mine = next((one for one in pending if isinstance(one, kind)), None)
    posts = ranks.gather(channel, b"" if mine is None or ranks.writes else send(mine))
    if not ranks.writes:
        return list(pending)
    others = {rank: post for rank, post in posts.items() if post and rank != ranks.rank}
    return [*(one for one in pending if one is not mine), *merge(mine, others)]
