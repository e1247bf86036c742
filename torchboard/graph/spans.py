"""How long operators ran on a device, known some time after they were queued.

An operator on a GPU returns before it has run, so the device itself is asked to note when it begins and when it has ended:
two events around it on its stream. A ``Span`` holds them until both have passed and is a number from then on. Nothing here
waits for a device; who wants the numbers of a graph asks ``known`` now and then, on a thread whose own calls the device is
used to, because such a call from any other breaks a CUDA graph that is being captured.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

PATIENCE = 10.0
"""Seconds that one waits who wants a graph now, or never."""
_LOOK = 0.001
"""Seconds between looks."""


class Span:
    """The time between two events on one stream of a device.

    Args:
        device: as torch writes it, such as ``cuda:0``.
        module: what torch has for that kind of device, such as ``torch.cuda``.
        begin: an event of its, with timing, that was recorded.
        end: one that was recorded later on the same stream.

    Attributes:
        seconds: how long it took; None until ``read`` has found out, and where the device gave no answer.
    """

    __slots__ = ("_waiting", "device", "seconds")

    def __init__(self, device: str, module: Any, begin: Any, end: Any) -> None:
        self.device = device
        self.seconds: float | None = None
        self._waiting: tuple[Any, Any, Any] | None = (module, begin, end)

    def read(self) -> bool:
        """Whether there is nothing more to wait for. Asks the device unless it is capturing; the events are let go of then."""
        if self._waiting is None:
            return True
        module, begin, end = self._waiting
        try:
            if is_capturing(module) or not end.query():
                return False
            self.seconds = begin.elapsed_time(end) / 1e3
        except Exception:  # a device that has failed fails in every call, and this is only a number beside a node
            self.seconds = None
        self._waiting = None
        return True


def is_capturing(module: Any) -> bool:
    """Whether what this thread queues on such a device goes into a graph of the device's own, to run later."""
    asked = getattr(module, "is_current_stream_capturing", None)
    return asked is not None and asked()


def known(spans: Iterable[Span], patience: float = 0.0) -> bool:
    """Whether all spans have been read, now or before; looks until then for at most ``patience`` seconds."""
    deadline = time.monotonic() + patience
    for span in spans:
        while not span.read():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK)
    return True


def seconds_of(spans: Iterable[Span]) -> float:
    """The sum of those that are known."""
    return sum(span.seconds or 0.0 for span in spans)
