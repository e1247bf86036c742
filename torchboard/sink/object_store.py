"""A directory of a store that takes files whole, through fsspec: S3, Google Cloud Storage, memory and the like.

A request that is not answered is given up after a time, where the store's client can be told to; a store that needs
directories gets them.
"""

from __future__ import annotations

import os
from typing import Any

from torchboard.errors import RunError
from torchboard.eventfile.names import MARK

_ANSWER_SECONDS = 30.0
"""After which a request counts as failed, beside the time that its bytes take."""
_SLOWEST = 1 << 20
"""Bytes a second that a store takes at least."""


class ObjectStore:
    """What lies below one URL. Whatever the store's client raises comes through as it is.

    Args:
        url: the directory, as fsspec names it: ``s3://bucket/runs/x``.

    Raises:
        RunError: fsspec or the package of this kind of store is missing, or it cannot be connected to.
    """

    def __init__(self, url: str) -> None:
        self._files, root = _connect(url)
        self._root = root.rstrip("/")

    def put(self, path: str, data: bytes) -> None:
        """Stores a file below the directory, in place of one of that name; one request up to 100 MB on S3."""
        target, options = f"{self._root}/{path}", self._options(len(data))
        try:
            self._files.pipe_file(target, data, **options)
        except FileNotFoundError:
            if self._files.async_impl:  # an object store has no directories, so what is not there is the bucket
                raise
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(target, data)

    def event_files(self, run: str) -> list[str]:
        """Names of the event files that lie in a run now; one request a thousand of them on S3."""
        directory = f"{self._root}/{run}" if run else self._root
        self._files.invalidate_cache(directory)
        try:
            paths = self._files.ls(directory, detail=False, **self._options(0))
        except FileNotFoundError:
            return []
        names = [path.rstrip("/").rpartition("/")[2] for path in paths]
        return [name for name in names if MARK in name]

    def download(self, directory: str) -> int:
        """Copies the event files of all runs, as they are now, to a local directory; how many there are."""
        self._files.invalidate_cache(self._root)
        found = [path for path in self._files.find(self._root) if MARK in path.rpartition("/")[2]]
        names = [os.path.normpath(path[len(self._root) :].lstrip("/")) for path in found]
        copies = {path: os.path.join(directory, name) for path, name in zip(found, names) if not name.startswith("..")}
        for copy in copies.values():
            os.makedirs(os.path.dirname(copy), exist_ok=True)
        self._files.get(list(copies), list(copies.values()))
        return len(copies)

    def _options(self, nbytes: int) -> dict[str, Any]:
        """The time a request may take; clients that are not asynchronous take none."""
        return {"timeout": _ANSWER_SECONDS + nbytes / _SLOWEST} if self._files.async_impl else {}


def _connect(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path on it."""
    try:
        import fsspec
    except ImportError as error:
        raise RunError(
            f"log_dir={url!r}",
            "fsspec, which writes to other than local directories, is not installed",
            "run 'pip install torchboard[remote]', or give a local path",
        ) from error
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise RunError(
            f"log_dir={url!r}",
            f"the package for this kind of store is not installed ({error})",
            "install it with pip (s3fs for s3://, gcsfs for gs://, adlfs for abfs://), or give a local path",
        ) from error
    except Exception as error:
        raise RunError(
            f"log_dir={url!r}",
            f"it cannot be connected to ({type(error).__name__}: {error})",
            "check the URL and the credentials, or give a local path",
        ) from error
