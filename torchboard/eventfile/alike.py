"""Records of one length, side by side as rows of a matrix: gathered without a loop, and checked without reading them whole.

A CRC is linear over exclusive or: with ``x`` and ``y`` of one length, ``crc(x ^ y) = crc(x) ^ crc(y) ^ crc(0)``. So a
record's checksum is that of the same record with some bytes set to zero, exclusive-or what each of these bytes adds by
its value and its distance from the end. Where records differ in few bytes, one checksum of the rest serves them all,
and a byte that varies costs one look-up in a table of 256.
"""

from __future__ import annotations

import numpy as np

from torchboard.eventfile.checksum import byte_effects
from torchboard.eventfile.framing import FOOTER_BYTES
from torchboard.eventfile.stretches import Stretch

_WORD = 8
_TABLE_STEP = 256


def rows_of(stretch: Stretch, records: np.ndarray, length: int) -> np.ndarray:
    """Records of one length with what is behind them: a copy, uint8 [n, w], where w is a multiple of eight.

    A row has the data first, then the four bytes of their checksum, then up to seven that mean nothing.
    """
    width = -(-(length + FOOTER_BYTES) // _WORD) * _WORD
    places = np.ndarray((len(stretch.buffer) - width + 1,), f"V{width}", stretch.buffer.data, strides=(1,))
    return places[stretch.starts[records]].view(np.uint8).reshape(len(records), width)


def stored_checksums(rows: np.ndarray, length: int) -> np.ndarray:
    """The checksums behind the data of rows: uint32[n]."""
    return np.ascontiguousarray(rows[:, length : length + FOOTER_BYTES]).view("<u4")[:, 0]


def added_by(rows: np.ndarray, length: int, columns: np.ndarray) -> np.ndarray:
    """What the bytes of some columns add to the plain CRC-32C of each row: uint32[n], to be combined by exclusive or."""
    effects = byte_effects(-(-length // _TABLE_STEP) * _TABLE_STEP)
    total = np.zeros(len(rows), np.uint32)
    for column in columns.tolist():
        added = effects[length - 1 - column]
        values = rows[:, column].copy()
        total ^= added[values[0]] if (values == values[0]).all() else added.take(values)
    return total


def without(rows: np.ndarray, length: int, columns: np.ndarray) -> np.ndarray:
    """The data of rows in words, uint64 [n, w / 8], with the bytes of some columns set to zero. The rows are overwritten."""
    rows[:, columns] = 0
    rows[:, length:] = 0
    return rows.view(np.uint64)
