"""Event files cut back to an earlier state, with what is cut kept beside them under a name that no reader takes for a log."""

from __future__ import annotations

import os
import shutil

from torchboard.eventfile.names import MARK

_ASIDE = "rewound"


def cut(paths: list[str], offset: int) -> None:
    """Cuts the first of several files of a run at ``offset``, and takes the others away: they come later.

    A record must begin at the offset. What is cut stays in the directory: ``events.out.rewound.…``. A process that is killed
    meanwhile leaves the files as they were, or without some of the last records.

    Raises:
        OSError: there is no room for what is cut, or the directory cannot be written to.
    """
    first, *later = paths
    for path in reversed(later):
        os.replace(path, _aside(path, 0))
    if offset < os.path.getsize(first):
        with open(first, "r+b") as file, open(_aside(first, offset), "xb") as aside:
            file.seek(offset)
            shutil.copyfileobj(file, aside)
            aside.flush()
            os.fsync(aside.fileno())
            file.truncate(offset)
            os.fsync(file.fileno())


def _aside(path: str, offset: int) -> str:
    directory, name = os.path.split(path)
    base = aside = os.path.join(directory, f"{name.replace(MARK, _ASIDE)}.from{offset}")
    number = 1
    while os.path.exists(aside):
        number += 1
        aside = f"{base}.{number}"
    return aside
