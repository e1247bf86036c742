"""The bytes of an event of scalars, for those who write them without building messages.

Field numbers and wire types are those of ``event.proto`` and ``summary.proto``; the encoding is protobuf's.
"""

from __future__ import annotations

WALL_TIME, STEP, SUMMARY = b"\x09", b"\x10", b"\x2a"
"""Fields of an ``Event``: a double, a varint, a message."""
FLOAT_BYTES = 4
"""Bytes of a simple value."""

_VALUE, _TAG, _SIMPLE_VALUE = b"\x0a", b"\x0a", b"\x15"


def varint(number: int) -> bytes:
    """A whole number of up to 64 bits, without sign: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def value_before_number(tag: str) -> bytes:
    """One value of a summary, a simple value, up to the four bytes of the number, which come last."""
    name = tag.encode()
    fields = _TAG + varint(len(name)) + name + _SIMPLE_VALUE
    return _VALUE + varint(len(fields) + FLOAT_BYTES) + fields


def summary_before_number(tag: str) -> bytes:
    """A summary of one simple value, up to the four bytes of the number, which come last."""
    value = value_before_number(tag)
    return SUMMARY + varint(len(value) + FLOAT_BYTES) + value
