"""Event files on disk: one live file a run directory, whoever writes.

Every event goes to the kernel in one write at a known offset, so a killed process loses nothing that ``write`` returned
for; a write that fails half way is cut off again, so a file never ends in a torn record that later data could follow.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from torchboard import proto
from torchboard.errors import ClosedError, InvalidValueError, RunInUseError
from torchboard.eventfile.framing import frame
from torchboard.eventfile.names import MARK, event_file_name
from torchboard.values import Event, encode

try:
    import fcntl
except ImportError:  # Windows: a second live writer in another process goes unnoticed
    fcntl = None  # type: ignore[assignment]

_FILE_VERSION = "brain.Event:2"
_MAX_AWAKE = 64
"""How many files a sink keeps open, with two descriptors each; some systems give a process 256 in all."""
_NEVER = (errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR)
"""Faults of a path that no time heals, so that nobody tries again."""


class EventFile:
    """One event file, growing. Use ``acquire`` and ``release``: writers of one process share the file of a directory.

    Raises:
        RunInUseError: another process is writing in the directory.
        OSError: the directory or the file cannot be made.
    """

    def __init__(self, directory: str, purge_step: int | None, suffix: str) -> None:
        os.makedirs(directory, exist_ok=True)
        self._lock = threading.Lock()
        self._directory = directory
        self._file: int | None = None
        self._offset = 0
        self.users = 0
        self._owner = _own(directory)
        try:
            existing = [name for name in os.listdir(directory) if MARK in name]
            name = event_file_name(existing, time.time(), socket.gethostname(), os.getpid(), suffix)
            self.path = os.path.join(directory, name)
            self._file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            start = purge_step if purge_step is not None else None if existing else 0
            self.append(_header(start))
        except OSError:
            self.close()
            raise

    def append(self, messages: list[Any]) -> None:
        """Writes messages as records, all or none of them.

        Raises:
            OSError: the disk is full, or the like; the file is as it was before.
            RunInUseError: while it was suspended, another process began to write in the directory.
        """
        data = memoryview(b"".join(frame(message.SerializeToString()) for message in messages))
        with self._lock:
            file = self._resume()
            written = 0
            try:
                while written < len(data):
                    written += os.pwrite(file, data[written:], self._offset + written)
            except OSError:
                os.ftruncate(file, self._offset)
                raise
            self._offset += written

    def sync(self) -> None:
        """Returns when the disk has what was appended."""
        with self._lock:
            if self._file is not None:
                os.fsync(self._file)

    def suspend(self) -> None:
        """Gives the descriptors and the directory back until the next append; the disk has what was appended."""
        self.sync()
        self.close()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            if self._owner is not None:
                _disown(self._owner)
            self._file = self._owner = None

    def _resume(self) -> int:
        if self._file is None:
            self._owner = _own(self._directory) if self._owner is None else self._owner
            self._file = os.open(self.path, os.O_WRONLY)
        return self._file


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
        self._awake: dict[str, None] = {}  # runs whose files are not suspended, the one written last at the end
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
        self._awake.pop(run, None)
        self._awake[run] = None
        if len(self._awake) > _MAX_AWAKE:
            sleepy = next(iter(self._awake))
            del self._awake[sleepy]
            self._files[sleepy].suspend()
        return file

    def write(self, event: Event) -> None:
        self.open(event.run).append(encode(event.settled()))

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


def _disown(owner: int) -> None:
    """Gives the directory back at once, though forked children may hold the descriptor still."""
    fcntl.flock(owner, fcntl.LOCK_UN)
    os.close(owner)
