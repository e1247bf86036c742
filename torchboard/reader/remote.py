"""A log below a URL, brought to a local directory: readers want files that they can look into at any place."""

from __future__ import annotations

import shutil
import tempfile

from torchboard.errors import RunError
from torchboard.sink.object_store import ObjectStore


def fetch(url: str) -> str:
    """A new local directory with the event files below a URL, as they are now; the caller removes it. Downloads all of them.

    Raises:
        RunError: there is none, or they cannot be had.
    """
    store = ObjectStore(url)
    directory = tempfile.mkdtemp(prefix="torchboard-copy-")
    try:
        if store.download(directory):
            return directory
        found = "there is no event file below it"
    except Exception as error:  # clients of stores have classes of their own for what goes wrong
        found = f"it cannot be downloaded ({type(error).__name__}: {error})"
    shutil.rmtree(directory, ignore_errors=True)
    raise RunError(f"log_dir={url!r}", found, "check the URL and the credentials")
