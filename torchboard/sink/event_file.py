"""Event files on disk: one live file a run directory, whoever writes.

Every event goes to the kernel in one write at a known offset, so a killed process loses nothing that ``write`` returned
for; a write that fails half way is cut off again, so a file never ends in a torn record that later data could follow.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

from torchboard import proto
from torchboard.errors import ClosedError, RunInUseError
from torchboard.eventfile.framing import frame
from torchboard.eventfile.names import MARK, event_file_name
from torchboard.values import Event, encode

try:
    import fcntl
except ImportError:  # Windows: a second live writer in another process goes unnoticed
    fcntl = None  # type: ignore[assignment]

_FILE_VERSION = "brain.Event:2"


class EventFile:
    """One event file, growing. Use ``acquire`` and ``release``: writers of one process share the file of a directory.

    Raises:
        RunInUseError: another process is writing in the directory.
        OSError: the directory or the file cannot be made.
    """

    def __init__(self, directory: str, purge_step: int | None, suffix: str) -> None:
        os.makedirs(directory, exist_ok=True)
        self._lock = threading.Lock()
        self._owner = _own(directory)
        existing = [name for name in os.listdir(directory) if MARK in name]
        name = event_file_name(existing, time.time(), socket.gethostname(), os.getpid(), suffix)
        self.path = os.path.join(directory, name)
        self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        self._offset = 0
        self.users = 0
        start = purge_step if purge_step is not None else None if existing else 0
        self.append(_header(start))

    def append(self, messages: list[Any]) -> None:
        """Writes messages as records, all or none of them.

        Raises:
            OSError: the disk is full, or the like; the file is as it was before.
        """
        data = memoryview(b"".join(frame(message.SerializeToString()) for message in messages))
        with self._lock:
            written = 0
            try:
                while written < len(data):
                    written += os.pwrite(self._file, data[written:], self._offset + written)
            except OSError:
                os.ftruncate(self._file, self._offset)
                raise
            self._offset += written

    def sync(self) -> None:
        """Returns when the disk has what was appended."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)
        if self._owner is not None:
            os.close(self._owner)


_files: dict[str, EventFile] = {}
_files_lock = threading.Lock()


def acquire(directory: str, purge_step: int | None = None, suffix: str = "") -> EventFile:
    """The live event file of a directory, made if there is none; ``release`` it when done."""
    key = os.path.realpath(directory)
    with _files_lock:
        file = _files.get(key)
        if file is None:
            file = _files[key] = EventFile(directory, purge_step, suffix)
        file.users += 1
        return file


def release(file: EventFile) -> None:
    """Gives an acquired file back; the last one to do so closes it."""
    with _files_lock:
        file.users -= 1
        if not file.users:
            for key in [key for key, other in _files.items() if other is file]:
                del _files[key]
            file.close()


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
        self._closed = False

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
        return file

    def write(self, event: Event) -> None:
        self.open(event.run).append(encode(event.settled()))

    def flush(self) -> None:
        for file in list(self._files.values()):
            file.sync()

    def close(self) -> None:
        self._closed = True
        while self._files:
            release(self._files.popitem()[1])


def _header(start: int | None) -> list[Any]:
    """The first records of a file: the format's version, and where the run starts or starts again.

    A loader acts on the second start of a run only, so the first file of every run has one too.
    """
    now = time.time()
    version = proto.Event(wall_time=now, file_version=_FILE_VERSION)
    version.source_metadata.writer = "torchboard"
    if start is None:
        return [version]
    session = proto.SessionLog(status=proto.SessionLog.START)
    return [version, proto.Event(wall_time=now, step=start, session_log=session)]


def _own(directory: str) -> int | None:
    """Takes the directory for this process; the kernel gives it back when the process ends, however it ends."""
    if fcntl is None:
        return None
    owner = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(owner)
        raise RunInUseError(
            f"log directory {directory!r}",
            "another process is writing in it, and TensorBoard would lose data of one of the two",
            "give this run a directory of its own, or end the other process",
        ) from None
    except OSError:  # a file system without locks
        os.close(owner)
        return None
    return owner
