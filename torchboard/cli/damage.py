"""The records of an event file that is broken: those before the damage, and those behind it.

A record says how long it is, under a checksum of its own. Where that one holds and only the data are bad, the next record
is where it should be; TensorBoard's default loader goes on there, its Python loader does not. Where the length itself is
bad, or a record was cut and more was appended, no loader goes on; the records behind are still found by their checksums.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from torchboard.eventfile.checksum import masked_crc32c
from torchboard.eventfile.framing import FOOTER_BYTES, HEADER_BYTES, Fault, Record
from torchboard.eventfile.scanning import walk

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Damage:
    """A stretch of an event file that is no sound record.

    Attributes:
        path: the file.
        offset: where it starts, in bytes.
        nbytes: how far it goes, to the next record that is read or to the end.
        what: what is wrong.
        tail: whether its record was to be longer than the file and no sound one lies behind: what a killed writer leaves.
    """

    path: str
    offset: int
    nbytes: int
    what: str
    tail: bool


def records(path: str, stop: int, salvage: bool = False) -> Iterator[Record | Damage]:
    """The sound records of a file in order, as far as TensorBoard's default loader goes, and the damage between.

    Args:
        path: the file.
        stop: where to end, in bytes: what is appended while the file is read is left alone.
        salvage: whether to go on behind damage where no loader does.

    Raises:
        OSError: the file cannot be read.
    """
    for item in walk(path):
        if not isinstance(item, Record):
            yield from records_from(path, item, stop, salvage)
        elif item.offset >= stop:
            return
        else:
            yield item


def records_from(path: str, fault: Fault, stop: int, salvage: bool = False) -> Iterator[Record | Damage]:
    """The rest of what ``records`` gives, from the first fault of a file on."""
    offset, what = fault
    with open(path, "rb") as file:
        while offset < stop:
            after = _end_of_framed(file, offset, stop)
            tail = False
            if after is None:
                found_behind = _search(file, offset + 1, stop)
                tail = found_behind is None and _is_cut(file, offset)
                after = found_behind if salvage else None
            yield Damage(path, offset, (after or stop) - offset, what, tail)
            if after is None:
                return
            offset = after
            while isinstance(found := _at(file, offset, stop), Record):
                yield found
                offset += HEADER_BYTES + len(found.data) + FOOTER_BYTES
            what = found


def behind(damage: Damage) -> Iterator[Record]:
    """The sound records behind damage that no loader goes on after."""
    stop = os.path.getsize(damage.path)
    with open(damage.path, "rb") as file:
        offset = _search(file, damage.offset + 1, stop)
        while offset is not None:
            found = _at(file, offset, stop)
            if isinstance(found, Record):
                yield found
                offset += HEADER_BYTES + len(found.data) + FOOTER_BYTES
            else:
                offset = _search(file, offset + 1, stop)


def _length(header: bytes) -> int | None:
    """What a header says of the length of its data; None where its checksum fails."""
    if len(header) < HEADER_BYTES:
        return None
    length, crc = struct.unpack("<QI", header)
    return length if crc == masked_crc32c(header[:8]) else None


def _at(file: BinaryIO, offset: int, stop: int) -> Record | str:
    """The record at an offset, or what is wrong with it; nothing is wrong with the end."""
    if offset >= stop:
        return ""
    file.seek(offset)
    header = file.read(HEADER_BYTES)
    length = _length(header)
    if length is None:
        return "the file ends within it" if len(header) < HEADER_BYTES else "the checksum of its length does not fit"
    if offset + HEADER_BYTES + length + FOOTER_BYTES > stop:
        return "the file ends within it"
    data, footer = file.read(length), file.read(FOOTER_BYTES)
    if footer != struct.pack("<I", masked_crc32c(data)):
        return "the checksum of its data does not fit"
    return Record(offset, data)


def _end_of_framed(file: BinaryIO, offset: int, stop: int) -> int | None:
    """Where a record ends whose length can be trusted, if it ends within the file."""
    file.seek(offset)
    length = _length(file.read(HEADER_BYTES))
    end = None if length is None else offset + HEADER_BYTES + length + FOOTER_BYTES
    return end if end is not None and end <= stop else None


def _is_cut(file: BinaryIO, offset: int) -> bool:
    """Whether a record is one that the file ends within."""
    file.seek(offset)
    header = file.read(HEADER_BYTES)
    return len(header) < HEADER_BYTES or _length(header) is not None


def _search(file: BinaryIO, offset: int, stop: int) -> int | None:
    """Where the next sound record starts.

    A header is 12 bytes of which the upper four of the length are zero, so few places have to be looked at.
    """
    while offset < stop:
        file.seek(offset)
        chunk = np.frombuffer(file.read(_CHUNK + HEADER_BYTES), np.uint8)
        last = len(chunk) - HEADER_BYTES + 1
        if last <= 0:
            return None
        zero = chunk == 0
        upper = zero[4 : 4 + last] & zero[5 : 5 + last] & zero[6 : 6 + last] & zero[7 : 7 + last]
        for place in np.flatnonzero(upper & ~zero[8 : 8 + last]):
            start = offset + int(place)
            if _length(chunk[place : place + HEADER_BYTES].tobytes()) is not None and isinstance(
                _at(file, start, stop), Record
            ):
                return start
        offset += last
    return None
