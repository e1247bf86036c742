"""What became of a trial: how it ended, or whether it still runs.

TensorBoard shows every trial that has not ended as unknown, the one that runs and the one whose process was killed alike.
Here they are told apart by the lock that a writer of torchboard's holds on its directory, and that the kernel frees however
the process ends. It is not seen from other machines. Other writers, such as Keras', hold none: of a trial of theirs that has
no end nobody can tell whether it runs.
"""

from __future__ import annotations

from torchboard.cli.log import directory_of, writer_of
from torchboard.errors import TorchboardError
from torchboard.reader import Reader
from torchboard.sink.ownership import is_owned
from torchboard.values.hparams import SESSION_END_TAG, SESSION_START_TAG, SessionEnd

RUNNING, UNENDED, OPEN = "running", "not ended", "running or not ended"


def fate(reader: Reader, run: str) -> str | None:
    """``"succeeded"``, ``"failed"``, ``"running"`` or ``"not ended"`` of the trial in a run; None where there is none.

    Whether one that has not ended runs is told by the lock on its directory; ``"running or not ended"`` where its writer
    holds none.
    """
    tags = {tag for tag, plugin in reader.index(run).columns if plugin == "hparams"}
    if SESSION_START_TAG not in tags:
        return None
    if SESSION_END_TAG not in tags:
        if is_running(reader, run):
            return RUNNING
        return UNENDED if any(map(_is_ours, reader.index(run).files)) else OPEN
    try:
        end = reader.values(SESSION_END_TAG, run).values[0]
    except TorchboardError:
        return UNENDED
    return ("succeeded" if end.succeeded else "failed") if isinstance(end, SessionEnd) else UNENDED


def is_running(reader: Reader, run: str) -> bool:
    """Whether a writer of torchboard's on this machine holds the directory of a run."""
    try:
        return is_owned(directory_of(reader, run))
    except OSError:
        return False


def _is_ours(path: str) -> bool:
    """Whether torchboard wrote an event file, be it in place of others that it has compacted."""
    try:
        return writer_of(path).startswith("torchboard")
    except OSError:
        return False
