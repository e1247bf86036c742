"""An event file read back, record by record."""

from __future__ import annotations

import os
from collections.abc import Iterator

from torchboard.eventfile.framing import Record, unframe


def scan(path: str | os.PathLike[str]) -> Iterator[Record]:
    """The records of one event file in order, checksums verified; a torn last record is left out.

    Raises:
        CorruptRecordError: a checksum fails, after the records before it were given.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        yield from unframe(file.read())
