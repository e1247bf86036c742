"""What a terminal is told: texts that it only prints, numbers in words, tables."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime


def plain(text: str) -> str:
    """A text of a file as one that a terminal only prints: no escape sequences, nothing that it cannot encode."""
    encoding = sys.stdout.encoding or "ascii"
    shown = "".join(
        letter if letter.isprintable() or letter == "\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    return shown.encode(encoding, "replace").decode(encoding)


def unicode() -> bool:
    """Whether stdout takes any character."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def colours() -> bool:
    """Whether stdout is a terminal that may be given colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def count(number: int, noun: str) -> str:
    """``1 point``, ``2 points``."""
    return f"{number} {noun}{'s' * (number != 1)}"


def size(nbytes: float) -> str:
    """A number of bytes in the unit that suits, three digits."""
    if nbytes < 1000:
        return count(int(nbytes), "byte")
    power = 3 if nbytes >= 999.5e6 else 2 if nbytes >= 999.5e3 else 1
    number = nbytes / 1000**power
    return f"{number:.3g} {('kB', 'MB', 'GB')[power - 1]}" if number < 1000 else f"{number:.0f} GB"


def duration(seconds: float) -> str:
    """Seconds in the two largest units."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left, words = round(seconds), []
    for unit, length in units:
        if left >= length or words:
            words.append(f"{left // length} {unit}")
            left %= length
    return " ".join(words[:2])


def moment(seconds: float) -> str:
    """Seconds since the epoch as local time."""
    if not math.isfinite(seconds):
        return "no time"
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return f"{seconds:.0f} s"


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Lines of columns two spaces apart; those in ``right`` stand at the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    right = set(right)
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
