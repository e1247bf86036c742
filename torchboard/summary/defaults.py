"""What a thread, or an asynchronous task, has by default: the writer, the step, whether to record, the name scope."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from torchboard.arrays import to_array
from torchboard.errors import ClosedError, InvalidValueError
from torchboard.run import Run, open_run

if TYPE_CHECKING:
    import numpy as np
    import torch

    Condition = bool | torch.Tensor | np.ndarray | Callable[[], Any]

_writer: ContextVar[FileWriter | None] = ContextVar("writer", default=None)
_step: ContextVar[Any] = ContextVar("step", default=None)
_condition: ContextVar[Any] = ContextVar("condition", default=True)
_scope: ContextVar[str] = ContextVar("scope", default="")


class FileWriter:
    """Where summaries go, once it is the default; made by ``create_file_writer`` and ``create_noop_writer``."""

    def __init__(self, run: Run | None) -> None:
        self._run = run
        self._closed = False

    def set_as_default(self, step: int | None = None) -> None:
        """Makes it the default writer of this thread, and ``step``, if given, the default step.

        Raises:
            ClosedError: it was closed.
        """
        self._check_open()
        _writer.set(self)
        if step is not None:
            set_step(step)

    @contextmanager
    def as_default(self, step: int | None = None) -> Iterator[FileWriter]:
        """Makes it the default writer inside a ``with`` block, at whose end it is flushed.

        Raises:
            ClosedError: it was closed.
        """
        self._check_open()
        writer = _writer.set(self)
        default_step = None if step is None else _step.set(whole(step))
        try:
            yield self
        finally:
            _writer.reset(writer)
            if default_step is not None:
                _step.reset(default_step)
            if not self._closed:
                self.flush()

    def init(self) -> None:
        """Does nothing: a writer is ready when it is made."""

    def flush(self) -> None:
        """Returns when everything written before is on disk."""
        self._check_open()
        if self._run is not None:
            self._run.flush()

    def close(self) -> None:
        """Flushes and lets go of the directory; a second call does nothing."""
        if not self._closed and self._run is not None:
            self._run.close()
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("a summary for a closed writer", "its file is gone", "use it before close()")


def create_file_writer(
    logdir: str | os.PathLike[str],
    max_queue: int | None = None,
    flush_millis: int | None = None,
    filename_suffix: str | None = None,
    name: str | None = None,
) -> FileWriter:
    """A writer to a directory, which is made.

    Args:
        logdir: the run's directory.
        max_queue, flush_millis, name: taken for compatibility; every summary is on its way to the file within 20 ms.
        filename_suffix: appended to the event file's name, ``.v2`` by default.

    Raises:
        RunError, RunInUseError: the directory cannot be used.
    """
    return FileWriter(open_run(logdir, suffix=".v2" if filename_suffix is None else filename_suffix))


def create_noop_writer() -> FileWriter:
    """A writer that writes nothing, and with which every summary is said not to be written."""
    return FileWriter(None)


def get_step() -> int | None:
    """The default step of this thread, or None."""
    return _step.get()


def set_step(step: int | None) -> None:
    """Sets the default step of this thread.

    Raises:
        InvalidValueError: it is not a whole number.
    """
    _step.set(None if step is None else whole(step))


@contextmanager
def record_if(condition: Condition) -> Iterator[None]:
    """Summaries inside are written only where the condition, or what it returns when called, is true."""
    token = _condition.set(condition)
    try:
        yield
    finally:
        _condition.reset(token)


def should_record_summaries() -> bool:
    """Whether a summary would be written now: there is a default writer to a file, and the condition holds."""
    writer, condition = _writer.get(), _condition.get()
    if writer is None or writer._run is None:
        return False
    return bool(to_array(condition() if callable(condition) else condition).all())


@contextmanager
def name_scope(name: str) -> Iterator[str]:
    """Tags inside begin with ``<name>/``; scopes nest."""
    scope = f"{_scope.get()}{name}/"
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)


def flush(writer: FileWriter | None = None) -> None:
    """Returns when everything written before, by a writer or the default one, is on disk."""
    writer = _writer.get() if writer is None else writer
    if writer is not None:
        writer.flush()


def default_run() -> Run:
    """The run of the default writer, which there is."""
    writer = _writer.get()
    assert writer is not None and writer._run is not None
    writer._check_open()
    return writer._run


def scoped(name: str) -> str:
    """The tag of a name in the current scope."""
    return _scope.get() + name if isinstance(name, str) else name


def whole(step: Any) -> int:
    """A step as an int."""
    try:
        return operator.index(step)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidValueError(f"step {step!r}", "a step is a whole number", "give an int") from None
