"""How fast a training goes."""

from __future__ import annotations

import time


class Clock:
    """Steps per second, of the last batch and of the epoch; time away from training does not count."""

    def __init__(self) -> None:
        self.epoch()

    def epoch(self) -> None:
        """An epoch begins."""
        self._start = self._last = time.perf_counter()
        self._away = 0.0
        self._batches = 0

    def batch(self) -> None:
        """A batch has ended."""
        self._batches += 1
        self._last = time.perf_counter()

    def pause(self) -> None:
        """Something other than training begins."""
        self._pause = time.perf_counter()

    def resume(self) -> None:
        """Training goes on."""
        away = time.perf_counter() - self._pause
        self._away += away
        self._last += away

    def batch_rate(self) -> float:
        """Batches per second, if the current one ends now."""
        return 1.0 / max(time.perf_counter() - self._last, 1e-9)

    def epoch_rate(self) -> float:
        """Batches per second of the epoch, up to the end of its last batch."""
        return self._batches / max(self._last - self._start - self._away, 1e-9)
