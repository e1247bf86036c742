"""Whose a run directory is: one process at a time writes or rewrites what lies in it.

The kernel keeps the lock with the process, so one that is killed leaves nothing behind. Where a system or a file system
has no locks, nobody is refused.
"""

from __future__ import annotations

import os
import time

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
        _lock(owner)
    except BlockingIOError:
        os.close(owner)
        raise RunInUseError(
            f"log directory {directory!r}",
            "another process is writing in it, and TensorBoard would lose data of one of the two",
            "give this run a directory of its own, or end the other process; where that is a rank of one training, make the "
            "Monitor after init_process_group, so that only rank 0's writes",
        ) from None
    except OSError:  # a file system without locks
        os.close(owner)
        return None
    return owner


def is_owned(directory: str) -> bool:
    """Whether a process on this machine writes in the directory; never, where there are no locks.

    Raises:
        OSError: there is no such directory, or it may not be read.
    """
    if fcntl is None:
        return False
    looker = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(looker, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(looker)
    return False


def _lock(owner: int) -> None:
    """Waits a few milliseconds for who only looks whether the directory is owned, which takes microseconds."""
    for pause in (0.001, 0.004):
        try:
            return fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
    return fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)


def disown(owner: int) -> None:
    """Gives the directory back at once, though forked children may hold the descriptor still."""
    fcntl.flock(owner, fcntl.LOCK_UN)
    os.close(owner)
