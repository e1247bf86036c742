"""Names of event files: found by TensorBoard, and sorted by age.

TensorBoard reads every file whose name contains ``tfevents`` and orders the files of a run by name, so a writer that
comes later needs a name that sorts later, also within one second, and also when the clock was set back in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MARK = "tfevents"
"""What makes TensorBoard take a file for an event file."""

_STAMPED = re.compile(r"\.tfevents\.(\d+)\.")


def event_file_name(existing: Iterable[str], now: float, host: str, pid: int, suffix: str = "") -> str:
    """``events.out.tfevents.<seconds>.<host>.<pid>.<sequence><suffix>``, sorting behind every name in ``existing``.

    Args:
        existing: names of the event files already in the directory.
        now: seconds since the epoch.
        suffix: appended to the name as it is.
    """
    names = [name for name in existing if MARK in name]
    stamps = [int(match.group(1)) for name in names if (match := _STAMPED.search(name))]
    seconds = max([int(now), *stamps])
    host = re.sub(r"[^A-Za-z0-9_-]", "_", host) or "localhost"
    for sequence in range(len(names) + 1):
        name = f"events.out.tfevents.{seconds:010d}.{host}.{pid}.{sequence:04d}{suffix}"
        if all(name > other for other in names):
            return name
    return f"events.out.tfevents.{seconds + 1:010d}.{host}.{pid}.0000{suffix}"
