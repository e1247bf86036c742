"""What became of a trial: how it ended, or whether it still runs.

TensorBoard shows every trial that has not ended as unknown, the one that runs and the one whose process was killed alike.
Here they are told apart by the lock that a writer of torchboard's holds on its directory, and that the kernel frees however
the process ends. It is not seen from other machines, and other writers hold none.
"""

from __future__ import annotations

from torchboard.cli.log import directory_of
from torchboard.errors import TorchboardError
from torchboard.reader import Reader
from torchboard.sink.ownership import is_owned
from torchboard.values.hparams import SESSION_END_TAG, SESSION_START_TAG, SessionEnd

RUNNING, UNENDED = "running", "not ended"


def fate(reader: Reader, run: str) -> str | None:
    """``"succeeded"``, ``"failed"``, ``"running"`` or ``"not ended"`` of the trial in a run; None where there is none.

    Whether one that has not ended runs is told by the lock on its directory.
    """
    tags = {tag for tag, plugin in reader.index(run).columns if plugin == "hparams"}
    if SESSION_START_TAG not in tags:
        return None
    if SESSION_END_TAG not in tags:
        return RUNNING if _is_written(directory_of(reader, run)) else UNENDED
    try:
        end = reader.values(SESSION_END_TAG, run).values[0]
    except TorchboardError:
        return UNENDED
    return ("succeeded" if end.succeeded else "failed") if isinstance(end, SessionEnd) else UNENDED


def _is_written(directory: str) -> bool:
    try:
        return is_owned(directory)
    except OSError:
        return False
