"""A sink that keeps events in memory: for tests, and for looking at a run without files."""

from __future__ import annotations

from torchboard.values import Event, Value


class MemorySink:
    """Keeps every event, settled, in the order written, and the last of every file.

    Attributes:
        events: what was written.
        files: ``(run, path)`` -> what was put there.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.files: dict[tuple[str, str], bytes] = {}

    def write(self, event: Event) -> None:
        self.events.append(event.settled())

    def put(self, run: str, path: str, data: bytes) -> None:
        self.files[run, path] = data

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def series(self, tag: str, run: str = "train") -> list[tuple[int, Value]]:
        """``(step, value)`` of one tag of one run, in the order written."""
        return [
            (event.step, value)
            for event in self.events
            if event.run == run
            for name, value in event.pairs
            if name == tag
        ]

    def tags(self, run: str = "train") -> dict[str, str]:
        """Tag -> plugin of everything in one run, in the order first written."""
        return {tag: value.plugin for event in self.events if event.run == run for tag, value in event.pairs}
