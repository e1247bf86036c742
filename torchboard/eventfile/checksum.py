"""The masked CRC-32C that guards every record of an event file."""

from __future__ import annotations

import google_crc32c

_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of ``data``, rotated right by 15 bits and offset, as TFRecord files store it.

    The mask keeps a checksum of data that themselves contain checksums from being degenerate. One pass over the data.
    """
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
