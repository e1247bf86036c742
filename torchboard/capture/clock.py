"""How fast a training goes."""

from __future__ import annotations

import numbers
import time

from torchboard.errors import InvalidValueError

_SHORTEST = 1e-9


class Clock:
    """Steps and samples per second, of the last batch and of the epoch; time away from training does not count."""

    def __init__(self) -> None:
        self.epoch()

    def epoch(self) -> None:
        """An epoch begins."""
        self._start = self._last = time.perf_counter()
        self._away = 0.0
        self._batches = 0
        self._samples: int | None = 0

    def batch(self, samples: int | None = None) -> None:
        """A batch has ended, of so many samples if that is known."""
        self._batches += 1
        self._samples = None if samples is None or self._samples is None else self._samples + samples
        self._last = time.perf_counter()

    def pause(self) -> None:
        """Something other than training begins."""
        self._pause = time.perf_counter()

    def resume(self) -> None:
        """Training goes on."""
        away = time.perf_counter() - self._pause
        self._away += away
        self._last += away

    def batch_rates(self, samples: int | None = None) -> dict[str, float]:
        """``steps_per_second`` and, where samples are known, ``samples_per_second``, if the current batch ends now."""
        return _rates(1, samples, time.perf_counter() - self._last)

    def epoch_rates(self) -> dict[str, float]:
        """The same of the epoch, up to the end of its last batch; samples only where every batch told its own."""
        samples = self._samples if self._batches else None
        return _rates(self._batches, samples, self._last - self._start - self._away)


def check_samples(samples: object) -> int | None:
    """How many samples a batch has; None where that is not told.

    Raises:
        InvalidValueError: it is no number of things.
    """
    if samples is None:
        return None
    if isinstance(samples, numbers.Integral) and not isinstance(samples, bool) and samples >= 0:
        return int(samples)
    raise InvalidValueError(
        f"log_batch({samples!r:.80})",
        "what comes first is how many samples the batch has",
        "give len(images), say, and metrics by name",
    )


def _rates(steps: int, samples: int | None, seconds: float) -> dict[str, float]:
    counted = {"steps_per_second": steps, "samples_per_second": samples}
    return {name: count / max(seconds, _SHORTEST) for name, count in counted.items() if count is not None}
