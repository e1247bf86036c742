"""Numbers over steps: the Scalars and Time Series dashboards."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from torchboard import proto
from torchboard.values.value import SCALAR, Event, metadata

_FLOAT = proto.DataType["DT_FLOAT"].number


@dataclass(frozen=True)
class Scalar:
    """One number.

    TensorBoard's default loader shows rank-0 float32 and nothing else, so that is what is written: about seven digits,
    and a finite value beyond 3.4e38 is drawn as infinite. NaN and infinities are data and drawn as markers.

    Attributes:
        value: the number.
        description: Markdown shown with the curve. Without one the scalar takes its shortest form on disk.
    """

    value: float
    description: str = ""

    plugin: ClassVar[str] = "scalars"
    nbytes: ClassVar[int] = 8

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as ``simple_value``, or, with a description, as a rank-0 tensor: 4 bytes either way."""
        message = event.summary.value.add(tag=tag)
        if not self.description:
            message.simple_value = self.value
            return
        message.metadata.CopyFrom(metadata(self.plugin, SCALAR, description=self.description))
        message.tensor.dtype = _FLOAT
        message.tensor.tensor_shape.SetInParent()
        message.tensor.float_val.append(self.value)

    @classmethod
    def decode(cls, message: Any) -> Scalar:
        """The scalar of a ``Summary.Value``, in either form."""
        if message.WhichOneof("value") == "simple_value":
            return cls(message.simple_value)
        tensor = message.tensor
        value = tensor.float_val[0] if tensor.float_val else float(np.frombuffer(tensor.tensor_content, "<f4")[0])
        return cls(value, message.metadata.summary_description)


# An event of plain scalars on the wire, field by field (tag << 3 | type):
#   0x09 wall_time: double | 0x10 step: varint | 0x2a summary: length, then for each value 0x0a length and
#   0x0a tag: length, UTF-8 | 0x15 simple_value: float
# As in all of proto3, a number that is 0 is left out, but a simple_value, being one of several, is not.

_WALL_TIME = struct.Struct("<Bd")
_SIMPLE_VALUE = struct.Struct("<Bf")


def scalar_event(event: Event) -> bytes:
    """An event of scalars without descriptions, byte for byte as its message would be, at about a tenth of the time."""
    values = b"".join(_head(tag) + _simple_value(value.value) for tag, value in event.pairs)
    return b"".join(
        (
            _WALL_TIME.pack(0x09, event.wall_time) if event.wall_time else b"",
            b"\x10" + _varint(event.step & 0xFFFFFFFFFFFFFFFF) if event.step else b"",
            b"\x2a" + _varint(len(values)),
            values,
        )
    )


@lru_cache(maxsize=4096)
def _head(tag: str) -> bytes:
    """All of a value but its number."""
    name = tag.encode()
    field = b"\x0a" + _varint(len(name)) + name
    return b"\x0a" + _varint(len(field) + _SIMPLE_VALUE.size) + field


def _simple_value(number: float) -> bytes:
    try:
        return _SIMPLE_VALUE.pack(0x15, number)
    except OverflowError:
        return _SIMPLE_VALUE.pack(0x15, float("inf") if number > 0 else float("-inf"))


def _varint(number: int) -> bytes:
    """A whole number from 0 up, seven bits a byte, the lowest first."""
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)
