"""Whose a run directory is: one process at a time writes or rewrites what lies in it.

The kernel keeps the lock with the process, so one that is killed leaves nothing behind. Where a system or a file system
has no locks, nobody is refused.
"""

from __future__ import annotations

import os

from torchboard.errors import RunInUseError

try:
    import fcntl
except ImportError:  # Windows: a second live writer in another process goes unnoticed
    fcntl = None  # type: ignore[assignment]


def own(directory: str) -> int | None:
    """Takes the directory for this process; the kernel gives it back when the process ends, however it ends.

    Returns:
        What ``disown`` wants back, or None where there are no locks.

    Raises:
        RunInUseError: another writer has it.
    """
    if fcntl is None:
        return None
    owner = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(owner)
        raise RunInUseError(
            f"log directory {directory!r}",
            "another process is writing in it, and TensorBoard would lose data of one of the two",
            "give this run a directory of its own, or end the other process",
        ) from None
    except OSError:  # a file system without locks
        os.close(owner)
        return None
    return owner


def disown(owner: int) -> None:
    """Gives the directory back at once, though forked children may hold the descriptor still."""
    fcntl.flock(owner, fcntl.LOCK_UN)
    os.close(owner)
