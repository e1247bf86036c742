"""Bytes under keys of the store that a job was set up with: any of torch's, however little it takes at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

_CHUNK = 4 << 20
"""Bytes of one value: a ``TCPStore`` takes 8 MiB at most."""
_LOOK, _LONGEST_LOOK = 0.001, 0.05
"""Seconds between looks, at first and at last."""


class Mail:
    """What ranks leave for each other. Every method raises what the store does where it is gone, in general a RuntimeError.

    Args:
        store: where to leave it.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def has(self, key: str) -> bool:
        """Whether something lies under a key; does not wait."""
        return self._store.check([key])

    def arrives(self, key: str, deadline: float) -> bool:
        """Whether something lies under a key, by a moment of ``time.monotonic`` at the latest."""
        return self.has(key) or awaited(lambda: self.has(key), deadline)

    def give(self, key: str, payload: bytes) -> None:
        """Leaves bytes under a key, in chunks, the first one last and with their number before it."""
        chunks = [payload[at : at + _CHUNK] for at in range(0, len(payload), _CHUNK)] or [b""]
        for number, chunk in enumerate(chunks[1:], 1):
            self._store.set(f"{key}/chunk {number}", chunk)
        self._store.set(key, b"%d\n%b" % (len(chunks), chunks[0]))

    def read(self, key: str) -> bytes:
        """What lies under a key, which must be there."""
        return self._read(key)[0]

    def take(self, key: str) -> bytes:
        """The same, and it lies there no more."""
        payload, keys = self._read(key)
        for one in keys:
            self._store.delete_key(one)
        return payload

    def discard(self, key: str) -> None:
        """Nothing lies under a key any more."""
        if self.has(key):
            self.take(key)

    def _read(self, key: str) -> tuple[bytes, list[str]]:
        """What lies under a key, and the keys of its chunks."""
        chunks, _, first = self._store.get(key).partition(b"\n")
        others = [f"{key}/chunk {number}" for number in range(1, int(chunks))]
        return b"".join([first, *map(self._store.get, others)]), [key, *others]


def awaited(is_there: Callable[[], object], deadline: float) -> bool:
    """Looks again and again, more and more seldom, until it is there; False where it is not by the deadline."""
    pause = _LOOK
    while time.monotonic() < deadline:
        time.sleep(pause)
        if is_there():
            return True
        pause = min(2 * pause, _LONGEST_LOOK)
    return False
