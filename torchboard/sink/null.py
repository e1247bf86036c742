"""A sink that keeps nothing: for ranks that do not write."""

from __future__ import annotations

from torchboard.values import Event


class NullSink:
    """Takes everything and keeps nothing. Pending values are never waited for."""

    def write(self, event: Event) -> None:
        pass

    def put(self, run: str, path: str, data: bytes) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
