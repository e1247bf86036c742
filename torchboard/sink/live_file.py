"""One live event file a run directory, whoever writes: the descriptor, the offset, the lock.

What is appended goes to the kernel at a known offset, so a write that fails half way can be cut off again, at the end of a whole
record: a file never ends in a torn record that later data could follow.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from torchboard import proto
from torchboard.eventfile.framing import frame
from torchboard.eventfile.names import MARK, event_file_name
from torchboard.sink.forks import Lock, in_child
from torchboard.sink.ownership import disown, own

_FILE_VERSION = "brain.Event:2"


class EventFile:
    """One event file, growing. Use ``acquire`` and ``release``: writers of one process share the file of a directory.

    Raises:
        RunInUseError: another process is writing in the directory.
        OSError: the directory or the file cannot be made.
    """

    def __init__(self, directory: str, purge_step: int | None, suffix: str) -> None:
        self._lock = Lock()
        self._directory = directory
        self._purge_step = purge_step
        self._suffix = suffix
        self._path: str | None = None
        self._file: int | None = None
        self._owner: int | None = None
        self._offset = 0
        self._torn = False
        self.users = 0
        try:
            self._open()
        except OSError:
            self.close()
            raise

    def append(self, data: bytes | np.ndarray, ends: np.ndarray | None = None) -> int:
        """Writes whole records.

        Args:
            ends: where the records end, if some of them may be written alone; without it, all or none are.

        Returns:
            How many bytes of them the file has now: all, or, where there was no room for more, those of the first records.

        Raises:
            OSError: the disk is full, or the like; the file is as it was before. Where somebody deleted the file, the next
                call goes on in a new one.
            RunInUseError: while it was suspended, another process began to write in the directory.
        """
        data = memoryview(data)
        with self._lock:
            self._open()
            written = 0
            try:
                while written < len(data):
                    written += os.pwrite(self._file, data[written:], self._offset + written)
            except OSError:
                whole = 0 if ends is None else int(ends[: np.searchsorted(ends, written, "right")].max(initial=0))
                self._offset += whole
                self._torn = True
                with suppress(OSError):  # else before the next write
                    self._mend()
                if not whole:
                    raise
                return whole
            self._offset += written
            return written

    def _mend(self) -> None:
        """Cuts off what a failed write left behind the last whole record."""
        os.ftruncate(self._file, self._offset)
        self._torn = False

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
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        owner, self._owner = self._owner, None
        if file is not None:
            os.close(file)
        if owner is not None:
            disown(owner)

    def leave_to_parent(self) -> None:
        """In a forked child: gives the copies of the descriptors back. The lock is one with the parent's and stays."""
        for descriptor in (self._file, self._owner):
            if descriptor is not None:
                with suppress(OSError):
                    os.close(descriptor)
        self._file = self._owner = None

    def _open(self) -> None:
        """Sees to it that there is a file to write to: the one that was suspended, or a new one."""
        if self._file is not None:
            if os.fstat(self._file).st_nlink:
                if self._torn:
                    self._mend()
                return
            self._close()
            path, self._path = self._path, None
            raise FileNotFoundError(errno.ENOENT, "the event file was deleted; what follows goes into a new one", path)
        os.makedirs(self._directory, exist_ok=True)
        self._owner = own(self._directory) if self._owner is None else self._owner
        try:
            if self._path is None:
                self._create()
            else:
                self._file = os.open(self._path, os.O_WRONLY)
        except FileNotFoundError:
            self._path = None
            raise

    def _create(self) -> None:
        existing = [name for name in os.listdir(self._directory) if MARK in name]
        name = event_file_name(existing, time.time(), socket.gethostname(), os.getpid(), self._suffix)
        self._path = os.path.join(self._directory, name)
        self._file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        self._torn = False
        header = framed(_header(self._purge_step, not existing))
        try:
            self._offset = os.pwrite(self._file, header, 0)
            if self._offset < len(header):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        except OSError:
            os.unlink(self._path)
            os.close(self._file)
            self._file = self._path = None
            raise


_files: dict[str, EventFile] = {}
_files_lock = Lock()


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


@in_child
def _leave_to_parent() -> None:
    for file in _files.values():
        file.leave_to_parent()
    _files.clear()


def framed(messages: Iterable[Any]) -> bytes:
    """Messages as records."""
    return b"".join(frame(message.SerializeToString()) for message in messages)


def _header(purge_step: int | None, first: bool) -> list[Any]:
    """The first records of a file: the format's version, and where the run starts or starts again.

    A loader acts on the second start of a run only. So the first file of every run has one, and where a run starts again
    there are two, since older files may be of somebody who wrote none.
    """
    now = time.time()
    version = proto.Event(wall_time=now, file_version=_FILE_VERSION)
    version.source_metadata.writer = "torchboard"
    step = purge_step if purge_step is not None else 0
    start = proto.Event(wall_time=now, step=step, session_log=proto.SessionLog(status=proto.SessionLog.START))
    return [version, *[start] * (1 if first else 2 * (purge_step is not None))]
