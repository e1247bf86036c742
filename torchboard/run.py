"""A run: a directory, what its names may be, and who writes to it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torchboard.errors import ClosedError, InvalidValueError, TagError
from torchboard.eventfile.names import MARK
from torchboard.live import Live, live_in, open_live
from torchboard.log_dir import check_log_dir, new_log_dir
from torchboard.sink.lane import Lane
from torchboard.tags import Curve, check_unicode
from torchboard.values import Event, Pending, Value
from torchboard.values.projector import CONFIG, Embedding, config
from torchboard.values.rows import Row

if TYPE_CHECKING:
    import os

    from torchboard.sink.protocol import Sink

MAX_STEP = 2**63 - 1
_MAX_NAME_BYTES = 255
_NO_LANE = Lane(deque())


class Run:
    """Writes to one run of a log directory.

    Args:
        sink: where events go.
        name: the run, as a path relative to the sink's root; empty for the root.
        live: what is known of the sink and of who uses it.
        guest: a copy, which is no user of the sink and keeps no directory open, until it is written to.
    """

    def __init__(self, sink: Sink, name: str = "", live: Live | None = None, guest: bool = False) -> None:
        self.sink = sink
        self.name = name
        self._live = live or Live(sink)
        self._guest = guest
        self._closed = False

    @property
    def root(self) -> Run:
        """The run of the log directory itself, on the same sink."""
        self._settle()
        return Run(self.sink, "", self._live)

    @property
    def log_dir(self) -> str | None:
        """The root directory, or None for a sink that has none."""
        return self._live.log_dir

    @property
    def lane(self) -> Lane:
        """The short way for points into the sink's queue; one that is always closed where the sink has none."""
        return getattr(self.sink, "lane", _NO_LANE)

    @property
    def curves(self) -> dict[str, Curve]:
        """The scalar tags that points may be logged under, for all who write to the run."""
        return self._live.book(self.name).curves

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
        self._settle()
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
        step, wall_time = self._check(step, wall_time)
        tags = [(tag, value.plugin) for tag, value in pairs]
        tags += [tag for item in pending for tag in item.plugins.items()]
        self._live.book(self.name).admit(tags, step)
        self.sink.write(Event(step, wall_time, tuple(pairs), self.name, tuple(pending), droppable))

    def write_row(
        self, step: int, tags: tuple[str, ...], numbers: Sequence[float], wall_time: float | None = None
    ) -> None:
        """Writes plain scalars at a step, in one event; it costs less than ``write``.

        Raises:
            TagError, InvalidValueError, ClosedError: as ``write``.
        """
        step, wall_time = self._check(step, wall_time)
        self._live.book(self.name).admit_row(tags, step)
        if tags:
            self.sink.write(Row(step, wall_time, self.name, tags, tuple(numbers)))

    def put(self, path: str, data: bytes) -> None:
        """Writes a file below the run's directory, whole or not at all, in order with the values.

        Raises:
            TagError: the path would leave the directory, or TensorBoard would take it for something else.
            ClosedError: the run was closed.
        """
        self._check_open()
        check_run_name(path, "file name")
        self.sink.put(self.name, path, data)

    def put_embeddings(self, embeddings: Iterable[Embedding]) -> None:
        """Writes the files of embeddings, and then the projector's list of all that the run has.

        Raises:
            ClosedError: the run was closed.
        """
        for embedding in embeddings:
            for path, data in embedding.files():
                self.put(path, data)
            self.embeddings[embedding.name] = embedding.entry()
        if self.embeddings:
            self.put(CONFIG, config(self.embeddings.values()))

    def flush(self) -> None:
        """Returns when everything written before is on disk."""
        if not (self._guest and self._live.closed):
            self.sink.flush()

    def close(self) -> None:
        """Lets go of the log directory; the last of its users closes the sink. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._live.release(users=0 if self._guest else 1)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.log_dir is None:
            return Run, (self.sink, self.name)
        return _copied, (self.log_dir, self.name, *self._live.options)

    def _check(self, step: int, wall_time: float | None) -> tuple[int, float]:
        """Where and when something is written, now by default; the run is open."""
        self._check_open()
        return check_step(step), time.time() if wall_time is None else _check_wall_time(wall_time)

    def _settle(self) -> None:
        """Makes a guest, if it was not closed, a user of what is open in its directory now."""
        if self._guest and not self._closed:
            self._live = self._live.joined()
            self.sink, self._guest = self._live.sink, False

    def _check_open(self) -> None:
        if self._guest:
            self._settle()
        if self._closed or self._live.closed:
            raise ClosedError(f"a write to run {self.name!r}", "the run was closed", "write before close()")


def open_run(
    log_dir: str | os.PathLike[str] | None = None,
    name: str = "",
    *,
    purge_step: int | None = None,
    suffix: str = "",
    exclusive: bool = False,
    on_error: str = "warn",
) -> Run:
    """The run ``name`` of a log directory, made if it does not exist, behind an asynchronous event file sink.

    Writers of one process that open one directory share one sink, and so one file a run.

    Args:
        log_dir: the directory, or the URL of one (``s3://bucket/runs/x``); None makes a new one below ``runs/`` named
            after the time and this machine.
        name: the run, as a path below the directory; empty for the directory itself.
        purge_step: where the run starts again, when the directory already holds some of it.
        suffix: appended to the names of event files.
        exclusive: refuse a directory that another exclusive user of this process has open.
        on_error: what a failing file system does, as for ``AsyncSink``.

    Raises:
        InvalidValueError: ``log_dir`` is not a path, or ``on_error`` not a policy, or not that of who has it open.
        RunError: the directory cannot be made or written to, or TensorBoard could not read it.
        RunInUseError: another process, or another exclusive user, is writing there.
    """
    path = new_log_dir() if log_dir is None else check_log_dir(log_dir)
    live = open_live(path, name, purge_step, suffix, exclusive, on_error)
    return Run(live.sink, name, live)


def _copied(log_dir: str, name: str, suffix: str, on_error: str, home: int) -> Run:
    """A run that was copied or pickled: itself, in the process that it comes from; in another one a run of that process's
    own, ``<name>/spawn-<pid>``, made when something is written to it."""
    live = live_in(log_dir, (suffix, on_error, home))
    return Run(live.sink, name, live, guest=True)


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
    check_unicode(name, what)
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        raise TagError(f"{what} {name[:40]!r}…", "no file system takes a name of that length", "choose a shorter name")


def check_step(step: object) -> int:
    """A step as an int.

    Raises:
        InvalidValueError: it is not a whole number, or does not fit 64 bits.
    """
    try:
        number = int(step)  # type: ignore[call-overload]
        whole = bool(number == step)
    except (TypeError, RuntimeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise InvalidValueError(f"step {step!r}", "a step is a whole number", "give global_step an int")
    if not -MAX_STEP - 1 <= number <= MAX_STEP:
        raise InvalidValueError(f"step {number}", "it does not fit 64 bits", "count steps from 0")
    return number


def _check_wall_time(wall_time: float) -> float:
    try:
        number = math.nan if isinstance(wall_time, str) else float(wall_time)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidValueError(
            f"walltime {wall_time!r}",
            "it is no finite number of seconds, and TensorBoard stops reading a file at a time that is none",
            "leave it out",
        )
    return number
