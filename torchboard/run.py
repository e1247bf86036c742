"""A run: a directory, and the rules that TensorBoard wants kept in it.

One tag belongs to one kind of value, and a tag's steps go up: TensorBoard loses data, without a word, where they do not.
A second kind under a tag is refused at the call; a step that does not go up is warned of, once a tag.
"""

from __future__ import annotations

import math
import operator
import os
import socket
import threading
import time
import warnings
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torchboard.errors import ClosedError, InvalidValueError, RunError, RunInUseError, TagError, TorchboardWarning
from torchboard.eventfile.names import MARK
from torchboard.sink.asynchronous import AsyncSink
from torchboard.sink.event_file import EventFileSink
from torchboard.values import Event, Pending, Value

if TYPE_CHECKING:
    from torchboard.sink.protocol import Sink

_MAX_STEP = 2**63 - 1
_MAX_NAME_BYTES = 255


class TagBook:
    """What each tag of one run holds, how far its steps have come, and which embeddings the run lists, by name."""

    def __init__(self) -> None:
        self.embeddings: dict[str, Any] = {}
        self._tags: dict[str, list] = {}  # tag -> [plugin, last step, whether it was warned of]

    def admit(self, tag: str, plugin: str, step: int) -> None:
        """Notes one more value of a tag.

        Raises:
            TagError: the tag is not a text, is empty, or already holds another kind of value.
        """
        entry = self._tags.get(tag) if isinstance(tag, str) else None
        if entry is None:
            check_tag(tag)
            self._tags[tag] = [plugin, step, False]
            return
        if entry[0] != plugin:
            raise TagError(
                f"tag {tag!r} with a value for {plugin}",
                f"the tag already holds {entry[0]} in this run, and TensorBoard shows neither where two kinds share a tag",
                f"use another tag, such as {plugin + '/' + tag!r}",
            )
        if step <= entry[1] and not entry[2]:
            entry[2] = True
            warnings.warn(
                f"tag {tag!r} went from step {entry[1]} to {step}: TensorBoard's default loader shows only the last pass over "
                "a step; give every value a step of its own that goes up (global_step)",
                TorchboardWarning,
                stacklevel=4,
            )
        entry[1] = step


class Run:
    """Writes to one run of a log directory.

    Args:
        sink: where events go.
        name: the run, as a path relative to the sink's root; empty for the root.
    """

    def __init__(self, sink: Sink, name: str = "", live: _Live | None = None) -> None:
        self.sink = sink
        self.name = name
        self._live = live or _Live(sink)
        self._closed = False

    @property
    def root(self) -> Run:
        """The run of the log directory itself, on the same sink."""
        return Run(self.sink, "", self._live)

    @property
    def log_dir(self) -> str | None:
        """The root directory, or None for a sink that has none."""
        return self._live.log_dir

    @property
    def embeddings(self) -> dict[str, Any]:
        """Name -> what the projector's list says of each embedding, for all who write to the run."""
        return self._live.book(self.name).embeddings

    def sub(self, name: str) -> Run:
        """The run ``name`` below this one, on the same sink.

        Raises:
            TagError: the name would leave the directory, or TensorBoard could not read it.
        """
        check_run_name(name)
        return Run(self.sink, f"{self.name}/{name}" if self.name else name, self._live)

    def write(
        self,
        step: int,
        pairs: tuple[tuple[str, Value], ...],
        *,
        wall_time: float | None = None,
        pending: tuple[Pending, ...] = (),
        droppable: bool = False,
    ) -> None:
        """Writes values at a step, in one event; nothing is written where one of them is refused.

        Raises:
            TagError: a tag is empty or already holds another kind of value.
            InvalidValueError: the step is not a whole number of 64 bits, or the time is not finite.
            ClosedError: the run was closed.
        """
        self._check_open()
        step = check_step(step)
        wall_time = time.time() if wall_time is None else _check_wall_time(wall_time)
        book = self._live.book(self.name)
        for tag, value in pairs:
            book.admit(tag, value.plugin, step)
        for item in pending:
            for tag, plugin in item.plugins.items():
                book.admit(tag, plugin, step)
        self.sink.write(Event(step, wall_time, tuple(pairs), self.name, tuple(pending), droppable))

    def put(self, path: str, data: bytes) -> None:
        """Writes a file below the run's directory, whole or not at all, in order with the values.

        Raises:
            TagError: the path would leave the directory, or TensorBoard would take it for something else.
            ClosedError: the run was closed.
        """
        self._check_open()
        check_run_name(path, "file name")
        self.sink.put(self.name, path, data)

    def flush(self) -> None:
        """Returns when everything written before is on disk."""
        self.sink.flush()

    def close(self) -> None:
        """Lets go of the log directory; the last of its users closes the sink. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._live.release()

    def _check_open(self) -> None:
        if self._closed or self._live.closed:
            raise ClosedError(f"a write to run {self.name!r}", "the run was closed", "write before close()")


@dataclass
class _Live:
    """A sink in use, and what is known of its runs: shared by all who write to one log directory in this process."""

    sink: Sink
    log_dir: str | None = None
    books: dict[str, TagBook] = field(default_factory=dict)
    users: int = 1
    exclusive: bool = False
    closed: bool = False

    def book(self, name: str) -> TagBook:
        """The book of a run: one for all who write to its directory now, from whatever root they came to it."""
        if name not in self.books:
            new = TagBook()
            if self.log_dir is not None:
                new = _books.setdefault(os.path.realpath(os.path.join(self.log_dir, name)), new)
            self.books[name] = new
        return self.books[name]

    def release(self) -> None:
        with _live_lock:
            self.users -= 1
            if self.users > 0 or self.closed:
                return
            self.closed = True
            self.books.clear()
            if self.log_dir is not None:
                _live.pop(os.path.realpath(self.log_dir), None)
        self.sink.close()


_books: weakref.WeakValueDictionary[str, TagBook] = weakref.WeakValueDictionary()
_live: dict[str, _Live] = {}
_live_lock = threading.Lock()


def open_run(
    log_dir: str | os.PathLike[str] | None = None,
    name: str = "",
    *,
    comment: str = "",
    purge_step: int | None = None,
    suffix: str = "",
    exclusive: bool = False,
) -> Run:
    """The run ``name`` of a log directory, made if it does not exist, behind an asynchronous event file sink.

    Writers of one process that open one directory share one sink, and so one file a run.

    Args:
        log_dir: the directory; None makes one below ``runs/`` named after the time and this machine.
        name: the run, as a path below the directory; empty for the directory itself.
        comment: appended to the name that None makes.
        purge_step: where the run starts again, when the directory already holds some of it.
        suffix: appended to the names of event files.
        exclusive: refuse a directory that another exclusive user of this process has open.

    Raises:
        InvalidValueError: ``log_dir`` is not a path.
        RunError: the directory cannot be made or written to, or TensorBoard could not read it.
        RunInUseError: another process, or another exclusive user, is writing there.
    """
    path = check_log_dir(default_log_dir(comment) if log_dir is None else log_dir)
    key = os.path.realpath(path)
    with _live_lock:
        live = _live.get(key)
        if live is None:
            sink = EventFileSink(path, purge_step, suffix)
            _open_now(sink, name)
            live = _live[key] = _Live(AsyncSink(sink), path, users=0)
        elif exclusive and live.exclusive:
            raise RunInUseError(
                f"log directory {path!r}",
                "another monitor of this process is writing in it, and one would hide the other's curves",
                "close that monitor first, or give this one a directory of its own",
            )
        live.users += 1
        live.exclusive |= exclusive
    return Run(live.sink, name, live)


def _open_now(sink: EventFileSink, name: str) -> None:
    """Opens the file of a run, so that a directory that cannot be used shows at the call."""
    try:
        sink.open(name)
    except RunInUseError:
        raise
    except OSError as error:
        raise RunError(
            f"log_dir={sink.log_dir!r}",
            f"no file can be made in it ({error})",
            "give a path with room that you may write to",
        ) from error


def default_log_dir(comment: str = "") -> str:
    """``runs/<month><day>_<time>_<host><comment>``, as ``torch.utils.tensorboard`` names it."""
    return os.path.join("runs", time.strftime("%b%d_%H-%M-%S_") + socket.gethostname() + comment)


def check_log_dir(log_dir: str | os.PathLike[str]) -> str:
    """``log_dir`` as a directory that exists and can be written to."""
    if not isinstance(log_dir, (str, os.PathLike)) or not os.fspath(log_dir):
        raise InvalidValueError(
            f"log_dir={log_dir!r}", "a log directory is a path", "give a string such as 'runs/resnet'"
        )
    path = os.path.abspath(os.path.expanduser(os.fspath(log_dir)))
    if "://" in os.fspath(log_dir):
        raise InvalidValueError(
            f"log_dir={log_dir!r}", "only local directories are written", "give a local path and copy it after"
        )
    if MARK in os.path.basename(path):
        raise RunError(
            f"log_dir={log_dir!r}", f"TensorBoard takes names with {MARK!r} for event files", "choose another name"
        )
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"log_dir={log_dir!r}", f"the directory cannot be made ({error})", "give a path that is free and writable"
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunError(f"log_dir={log_dir!r}", "the directory is not writable", "give a path that you may write to")
    return path


def check_run_name(name: str, what: str = "run name") -> None:
    """Refuses the name of a run, or of a file in one, that would leave its directory or hide it from TensorBoard."""
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
        raise TagError(
            f"{what} {name!r}",
            "it does not lead to a place below the log directory",
            "use a name such as 'validation'",
        )
    if any(MARK in part for part in parts):
        raise TagError(
            f"{what} {name!r}", f"TensorBoard takes names with {MARK!r} for event files", "choose another name"
        )
    if any(len(part.encode("utf-8", "replace")) > _MAX_NAME_BYTES for part in parts):
        raise TagError(f"{what} {name[:40]!r}…", "no file system takes a name of that length", "choose a shorter name")


def check_step(step: object) -> int:
    """A step as an int.

    Raises:
        InvalidValueError: it is not a whole number, or does not fit 64 bits.
    """
    try:
        number = operator.index(step)  # type: ignore[arg-type]
    except (TypeError, RuntimeError, ValueError):
        raise InvalidValueError(f"step {step!r}", "a step is a whole number", "give global_step an int") from None
    if not -_MAX_STEP - 1 <= number <= _MAX_STEP:
        raise InvalidValueError(f"step {number}", "it does not fit 64 bits", "count steps from 0")
    return number


def _check_wall_time(wall_time: float) -> float:
    number = float(wall_time)
    if not math.isfinite(number):
        raise InvalidValueError(
            f"walltime {wall_time!r}", "TensorBoard stops reading a file at a time that is not finite", "leave it out"
        )
    return number


def check_tag(tag: object) -> None:
    """Refuses what is no tag.

    Raises:
        TagError: it is not a text, is empty, or is not valid Unicode.
    """
    if not isinstance(tag, str) or not tag:
        raise TagError(f"tag {tag!r}", "a tag is a text with at least one letter", "give a name such as 'loss/train'")
    try:
        tag.encode()
    except UnicodeEncodeError:
        raise TagError(
            f"tag {tag!r}", "it holds half of a surrogate pair, which no file can", "use valid Unicode"
        ) from None
