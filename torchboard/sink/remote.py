"""A log in a store without append (S3, Google Cloud Storage and the like), at a few times its size in uploads.

Event files grow in a local directory, the spool, as they would in any other, and what grew is copied to the store as
parts (see ``parts``). What was flushed is in the store; without a flush, what is up to ``interval`` old is in the spool
only. Where the store fails, the spool goes on growing, and the store gets all of it later. Cost: the log once more on
the local disk, and one request for each run at each flush that brought it something new.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
import time
import warnings
import weakref
from functools import partial
from typing import TYPE_CHECKING

from torchboard.errors import RunError, TorchboardWarning
from torchboard.eventfile.names import MARK
from torchboard.sink.event_file import EventFileSink
from torchboard.sink.object_store import ObjectStore
from torchboard.sink.parts import Mirror
from torchboard.values import Event
from torchboard.values.rows import Row

if TYPE_CHECKING:
    import numpy as np

    from torchboard.sink.asynchronous import AsyncSink

_PART_BYTES = 256 << 10
"""Small enough to be put again cheaply, large enough that a gigabyte of scalars is no more than 4,000 objects."""
_INTERVAL = 30.0
_PATIENCE = 20.0
_RETRY = (1 / 6, 2.0)
"""First and longest pause between tries where the store fails, in intervals."""
_REST = 20
"""How many times as long as a try took ``flush`` leaves the store alone, so that an outage costs flushes 5 % at most."""
_FIRST_RETRY = 1 / 20
"""First pause between tries in ``close``, as a share of its patience."""
_OLDEST = f"events.out.{MARK}.0"
"""Stands for the files of a run that cannot be listed: any name sorts behind it."""
_NEXT_SECOND = 1.1
"""After which a name differs from that of a file that this process made before in a run that cannot be listed."""


class RemoteSink:
    """Writes events to event files below a URL. To be wrapped by ``AsyncSink``, which calls ``tick``: uploads take time.

    Where the store fails, nothing is lost and writing goes on. The fault is raised once by ``tick``, and by every
    ``flush``; tries to upload are a sixth of the interval to two intervals apart until one succeeds. What the store still
    lacks when ``close`` gives up is named in a warning, with the spool, which is left as it is; else ``close`` removes it.

    Args:
        url: the log directory, as fsspec names it: ``s3://bucket/runs/x``.
        purge_step: says in a new file that the run starts again here.
        suffix: appended to the names of parts.
        part_bytes: the size from which a part is left behind and a new one begun.
        interval: seconds after which new events are uploaded without a flush.
        patience: seconds without one successful upload after which ``close`` gives up.

    Attributes:
        log_dir: the URL.
        spool: the local directory, below the system's directory for temporary files.

    Raises:
        RunError: fsspec or the package of this kind of store is missing, or it cannot be connected to.
    """

    def __init__(
        self,
        url: str,
        purge_step: int | None = None,
        suffix: str = "",
        *,
        part_bytes: int = _PART_BYTES,
        interval: float = _INTERVAL,
        patience: float = _PATIENCE,
    ) -> None:
        self.log_dir = url
        self._afresh = partial(
            RemoteSink, url, None, suffix, part_bytes=part_bytes, interval=interval, patience=patience
        )
        self._store = ObjectStore(url)
        self.spool = tempfile.mkdtemp(prefix="torchboard-")
        self._local = EventFileSink(self.spool, purge_step)
        self._mirror = Mirror(self.spool, self._store, suffix, part_bytes)
        self._interval = interval
        self._patience = patience
        self._begun: set[str] = set()
        self._fault = ""
        self._pause = _RETRY[0] * self._interval
        self._next = time.monotonic() + interval
        self._rest = 0.0
        self._closed = False

    def afresh(self) -> RemoteSink:
        """A sink on the same URL, with a spool of its own, for a process that shares it with this one's."""
        return self._afresh()

    def open(self, run: str) -> None:
        """Begins a run with a part that holds nothing yet, so that a store that cannot be written to shows now.

        Raises:
            RunError: the store does not take it; the sink is closed.
        """
        try:
            self._begin(run)
            self._upload()
        except OSError as error:
            self._closed = True
            self._local.close()
            shutil.rmtree(self.spool, ignore_errors=True)
            raise RunError(
                f"log_dir={self.log_dir!r}", str(error), "check the URL and the credentials, or give a local path"
            ) from error

    def write(self, event: Event | Row) -> None:
        self._begin(event.run)
        self._local.write(event)

    def write_points(self, run: str, points: np.ndarray) -> int:
        """Writes points of one run, as ``EventFileSink`` does."""
        self._begin(run)
        return self._local.write_points(run, points)

    def put(self, run: str, path: str, data: bytes) -> None:
        self._begin(run)
        self._local.put(run, path, data)

    def tick(self) -> None:
        """Uploads what is new if it is time to; to be called now and then, also when nothing is written.

        Raises:
            OSError: the store fails, and it did not before.
        """
        if time.monotonic() < self._next:
            return
        known = self._fault
        try:
            self._upload()
        except OSError:
            if not known:
                raise

    def flush(self) -> None:
        """Returns when the store has everything written before.

        Raises:
            OSError: the store fails, or did a moment ago; the local disk has everything.
        """
        try:
            if self._fault and time.monotonic() < self._rest:
                raise OSError(self._fault)
            self._upload()
        except OSError:
            self._local.flush()
            raise

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._local.close()
        if self._finish():
            shutil.rmtree(self.spool, ignore_errors=True)
            return
        files, nbytes = self._mirror.missing()
        warnings.warn(
            f"{nbytes:,} bytes of the log, in {files} file(s), did not reach the store ({self._fault}); all that this process "
            f"logged is in {self.spool!r}",
            TorchboardWarning,
            stacklevel=2,
        )

    def _finish(self) -> bool:
        """Uploads what is left, as long as parts arrive; whether all of it did."""
        first = _FIRST_RETRY * self._patience
        pause, puts, since = first, self._mirror.puts, time.monotonic()
        while True:
            try:
                self._upload()
                return True
            except OSError:
                if self._mirror.puts > puts:
                    pause, puts, since = first, self._mirror.puts, time.monotonic()
                elif time.monotonic() + pause > since + self._patience:
                    return False
            time.sleep(pause)
            pause *= 2

    def _upload(self) -> None:
        began = time.monotonic()
        try:
            self._mirror.update()
        except Exception as error:  # clients have classes of their own for what goes wrong on the way
            what = f"{type(error).__name__}: {error}"
            self._fault = self._fault or f"nothing can be put to {self.log_dir} ({what})"
            now = time.monotonic()
            self._next = now + self._pause
            self._rest = min(self._next, now + _REST * (now - began))
            self._pause = min(2 * self._pause, _RETRY[1] * self._interval)
            raise OSError(self._fault) from error
        self._fault = ""
        self._pause = _RETRY[0] * self._interval
        self._next = time.monotonic() + self._interval

    def _begin(self, run: str) -> None:
        """Makes the file of a run that is new here, with a name behind the parts that the store has of it.

        An empty file of the name of the last part lies beside it meanwhile: so the new file goes on from there.
        """
        if run in self._begun:
            return
        directory = os.path.join(self.spool, run)
        before = [os.path.join(directory, name) for name in self._last_part(run)]
        os.makedirs(directory, exist_ok=True)
        for path in before:
            with open(path, "wb"):
                pass
        try:
            self._local.open(run)
        finally:
            for path in before:
                os.unlink(path)
        self._begun.add(run)

    def _last_part(self, run: str) -> list[str]:
        """The name of the last event file that the store has of a run, or what stands for it, if there is one."""
        try:
            return sorted(self._store.event_files(run))[-1:]
        except Exception:  # it may be that nothing can be listed, and everything written
            time.sleep(_NEXT_SECOND)
            return [_OLDEST]


def close_in_time(sink: AsyncSink) -> None:
    """Has a sink that nobody closes closed at the end of the program before executors refuse work, not behind that.

    The client of a store may look up the name of a host in one, and ``atexit`` comes too late for it.
    """
    close = weakref.WeakMethod(sink._close_at_exit)
    register = getattr(threading, "_register_atexit", atexit.register)
    register(lambda: (method := close()) and method())
