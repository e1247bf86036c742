"""The session of a trial in the log: it runs from ``start_session`` until it ends, one way or another.

A session that ends says how: well, or with the reason of its failure as a text. The process that a signal ends has time to
say so, too. Until then there is no end in the log, and TensorBoard shows the trial's status as unknown: it keeps to the
first end that it reads, so "running" could never be taken back.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Mapping

from torchboard.run import Run
from torchboard.sink.signals import call_before_end, forget
from torchboard.values import Text, Value
from torchboard.values.hparams import SESSION_END_TAG, SESSION_START_TAG, Plain, SessionEnd, SessionStart
from torchboard.values.text import code, table

FAILURE_TAG = "trial/failure"
_LONGEST = 10_000
"""Letters of a traceback that are kept, its last ones."""


class Session:
    """A trial that runs; its first end is the one that counts."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ended = False
        call_before_end(self)

    def end(self, error: BaseException | None = None) -> None:
        """Writes the end: a success, or a failure with the exception as the text ``trial/failure``."""
        self._write(None if error is None else _described(error))

    def before_end(self, number: int) -> None:
        """The process is ended by a signal; called from a thread of its own."""
        self._write(table(("reason", "what"), {"signal": signal.Signals(number).name}))

    def _write(self, reason: str | None) -> None:
        if self._ended:
            return
        self._ended = True
        forget(self)
        now = time.time()
        pairs: list[tuple[str, Value]] = [(SESSION_END_TAG, SessionEnd(reason is None, now))]
        if reason is not None:
            pairs.append((FAILURE_TAG, Text(reason)))
        self._run.write(0, tuple(pairs), wall_time=now)


def start_session(run: Run, hparams: Mapping[str, Plain], trial_id: str) -> Session:
    """Writes the beginning of a trial to a run, with what ``plain_hparams`` and ``trial_id_of`` give; it is on disk then."""
    now = time.time()
    run.write(0, ((SESSION_START_TAG, SessionStart(hparams, trial_id, now)),), wall_time=now)
    run.flush()
    return Session(run)


def _described(error: BaseException) -> str:
    """An exception as Markdown: what it is, and where it came from."""
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    summary = table(("reason", "what"), {type(error).__name__: lines[-1].strip()})
    return f"{summary}\n\n{code(''.join(lines)[-_LONGEST:].replace('```', ' ` ` `'))}"
