"""The ways in which a process ends in order, and what a sink has done before each of them.

The end of the script, ``sys.exit`` and exceptions all lead to ``atexit``; processes of ``multiprocessing`` leave past it,
after finalizers of their own; signals are the business of ``signals``.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable

_LAST = -100
"""Priority of a finalizer: behind those of queues and pools, whose ends may still log something."""


def at_end(action: Callable[[], None]) -> Callable[[], None]:
    """Has ``action`` called when this process ends in order; it may be called twice.

    Returns:
        What takes it back.
    """
    atexit.register(action)
    util = sys.modules.get("multiprocessing.util")
    parent = getattr(sys.modules.get("multiprocessing.process"), "parent_process", lambda: None)()
    finalizer = util.Finalize(None, action, exitpriority=_LAST) if util and parent is not None else None

    def take_back() -> None:
        atexit.unregister(action)
        if finalizer is not None:
            finalizer.cancel()

    return take_back
