"""A record on disk, in both directions.

    uint64le length | uint32le masked_crc32c(length) | data | uint32le masked_crc32c(data)

Format: TensorFlow's TFRecord. A record has no marker to find it by, so whatever stands behind a broken record is lost to
every reader: never append to a file that may end in one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from torchboard.errors import CorruptRecordError
from torchboard.eventfile.checksum import masked_crc32c

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CRC.size
FOOTER_BYTES = _CRC.size

BAD_LENGTH = "the checksum of its length does not fit"
BAD_DATA = "the checksum of its data does not fit"
TORN = "the file ends within it: it was cut there, or is still being written"


class Record(NamedTuple):
    """One record of an event file."""

    offset: int
    """Where its header starts, in bytes from the start of the file."""
    data: bytes


class Fault(NamedTuple):
    """Where an event file can be read no further."""

    offset: int
    """Where the header of the broken record starts, in bytes from the start of the file."""
    what: str


def frame(data: bytes) -> bytes:
    """``data`` as one record, 16 bytes longer. One checksum pass."""
    length = _LENGTH.pack(len(data))
    return b"".join((length, _CRC.pack(masked_crc32c(length)), data, _CRC.pack(masked_crc32c(data))))


def parse(buffer: bytes, base: int = 0) -> Iterator[Record | Fault]:
    """The records of ``buffer`` in order, checksums verified, up to its end or to a record that it holds a part of.

    Where a checksum fails, a ``Fault`` comes last. ``base`` is the offset of the buffer in its file.
    """
    offset, end = 0, len(buffer)
    while end - offset >= HEADER_BYTES:
        start = offset + HEADER_BYTES
        length = _length(buffer[offset:start])
        if length is None:
            yield Fault(base + offset, BAD_LENGTH)
            return
        stop = start + length
        if stop + FOOTER_BYTES > end:
            return
        data = buffer[start:stop]
        if _CRC.unpack_from(buffer, stop)[0] != masked_crc32c(data):
            yield Fault(base + offset, BAD_DATA)
            return
        yield Record(base + offset, data)
        offset = stop + FOOTER_BYTES


def unframe(buffer: bytes | memoryview) -> Iterator[Record]:
    """The records of ``buffer`` in order, checksums verified, up to the end or to a torn last record.

    Raises:
        CorruptRecordError: a checksum fails; the message names the offset. The records before it were given.
    """
    for item in parse(bytes(buffer)):
        yield sound(item)


def sound(item: Record | Fault) -> Record:
    """A record as it is.

    Raises:
        CorruptRecordError: it is a fault; the message names the offset.
    """
    if isinstance(item, Fault):
        raise CorruptRecordError(
            f"record at byte {item.offset}",
            item.what,
            "keep the records before it; what follows in this file cannot be trusted",
        )
    return item


@lru_cache(maxsize=4096)
def _length(header: bytes) -> int | None:
    """How many bytes a header announces; None where its checksum fails. Few lengths make up most of a file."""
    length, crc = header[: _LENGTH.size], header[_LENGTH.size :]
    return _LENGTH.unpack(length)[0] if _CRC.unpack(crc)[0] == masked_crc32c(length) else None
