"""An event file read back, record by record, as a stream: in memory are a few megabytes, or a few of its largest records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from torchboard.eventfile.framing import FOOTER_BYTES, HEADER_BYTES, Fault, Record, parse, sound

_CHUNK_BYTES = 1 << 20
_TORN = "the file ends within it: it was cut there, or is still being written"


def scan(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of one event file in order, checksums verified; a torn last record is left out.

    Raises:
        CorruptRecordError: a checksum fails, after the records before it were given.
        OSError: the file cannot be read.
    """
    for item in walk(path):
        if item[1] is not _TORN:
            yield sound(item)


def walk(path: str | os.PathLike[str]) -> Iterator[Record | Fault]:
    """The records of one event file in order, checksums verified, then the ``Fault`` that ends it, if there is one.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        base, rest = 0, b""
        while chunk := file.read(max(_CHUNK_BYTES, len(rest))):
            buffer, last = rest + chunk, None
            for last in parse(buffer, base):
                yield last
            if isinstance(last, Fault):
                return
            used = 0 if last is None else last.offset - base + HEADER_BYTES + len(last.data) + FOOTER_BYTES
            base, rest = base + used, buffer[used:]
    if rest:
        yield Fault(base, _TORN)


def record_at(file: BinaryIO, offset: int) -> Record:
    """The record whose header starts at ``offset`` of an open file.

    Raises:
        CorruptRecordError: there is none, or a checksum fails.
    """
    file.seek(offset)
    header = file.read(HEADER_BYTES)
    length = int.from_bytes(header[:8], "little")
    rest = file.read(min(length, _left(file)) + FOOTER_BYTES)
    return sound(next(parse(header + rest, offset), Fault(offset, _TORN)))


def _left(file: BinaryIO) -> int:
    return max(os.fstat(file.fileno()).st_size - file.tell(), 0)
