"""A log directory: what it may be, and how it is named when nobody names it."""

from __future__ import annotations

import os
import re
import socket
import time

from torchboard.errors import InvalidValueError, RunError
from torchboard.eventfile.names import MARK

SCHEME = "://"
"""What makes a log directory a URL."""
_LOST_SLASH = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]")
"""What ``pathlib`` makes of one."""


def place(path: str) -> str:
    """One name for a directory, by whatever path one came to it."""
    return path if SCHEME in path else os.path.realpath(path)


def spelled(log_dir: str | os.PathLike[str]) -> str:
    """A path or a URL as it was given, without what makes no difference on any machine, such as a slash at its end."""
    path = os.fsdecode(log_dir).removeprefix("file" + SCHEME)
    if SCHEME not in path:
        return os.path.normpath(path)
    scheme, _, place = path.partition(SCHEME)
    return scheme + SCHEME + place.rstrip("/")


def new_log_dir(comment: str = "") -> str:
    """Makes a directory that nobody else has, named as ``torch.utils.tensorboard`` names it.

    That is ``runs/<month><day>_<time>_<host><comment>``, with ``-2``, ``-3``, … behind it where there is one already.

    Raises:
        RunError: it cannot be made or written to.
    """
    name = os.path.join("runs", time.strftime("%b%d_%H-%M-%S_") + socket.gethostname() + comment)
    path, number = name, 1
    while True:
        try:
            return check_log_dir(path, new=True)
        except FileExistsError:
            number += 1
            path = f"{name}-{number}"


def path_of(log_dir: str | os.PathLike[str]) -> str:
    """``log_dir`` as an absolute path, or as a URL; nothing is made.

    Raises:
        InvalidValueError: it is neither a path nor a URL.
        RunError: TensorBoard could not read it.
    """
    if not isinstance(log_dir, (str, os.PathLike)) or not os.fspath(log_dir):
        raise InvalidValueError(
            f"log_dir={log_dir!r}", "a log directory is a path", "give a string such as 'runs/resnet'"
        )
    if "\0" in os.fsdecode(log_dir):
        raise InvalidValueError(f"log_dir={log_dir!r}", "no file system takes a name with a NUL", "leave it out")
    if isinstance(log_dir, os.PathLike) and _LOST_SLASH.match(os.fsdecode(log_dir)):
        raise InvalidValueError(f"log_dir={log_dir!r}", "no path object can hold a URL", "give the URL as a string")
    path = spelled(log_dir)
    if SCHEME not in path:
        path = os.path.abspath(os.path.expanduser(path))
    if MARK in os.path.basename(path):
        raise RunError(
            f"log_dir={log_dir!r}", f"TensorBoard takes names with {MARK!r} for event files", "choose another name"
        )
    return path


def check_log_dir(log_dir: str | os.PathLike[str], new: bool = False) -> str:
    """``log_dir`` as a directory that exists and can be written to, or as a URL.

    Raises:
        InvalidValueError: it is no path.
        RunError: the directory cannot be made or written to, or TensorBoard could not read it.
        FileExistsError: it is to be ``new``, and there is something of that name.
    """
    path = path_of(log_dir)
    if SCHEME in path:
        return path
    try:
        os.makedirs(path, exist_ok=not new)
    except OSError as error:
        if new and isinstance(error, FileExistsError):
            raise
        raise RunError(
            f"log_dir={log_dir!r}", f"the directory cannot be made ({error})", "give a path that is free and writable"
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunError(f"log_dir={log_dir!r}", "the directory is not writable", "give a path that you may write to")
    return path
