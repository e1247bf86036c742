"""The operations that took longest, as a Markdown table."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from torchboard.profile.trace import STEP
from torchboard.values.text import wide_table

_ROWS = 25
_STEP = STEP.rstrip("#")
"""A profiler's averages have all steps in one row, of another name."""


def longest(averages: Iterable[Any], first: int, last: int, layers: Container[str] = ()) -> str:
    """The operations of some batches, those first that took longest by themselves.

    Times are of the device where one was busy, and of the host otherwise; ``self`` leaves out what an operation called.

    Args:
        averages: ``key_averages()`` of a profiler.
        first: the first batch.
        last: the last one.
        layers: names that are no operations, but of annotations around layers.
    """
    rows = [row for row in averages if not row.key.startswith(_STEP) and row.key not in layers]
    where = "device" if any(row.self_device_time_total for row in rows) else "cpu"
    own, whole = f"self_{where}_time_total", f"{where}_time_total"
    total = sum(getattr(row, own) for row in rows) or 1.0
    rows.sort(key=lambda row: getattr(row, own), reverse=True)
    head = f"Batches {first} to {last}" if last > first else f"Batch {first}"
    lines = [
        (
            row.key,
            f"{row.count:,}",
            f"{getattr(row, own) / 1e3:,.3f}",
            f"{getattr(row, own) / total:.1%}",
            f"{getattr(row, whole) / 1e3:,.3f}",
            f"{row.self_cpu_memory_usage + getattr(row, 'self_device_memory_usage', 0):,}",
        )
        for row in rows[:_ROWS]
    ]
    header = ("operation", "calls", f"self {where} ms", "share", f"{where} ms", "self memory, bytes")
    shown = f", the {len(lines)} of {len(rows)} operations that took longest" if len(rows) > len(lines) else ""
    return f"{head}{shown}: {total / 1e3:,.3f} ms in all.\n\n{wide_table(header, lines)}"
