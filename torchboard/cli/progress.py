"""A bar on stderr where a command takes long: of tqdm, if there is one and somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SMALL = 20 << 20
"""Bytes that are read before a bar would be up."""


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[int], object]]:
    """A function that takes how many bytes more were done; it draws nothing where stderr is no terminal.

    Args:
        total: bytes in all.
        what: the word before the bar.
    """
    if total < _SMALL or not sys.stderr.isatty():
        yield lambda done: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda done: None
        return
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, file=sys.stderr, leave=False, delay=0.3) as bar:
        yield bar.update
