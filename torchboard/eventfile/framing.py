"""A record on disk, in both directions.

    uint64le length | uint32le masked_crc32c(length) | data | uint32le masked_crc32c(data)

Format: TensorFlow's TFRecord. A record has no marker to find it by, so whatever stands behind a broken record is lost to
every reader: never append to a file that may end in one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from torchboard.errors import CorruptRecordError
from torchboard.eventfile.checksum import masked_crc32c

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size + _CRC.size
FOOTER_BYTES = _CRC.size


class Record(NamedTuple):
    """One record of an event file."""

    offset: int
    """Where its header starts, in bytes from the start of the file."""
    data: bytes


def frame(data: bytes) -> bytes:
    """``data`` as one record, 16 bytes longer. One checksum pass."""
    length = _LENGTH.pack(len(data))
    return b"".join((length, _CRC.pack(masked_crc32c(length)), data, _CRC.pack(masked_crc32c(data))))


def unframe(buffer: bytes | memoryview) -> Iterator[Record]:
    """The records of ``buffer`` in order, checksums verified, up to the end or to a torn last record.

    Raises:
        CorruptRecordError: a checksum fails; the message names the offset. The records before it were given.
    """
    view, offset = memoryview(buffer), 0
    while len(view) - offset >= HEADER_BYTES:
        header = bytes(view[offset : offset + HEADER_BYTES])
        if _CRC.unpack_from(header, _LENGTH.size)[0] != masked_crc32c(header[: _LENGTH.size]):
            raise _corrupt("length", offset)
        start = offset + HEADER_BYTES
        stop = start + _LENGTH.unpack_from(header)[0]
        if stop + FOOTER_BYTES > len(view):
            return
        data = bytes(view[start:stop])
        if _CRC.unpack_from(view, stop)[0] != masked_crc32c(data):
            raise _corrupt("data", offset)
        yield Record(offset, data)
        offset = stop + FOOTER_BYTES


def _corrupt(part: str, offset: int) -> CorruptRecordError:
    return CorruptRecordError(
        f"record at byte {offset}",
        f"the checksum of its {part} does not fit",
        "keep the records before it; what follows in this file cannot be trusted",
    )
