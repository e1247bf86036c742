"""Where in the bytes of an event of scalars the numbers stand.

An event of scalars differs from the one before in its wall time, its step and its numbers, and in nothing else; a
**Layout** says which of its bytes those are. Two records of one layout that are equal in all other bytes mean the same
but for these three, whoever wrote them: no byte is interpreted that is not equal to one that a parser has read.

Wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

WALL_TIME_KEY = 0x09
WALL_TIME = slice(1, 9)
"""The wall time, a double: it comes first."""
STEP = 10
"""Where the step, a varint, begins; its key stands before it. Both are left out where it is 0."""
STEP_KEY = 0x10

_SUMMARY, _VALUE, _TAG, _SIMPLE_VALUE, _TENSOR, _METADATA = 5, 1, 1, 2, 8, 9
_DTYPE, _SHAPE, _CONTENT, _FLOATS, _DOUBLES = 1, 2, 4, 5, 6
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Layout:
    """Which bytes of a record vary.

    Attributes:
        length: how many bytes the record has.
        step_bytes: how many of them the step takes; 0 where there is none.
        numbers: where each number starts.
        number_bytes: 4, floats, or 8, doubles.
    """

    length: int
    step_bytes: int
    numbers: tuple[int, ...]
    number_bytes: int

    @cached_property
    def number_columns(self) -> np.ndarray:
        """The bytes of the numbers, in order: int64[numbers * number_bytes]."""
        return (np.array(self.numbers)[:, None] + np.arange(self.number_bytes)).reshape(-1)

    @cached_property
    def varying(self) -> np.ndarray:
        """All bytes that vary, in order: int64."""
        step = np.arange(STEP, STEP + self.step_bytes)
        return np.concatenate([np.arange(WALL_TIME.start, WALL_TIME.stop), step, self.number_columns])


class _Field(NamedTuple):
    """One field of a message: its number, its wire type, and where its content lies."""

    number: int
    wire: int
    start: int
    stop: int


def layout_of(record: bytes) -> Layout | None:
    """The layout of an event of scalars; None if it is anything else, or written in an unusual order.

    What comes of the layout must be compared with what a parser makes of the record: only field numbers are looked at.
    """
    try:
        if record[0] != WALL_TIME_KEY:
            return None
        start = WALL_TIME.stop
        step_bytes = 0
        if record[start] == STEP_KEY:
            step_bytes = _varint(record, STEP)[1] - STEP
            start = STEP + step_bytes
        (summary,) = _fields(record, start, len(record))
        if (summary.number, summary.wire) != (_SUMMARY, _BYTES):
            return None
        spans = [_number(record, value) for value in _fields(record, summary.start, summary.stop)]
    except (IndexError, ValueError):
        return None
    sizes = {stop - start for start, stop in spans}
    if len(sizes) != 1 or not sizes <= {4, 8}:
        return None
    return Layout(len(record), step_bytes, tuple(start for start, _ in spans), sizes.pop())


def _number(record: bytes, value: _Field) -> tuple[int, int]:
    """Where the number of a ``Summary.Value`` lies.

    Raises:
        ValueError: there is not exactly one, or there are other fields beside it.
    """
    fields = _unique(record, value, {_TAG: _BYTES, _SIMPLE_VALUE: _FIXED32, _TENSOR: _BYTES, _METADATA: _BYTES})
    if (_SIMPLE_VALUE in fields) == (_TENSOR in fields):
        raise ValueError("one number is wanted")
    if _SIMPLE_VALUE in fields:
        return fields[_SIMPLE_VALUE][2:]
    kinds = {_DTYPE: _VARINT, _SHAPE: _BYTES, _CONTENT: _BYTES, _FLOATS: _BYTES, _DOUBLES: _BYTES}
    elements = _unique(record, fields[_TENSOR], kinds)
    (numbers,) = (elements[key] for key in (_CONTENT, _FLOATS, _DOUBLES) if key in elements)
    return numbers[2:]


def _unique(record: bytes, message: _Field, kinds: dict[int, int]) -> dict[int, _Field]:
    """The fields of a message by their numbers.

    Raises:
        ValueError: one comes twice, or is not of these kinds.
    """
    fields = list(_fields(record, message.start, message.stop))
    found = {field.number: field for field in fields}
    if len(found) != len(fields) or any(kinds.get(field.number) != field.wire for field in fields):
        raise ValueError("not the fields of a scalar")
    return found


def _fields(record: bytes, start: int, stop: int) -> Iterator[_Field]:
    """The fields of the message that lies from ``start`` to ``stop``.

    Raises:
        ValueError: they are none.
    """
    while start < stop:
        key, start = _varint(record, start)
        wire = key & 7
        if wire == _VARINT:
            end = _varint(record, start)[1]
        elif wire == _BYTES:
            size, start = _varint(record, start)
            end = start + size
        elif wire in (_FIXED32, _FIXED64):
            end = start + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError("a wire type that is not in use")
        if end > stop:
            raise ValueError("a field ends behind its message")
        yield _Field(key >> 3, wire, start, end)
        start = end


def _varint(record: bytes, start: int) -> tuple[int, int]:
    """A number of up to 63 bits, and where it ends.

    Raises:
        IndexError: the record ends within it.
        ValueError: it is longer.
    """
    number = 0
    for shift in range(0, 63, 7):
        byte = record[start]
        start += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, start
    raise ValueError("a number of more than 63 bits")
