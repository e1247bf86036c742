"""A local directory of growing event files, mirrored to a store without append as parts.

A **part** is an object that is an event file itself, whole records behind the header record; parts sort by name in the
order of writing, so every reader takes them for one run. The last part is put again, longer, until it has reached
``part_bytes``; then the next begins, and a part that has a successor is never touched again: TensorBoard's Python loader
moves on to the newest file of a run and does not look back. So a point is uploaded a few times at most, however long
the run grows.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from torchboard.eventfile.framing import FOOTER_BYTES, HEADER_BYTES
from torchboard.eventfile.names import MARK
from torchboard.sink.object_store import ObjectStore

_MOST_BYTES = 8 << 20
"""How much is read and put at a time, of what gathered while the store failed."""
_LENGTH = struct.Struct("<Q")


@dataclass
class _Series:
    """How far the parts of one event file have come, in bytes of that file."""

    number: int = 0
    """The part that grows."""
    start: int = 0
    """Where that part begins."""
    stored: int = 0
    """Up to where the store has the file."""


class Mirror:
    """Brings a store up to a local directory: event files as parts, other files as they are.

    Args:
        directory: what is mirrored. Nobody writes there while ``update`` runs.
        store: where to.
        suffix: appended to the names of parts.
        part_bytes: the size from which a part is left behind.

    Attributes:
        puts: how many objects were put.
    """

    def __init__(self, directory: str, store: ObjectStore, suffix: str, part_bytes: int) -> None:
        self.puts = 0
        self._directory = directory
        self._store = store
        self._suffix = suffix
        self._part_bytes = part_bytes
        self._series: dict[str, _Series] = {}
        self._files: dict[str, tuple[int, int]] = {}  # path -> inode and time of what the store has

    def update(self) -> None:
        """Puts what is new, run by run, in the order of writing; stops at the first failure, and goes on there next time."""
        for path in self._paths():
            if MARK in os.path.basename(path):
                self._put_parts(path)
            else:
                self._put_file(path)

    def missing(self) -> tuple[int, int]:
        """How many files, and about how many bytes of them, the store does not have."""
        sizes = [size for path in self._paths() if (size := self._behind(path))]
        return len(sizes), sum(sizes)

    def _behind(self, path: str) -> int:
        stat = os.stat(os.path.join(self._directory, path))
        if MARK in os.path.basename(path):
            return stat.st_size - self._series.get(path, _Series()).stored
        return 0 if self._files.get(path) == (stat.st_ino, stat.st_mtime_ns) else stat.st_size

    def _paths(self) -> Iterator[str]:
        """All files, relative to the directory, with ``/`` between levels, those of a run in the order of their names."""
        for directory, below, names in os.walk(self._directory):
            below.sort()
            for name in sorted(names):
                yield os.path.relpath(os.path.join(directory, name), self._directory).replace(os.sep, "/")

    def _put(self, path: str, data: bytes) -> None:
        self._store.put(path, data)
        self.puts += 1

    def _put_file(self, path: str) -> None:
        with open(os.path.join(self._directory, path), "rb") as file:
            stat = os.fstat(file.fileno())
            if self._files.get(path) != (stat.st_ino, stat.st_mtime_ns):
                self._put(path, file.read())
                self._files[path] = (stat.st_ino, stat.st_mtime_ns)

    def _put_parts(self, path: str) -> None:
        series = self._series.setdefault(path, _Series())
        with open(os.path.join(self._directory, path), "rb") as file:
            while (end := _end_of_records(file, series.stored)) > series.stored:
                header = _read(file, 0, _end_of_record(file, 0)) if series.start else b""
                self._put(f"{path}.{series.number:06d}{self._suffix}", header + _read(file, series.start, end))
                series.stored = end
                if end - series.start >= self._part_bytes:
                    series.number += 1
                    series.start = end


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _end_of_record(file: BinaryIO, start: int) -> int:
    length = _LENGTH.unpack(_read(file, start, start + _LENGTH.size))[0]
    return start + HEADER_BYTES + length + FOOTER_BYTES


def _end_of_records(file: BinaryIO, start: int) -> int:
    """Where the whole records behind ``start`` end, or enough of them, one at least; ``start`` where there is none."""
    data = _read(file, start, start + _MOST_BYTES)
    end = 0
    while end + HEADER_BYTES <= len(data):
        stop = end + HEADER_BYTES + _LENGTH.unpack_from(data, end)[0] + FOOTER_BYTES
        if stop > len(data):
            break
        end = stop
    if (
        not end
        and len(data) == _MOST_BYTES
        and (stop := _end_of_record(file, start)) <= os.fstat(file.fileno()).st_size
    ):
        return stop
    return start + end
