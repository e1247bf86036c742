"""Bytes under keys of the store that a job was set up with: any of torch's, however little it takes at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

_CHUNK = 4 << 20
"""Bytes of one value: a ``TCPStore`` takes 8 MiB at most."""
_LOOK, _LONGEST_LOOK = 0.001, 0.05
"""Seconds between looks, at first and at last."""


class Mail:
    """What ranks leave for each other. Every method raises what the store does where it is gone, in general a RuntimeError.

    Whoever left something may take it back at any moment, also while another reads it.

    Args:
        store: where to leave it.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def count(self, key: str, more: int = 0) -> int:
        """A number that all may raise; gives what it is then."""
        return self._store.add(key, more)

    def has(self, key: str) -> bool:
        """Whether something lies under a key; does not wait."""
        return self._store.check([key])

    def give(self, key: str, payload: bytes) -> list[str]:
        """Leaves bytes under a key, in chunks, the first one last and with their number before it; gives the chunks' keys."""
        chunks = [payload[at : at + _CHUNK] for at in range(0, len(payload), _CHUNK)] or [b""]
        keys = _keys(key, len(chunks))
        for one, chunk in zip(keys[1:], chunks[1:]):
            self._store.set(one, chunk)
        self._store.set(key, b"%d\n%b" % (len(chunks), chunks[0]))
        return keys

    def read(self, key: str) -> bytes | None:
        """What lies under a key, if it is there."""
        return self._read(key)[0] if self.has(key) else None

    def take(self, key: str, deadline: float) -> bytes | None:
        """What lies under a key by a moment of ``time.monotonic``, and no more then; None where it does not come."""
        if not self.has(key) and not awaited(lambda: self.has(key), deadline):
            return None
        payload, keys = self._read(key)
        self.discard(keys)
        return payload

    def discard(self, keys: Iterable[str]) -> None:
        """Nothing lies under these keys any more."""
        for key in keys:
            self._store.delete_key(key)

    def _read(self, key: str) -> tuple[bytes | None, list[str]]:
        """What lies under a key, and the keys of its chunks; None where it was taken back meanwhile."""
        try:
            number, _, first = self._store.get(key).partition(b"\n")
            keys = _keys(key, int(number))
            return b"".join([first, *map(self._store.get, keys[1:])]), keys
        except RuntimeError:
            self.has(key)  # raises where it is the store that is gone
            return None, []


def _keys(key: str, chunks: int) -> list[str]:
    return [key, *(f"{key}/chunk {number}" for number in range(1, chunks))]


def awaited(is_there: Callable[[], object], deadline: float) -> bool:
    """Looks again and again, more and more seldom, until it is there; False where it is not by the deadline."""
    pause = _LOOK
    while time.monotonic() < deadline:
        time.sleep(pause)
        if is_there():
            return True
        pause = min(2 * pause, _LONGEST_LOOK)
    return False
