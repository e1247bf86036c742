"""The masked CRC-32C that guards every record of an event file: of one record, or of many at once.

A CRC is linear: two messages of one length differ in their checksums by what their differing bytes add, each alone, by its
distance from the end. So where records are alike but for a few bytes, their checksums come from a table, for all
records in one NumPy operation a byte.
"""

from __future__ import annotations

from functools import lru_cache

import google_crc32c
import numpy as np

_MASK_DELTA = 0xA282EAD8
_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, bits reversed."""


def masked_crc32c(data: bytes | np.ndarray) -> int:
    """CRC-32C (Castagnoli) of ``data``, rotated right by 15 bits and offset, as TFRecord files store it.

    The mask keeps a checksum of data that themselves contain checksums from being degenerate. One pass over the data.
    """
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def mask(crcs: np.ndarray) -> np.ndarray:
    """What ``masked_crc32c`` stores, of plain checksums: uint32 in, uint32 out."""
    return (crcs >> 15 | crcs << 17) + np.uint32(_MASK_DELTA)


@lru_cache(maxsize=8)
def byte_effects(distances: int) -> np.ndarray:
    """What a byte that is not zero adds to a plain CRC-32C: uint32 [distances, 256], to be combined by exclusive or.

    ``byte_effects(n)[d, b]`` is the effect of byte ``b`` with ``d`` bytes behind it. Computed once: 1 KB a distance.
    """
    table = np.empty((distances, 256), np.uint32)
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = np.where(row & 1, row >> 1 ^ np.uint32(_POLYNOMIAL), row >> 1)
    first = row
    for distance in range(distances):
        table[distance] = row
        row = row >> 8 ^ first[row & 255]
    return table
