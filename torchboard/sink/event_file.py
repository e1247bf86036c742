"""Event files on disk: one live file a run directory, whoever writes.

Every event, and every batch of points, goes to the kernel in one write, so a killed process loses nothing that ``write``
returned for.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress

import numpy as np

from torchboard.errors import ClosedError, InvalidValueError
from torchboard.sink.live_file import EventFile, acquire, framed, release
from torchboard.values import Event, encode
from torchboard.values.points import PointEncoder, events_of
from torchboard.values.rows import Row, RowEncoder

_MAX_AWAKE = 64
"""How many files a sink keeps open, with two descriptors each; some systems give a process 256 in all."""
_FEW = 32
"""Points from which encoding them together costs less than one by one."""
_NEVER = (errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR)
"""Faults of a path that no time heals, so that nobody tries again."""


class EventFileSink:
    """Writes events to event files below a directory, one for each run, opened when the run first has something to say.

    Args:
        log_dir: the root; an event goes to ``<log_dir>/<event.run>``.
        purge_step: says in a new file that the run starts again here: TensorBoard's Python loader then drops what older
            files of the run hold from that step on (its default loader drops it tag by tag, by itself).
        suffix: appended to the names of event files.
    """

    def __init__(self, log_dir: str, purge_step: int | None = None, suffix: str = "") -> None:
        self.log_dir = log_dir
        self._purge_step = purge_step
        self._suffix = suffix
        self._files: dict[str, EventFile] = {}
        self._awake: dict[str, None] = {}  # runs whose files are not suspended, the one written last at the end
        self._points = PointEncoder()
        self._rows = RowEncoder()
        self._closed = False

    def afresh(self) -> EventFileSink:
        """A sink on the same directory, with no file open, for a process that shares it with this one's."""
        return EventFileSink(self.log_dir, None, self._suffix)

    def open(self, run: str) -> EventFile:
        """The event file of a run.

        Raises:
            RunInUseError: another process is writing in the run's directory.
            OSError: the directory or the file cannot be made.
        """
        file = self._files.get(run)
        if file is None:
            if self._closed:
                raise ClosedError(f"a write to {self.log_dir!r}", "the sink was closed", "write before close")
            directory = os.path.join(self.log_dir, run) if run else self.log_dir
            file = self._files[run] = acquire(directory, self._purge_step, self._suffix)
        self._awake.pop(run, None)
        self._awake[run] = None
        if len(self._awake) > _MAX_AWAKE:
            sleepy = next(iter(self._awake))
            del self._awake[sleepy]
            self._files[sleepy].suspend()
        return file

    def write(self, event: Event | Row) -> None:
        rowwise = isinstance(event, Row)
        self.open(event.run).append(self._rows.encode(event) if rowwise else framed(encode(event.settled())))

    def write_points(self, run: str, points: np.ndarray) -> int:
        """Writes points (``POINT``) of one run with one call to the kernel.

        Returns:
            How many there was room for, from the first on.

        Raises:
            OSError: there was room for none.
        """
        if len(points) < _FEW:
            records = [framed(encode(event)) for event in events_of(points)]
            data, ends = b"".join(records), np.cumsum([len(record) for record in records])
        else:
            data, ends = self._points.encode(points)
        return int(np.searchsorted(ends, self.open(run).append(data, ends), "right"))

    def put(self, run: str, path: str, data: bytes) -> None:
        """Writes a file below the run's directory under another name and renames it, so nobody reads half of it.

        Raises:
            InvalidValueError: the path leads out of the directory, or cannot be a file there whatever happens.
            OSError: the file cannot be made now.
        """
        self.open(run)
        directory = os.path.realpath(os.path.join(self.log_dir, run))
        target = os.path.realpath(os.path.join(directory, path))
        if not target.startswith(directory + os.sep):
            raise InvalidValueError(f"file {path!r}", f"it is not below {directory!r}", "give a path inside the run")
        temporary = os.path.join(os.path.dirname(target), f".torchboard-{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            if error.errno in _NEVER:
                raise InvalidValueError(
                    f"file {path!r}", f"it cannot be made ({error})", "give another path"
                ) from error
            raise

    def flush(self) -> None:
        for file in list(self._files.values()):
            file.sync()

    def close(self) -> None:
        self._closed = True
        while self._files:
            release(self._files.popitem()[1])
