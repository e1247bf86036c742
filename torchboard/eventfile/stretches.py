"""An event file read in stretches of a few megabytes: where the records of each lie, and no copy of any.

The framing is a chain: where a record starts is known when the one before it was seen. Short records are so many that
walking the chain one by one would cost more than all else, so it is walked from many places of a stretch at once, from
whatever looks like a header there; a walk counts only if the chain, followed from the start of the file, arrives at its
first record. So a wrong guess costs time and never a record.

In memory are one stretch, or the largest record if that is longer. A length that the file is too short for is never
reserved.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import numpy as np

from torchboard.eventfile.checksum import masked_crc32c
from torchboard.eventfile.framing import BAD_DATA, BAD_LENGTH, FOOTER_BYTES, HEADER_BYTES, TORN, Fault

_STRETCH_BYTES = 4 << 20
_HEADER = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_HEADER_FIELDS = np.dtype([("length", "<u8"), ("crc", "<u4")])
_SHORT = 512
"""Below so many bytes a record is short."""
_LANE_BYTES = 4096
"""Between the places from which a stretch of short records is walked at once."""
_LOOK_BYTES = 128
"""How far behind such a place a header is looked for."""
_SLACK_BYTES = 8
"""So many bytes of a buffer lie behind all records, so that each can be copied with its checksum in words of eight."""
_PROBE = 64
"""So many records are walked one by one before it is decided whether the rest is walked at once."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """Consecutive records of an event file. The checksums of their lengths are verified, those of their data are not.

    Attributes:
        buffer: uint8; valid until the next stretch is asked for. Eight bytes or more lie behind the last record.
        base: the offset of the buffer in the file.
        starts: int64[n], where the data of each record start in the buffer.
        lengths: int64[n], how many bytes of data each has.
    """

    buffer: np.ndarray
    base: int
    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def offset(self, record: int) -> int:
        """Where the header of a record starts in the file."""
        return self.base + int(self.starts[record]) - HEADER_BYTES

    def data(self, record: int) -> np.ndarray:
        """The data of a record: a view, uint8."""
        start = int(self.starts[record])
        return self.buffer[start : start + int(self.lengths[record])]

    def is_sound(self, record: int) -> bool:
        """Whether the checksum of its data fits. One pass over them."""
        stop = int(self.starts[record] + self.lengths[record])
        return _CRC.unpack_from(self.buffer, stop)[0] == masked_crc32c(self.data(record))

    def fault(self, record: int) -> Fault:
        """What to say of a record that is not sound."""
        return Fault(self.offset(record), BAD_DATA)


def stretches(path: str | os.PathLike[str]) -> Iterator[Stretch | Fault]:
    """The records of one event file in order, stretch by stretch, then the ``Fault`` that ends it, if there is one.

    The file may grow, shrink or vanish meanwhile: it is read, never mapped.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        buffer = _buffer(min(_STRETCH_BYTES, _size(file) + 4096))
        base = filled = 0
        while count := file.readinto(memoryview(buffer)[filled:-_SLACK_BYTES]):
            filled += count
            starts, lengths, used, intact = _walk(buffer[:filled])
            if len(starts):
                yield Stretch(buffer, base, starts, lengths)
            base += used
            if not intact:
                yield Fault(base, BAD_LENGTH)
                return
            needed = _needed(buffer[used:filled])
            if needed > max(_STRETCH_BYTES, _size(file) - base):
                break
            buffer, filled = _moved(buffer[used:filled], buffer, needed)
    if filled:
        yield Fault(base, TORN)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _needed(rest: np.ndarray) -> int:
    """How many bytes the record has of which ``rest`` is the beginning; 0 while that is not known."""
    if len(rest) < HEADER_BYTES:
        return 0
    return HEADER_BYTES + _HEADER.unpack_from(rest)[0] + FOOTER_BYTES


def _buffer(capacity: int) -> np.ndarray:
    return np.empty(capacity + _SLACK_BYTES, np.uint8)


def _moved(rest: np.ndarray, buffer: np.ndarray, needed: int) -> tuple[np.ndarray, int]:
    """``rest`` at the start of a buffer that the record it begins fits in, and how many bytes it is."""
    capacity = max(needed, min(len(buffer) - _SLACK_BYTES, _STRETCH_BYTES))
    target = buffer if len(buffer) == capacity + _SLACK_BYTES else _buffer(capacity)
    target[: len(rest)] = rest
    return target, len(rest)


def _walk(buffer: np.ndarray) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """Starts and lengths of the records that lie whole in a buffer, the bytes they use, and whether it goes on.

    It does not where the checksum of the next length fails.
    """
    lanes: _Lanes | None = None
    found: list[tuple[np.ndarray, np.ndarray]] = []
    starts: list[int] = []
    lengths: list[int] = []
    position, intact = 0, True
    while len(buffer) - position >= HEADER_BYTES:
        if lanes is None and len(starts) == _PROBE and position < _PROBE * _SHORT:
            lanes = _Lanes(buffer, position)
        if lanes is not None and position in lanes.begins:
            if starts:
                found.append(_columns(starts, lengths))
                starts, lengths = [], []
            records, position = lanes.walked(position)
            found.append(records)
            continue
        length, crc = _HEADER.unpack_from(buffer, position)
        if crc != _length_crc(length):
            intact = False
            break
        if position + HEADER_BYTES + length + FOOTER_BYTES > len(buffer):
            break
        starts.append(position + HEADER_BYTES)
        lengths.append(length)
        position += HEADER_BYTES + length + FOOTER_BYTES
    found.append(_columns(starts, lengths))
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found]), position, intact


def _columns(starts: list[int], lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(starts, np.int64), np.array(lengths, np.int64)


@lru_cache(maxsize=4096)
def _length_crc(length: int) -> int:
    return masked_crc32c(length.to_bytes(8, "little"))


@lru_cache(maxsize=1)
def _short_crcs() -> np.ndarray:
    """The checksum of every short length: uint32."""
    return np.array([masked_crc32c(length.to_bytes(8, "little")) for length in range(_SHORT)], np.uint32)


class _Lanes:
    """The chain of short records walked from many places of a buffer at once, behind ``position``.

    Attributes:
        begins: where a walk begins -> its number. Each has a record or more: behind its beginning lies a lane, which is
            longer than any short record.
    """

    def __init__(self, buffer: np.ndarray, position: int) -> None:
        begins = _guesses(buffer, position)
        self.begins = {begin: number for number, begin in enumerate(begins.tolist())}
        self._walk_all(buffer, begins)

    def walked(self, begin: int) -> tuple[tuple[np.ndarray, np.ndarray], int]:
        """Starts and lengths of the records of the walk that begins there, and where the record starts that follows them."""
        number = self.begins[begin]
        lane = slice(self._bounds[number], self._bounds[number + 1])
        return (self._starts[lane], self._lengths[lane]), self._ends[number]

    def _walk_all(self, buffer: np.ndarray, begins: np.ndarray) -> None:
        """Goes on with every walk until it comes to where the next one begins, or to what is no short record."""
        limits, ends = np.append(begins[1:], len(buffer)), begins.copy()
        going, at = np.arange(len(begins)), begins
        seen = [(going[:0], at[:0], at[:0])]
        while len(going):
            lengths, fits = _short_lengths(_headers(buffer)[at])
            following = at + lengths + (HEADER_BYTES + FOOTER_BYTES)
            fits &= following <= len(buffer)
            going, at, lengths, following = going[fits], at[fits], lengths[fits], following[fits]
            seen.append((going, at + HEADER_BYTES, lengths))
            ends[going] = following
            further = following < np.minimum(limits[going], len(buffer) - HEADER_BYTES + 1)
            going, at = going[further], following[further]
        lanes, starts, lengths = (np.concatenate(column) for column in zip(*seen))
        order = np.argsort(lanes.astype(np.uint16), kind="stable")
        self._starts, self._lengths = starts[order], lengths[order]
        self._bounds = [0, *np.cumsum(np.bincount(lanes, minlength=len(begins))).tolist()]
        self._ends = ends.tolist()


def _guesses(buffer: np.ndarray, position: int) -> np.ndarray:
    """Where a header of a short record may start: one place of every lane that has one near its beginning, int64."""
    lanes = min(max(len(buffer) - position - _LOOK_BYTES - HEADER_BYTES, 0) // _LANE_BYTES, 1 << 16)
    if not lanes:
        return np.zeros(0, np.int64)
    windows = np.ndarray(
        (lanes, _LOOK_BYTES), f"V{HEADER_BYTES}", buffer.data, offset=position, strides=(_LANE_BYTES, 1)
    )
    _, fits = _short_lengths(np.ascontiguousarray(windows))
    first = position + _LANE_BYTES * np.arange(lanes) + fits.argmax(1)
    return first[fits.any(1)]


def _headers(buffer: np.ndarray) -> np.ndarray:
    """The twelve bytes from every place of a buffer on, as a view."""
    return np.ndarray((len(buffer) - HEADER_BYTES + 1,), f"V{HEADER_BYTES}", buffer.data, strides=(1,))


def _short_lengths(headers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What headers announce, int64, and whether each is the header of a short record; 0 where it is not."""
    fields = headers.view(_HEADER_FIELDS)
    lengths, crcs = fields["length"], fields["crc"]
    short = lengths < _SHORT
    lengths = np.where(short, lengths, 0).astype(np.int64)
    return lengths, short & (_short_crcs()[lengths] == crcs)
