"""An event file read back, record by record, as a stream: in memory are a few megabytes, or its largest record twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from torchboard.eventfile.framing import FOOTER_BYTES, HEADER_BYTES, TORN, Fault, Record, parse, sound
from torchboard.eventfile.stretches import stretches


def scan(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of one event file in order, checksums verified; a torn last record is left out.

    Raises:
        CorruptRecordError: a checksum fails, after the records before it were given.
        OSError: the file cannot be read.
    """
    for item in walk(path):
        if item[1] is not TORN:
            yield sound(item)


def walk(path: str | os.PathLike[str]) -> Iterator[Record | Fault]:
    """The records of one event file in order, checksums verified, then the ``Fault`` that ends it, if there is one.

    Raises:
        OSError: the file cannot be read.
    """
    for stretch in stretches(path):
        if isinstance(stretch, Fault):
            yield stretch
            return
        for record in range(len(stretch)):
            if not stretch.is_sound(record):
                yield stretch.fault(record)
                return
            yield Record(stretch.offset(record), stretch.data(record).tobytes())


def record_at(file: BinaryIO, offset: int) -> Record:
    """The record whose header starts at ``offset`` of an open file.

    Raises:
        CorruptRecordError: there is none, or a checksum fails.
    """
    file.seek(offset)
    header = file.read(HEADER_BYTES)
    length = int.from_bytes(header[:8], "little")
    rest = file.read(min(length, _left(file)) + FOOTER_BYTES)
    return sound(next(parse(header + rest, offset), Fault(offset, TORN)))


def _left(file: BinaryIO) -> int:
    return max(os.fstat(file.fileno()).st_size - file.tell(), 0)
