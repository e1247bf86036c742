"""What this process has open: one sink for each log directory, shared by all who write to it."""

from __future__ import annotations

import gc
import os
import sys
import traceback
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torchboard.errors import ClosedError, InvalidValueError, RunError, RunInUseError
from torchboard.log_dir import SCHEME, place
from torchboard.sink.asynchronous import AsyncSink
from torchboard.sink.branch import Branch
from torchboard.sink.event_file import EventFileSink
from torchboard.sink.forks import Lock
from torchboard.sink.null import NullSink
from torchboard.sink.remote import RemoteSink, close_in_time
from torchboard.tags import TagBook

if TYPE_CHECKING:
    from torchboard.sink.protocol import Sink


@dataclass
class Live:
    """A sink in use, and what is known of its runs: shared by all who write to one log directory in this process."""

    sink: Sink
    log_dir: str | None = None
    options: tuple[str, str, int] = ("", "warn", 0)
    """The suffix of its event files, what a failing file system does, and which process writes to the runs themselves."""
    books: dict[str, TagBook] = field(default_factory=dict)
    users: int = 1
    exclusive: bool = False
    closed: bool = False

    def book(self, name: str) -> TagBook:
        """The book of a run: one for all who write to its directory now, from whatever root they came to it."""
        if name not in self.books:
            new = TagBook()
            if self.log_dir is not None:
                new = _books.setdefault(place(os.path.join(self.log_dir, name)), new)
            self.books[name] = new
        return self.books[name]

    def joined(self) -> Live:
        """What is open in the directory now, with one user more: this, or, where it was closed, what is opened again."""
        with _lock:
            live = self
            if self.closed and self.log_dir is not None:
                key = place(self.log_dir)
                live = _open.get(key) or _open.setdefault(key, _opened_again(self.log_dir, self.options))
            live.users += 1
        return live

    def release(self, users: int = 1) -> None:
        """Lets so many users go; with the last one the sink is closed."""
        with _lock:
            self.users -= users
            last = self.users <= 0 and not self.closed
            if last:
                self.closed = True
                self.books.clear()
                if self.log_dir is not None:
                    _open.pop(place(self.log_dir), None)
        if last:
            self.sink.close()
        elif not self.closed:
            with suppress(ClosedError):  # by the last one, in another thread, just now
                self.sink.flush()


_books: weakref.WeakValueDictionary[str, TagBook] = weakref.WeakValueDictionary()
_open: dict[str, Live] = {}
_lock = Lock()


def open_live(path: str, name: str, purge_step: int | None, suffix: str, exclusive: bool, on_error: str) -> Live:
    """The sink of a directory, for one user more; arguments and errors as for ``open_run``."""
    key = place(path)
    with _lock:
        live = _open.get(key)
        if live is None:
            sink = (RemoteSink if SCHEME in path else EventFileSink)(path, purge_step, suffix)
            _open_now(sink, name)
            options = (suffix, on_error, os.getpid())
            live = _open[key] = Live(AsyncSink(sink, on_error=on_error), path, options, users=0)
            if isinstance(sink, RemoteSink):
                close_in_time(live.sink)
        elif exclusive and live.exclusive:
            raise RunInUseError(
                f"log directory {path!r}",
                "another monitor of this process is writing in it, and one would hide the other's curves",
                "close that monitor first, or give this one a directory of its own",
            )
        elif on_error not in ("warn", live.options[1]):
            raise InvalidValueError(
                f"on_error={on_error!r}",
                "a writer of this process has the directory open with another policy",
                "give both the same",
            )
        live.users += 1
        live.exclusive |= exclusive
    return live


def collect_forgotten(path: str) -> None:
    """Has a monitor of this process that nobody uses any more give the directory back: that of a cell which was interrupted.

    It lies in a cycle with the frames of the traceback, and a notebook keeps the exception that it showed last. Of that
    one the frames lose their variables, for a post-mortem debugger too.
    """
    live = _open.get(place(path))
    if live is not None and live.exclusive:
        del live
        shown = getattr(sys, "last_traceback", None)
        traceback.clear_frames(shown)
        for frame, _ in traceback.walk_tb(shown):
            frame.f_locals.keys()  # until Python 3.12 frames keep what was read of them, and this reads that they are empty
        gc.collect()


def live_in(log_dir: str, options: tuple[str, str, int]) -> Live:
    """What is open in a directory; where nothing is, one that is closed, for whoever comes to join it."""
    with _lock:
        return _open.get(place(log_dir)) or Live(NullSink(), log_dir, options, users=0, closed=True)


def _opened_again(log_dir: str, options: tuple[str, str, int]) -> Live:
    """For a run that was copied or pickled; in another process than its own it branches off from what lies there."""
    suffix, on_error, home = options
    sink = (RemoteSink if SCHEME in log_dir else EventFileSink)(log_dir, None, suffix)
    there = sink if home == os.getpid() else Branch(sink, f"spawn-{os.getpid()}")
    return Live(AsyncSink(there, on_error=on_error), log_dir, options, users=0)


def _open_now(sink: EventFileSink | RemoteSink, name: str) -> None:
    """Opens the file of a run, so that a directory that cannot be used shows at the call."""
    try:
        sink.open(name)
    except RunError:
        raise
    except OSError as error:
        raise RunError(
            f"log_dir={sink.log_dir!r}",
            f"no file can be made in it ({error})",
            "give a path with room that you may write to",
        ) from error
