"""One writer in one kind of trouble: the process that ``faults.py`` starts for each cell of its table.

    python fault_child.py ROW WRITER LOG_DIR NOTES

What the writer took, and what it raised, stands in the shared memory of ``NOTES``, so that it outlives any death.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

FIELDS = ("ready", "accepted", "raised", "longest_us", "growth_kib", "ended", "second", "go")
"""What a child notes, each an int64."""
TEXT_AT = 8 * len(FIELDS)
SIZE = 4096
N = 300
"""How many scalars a row logs before the trouble, and again after it."""


class Notes:
    """Counters in a file that two processes map."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)

    def __getitem__(self, field: str) -> int:
        return struct.unpack_from("<q", self._map, 8 * FIELDS.index(field))[0]

    def __setitem__(self, field: str, value: int) -> None:
        struct.pack_into("<q", self._map, 8 * FIELDS.index(field), value)

    @property
    def text(self) -> str:
        """What was raised first."""
        return self._map[TEXT_AT:SIZE].rstrip(b"\0").decode(errors="replace")

    @text.setter
    def text(self, text: str) -> None:
        data = text.encode()[: SIZE - TEXT_AT]
        self._map[TEXT_AT : TEXT_AT + len(data)] = data


# ---- the writers, all with the same verbs


class Peer:
    """A writer whose methods are called as those of ``torch.utils.tensorboard.SummaryWriter``."""

    def __init__(self, log_dir: str, **options: Any) -> None:
        self.writer = self.make(log_dir, **options)

    def make(self, log_dir: str, **options: Any) -> Any:
        """The writer itself."""
        raise NotImplementedError

    def add(self, tag: str, value: float, step: int) -> None:
        """One scalar."""
        self.writer.add_scalar(tag, value, step)

    def image(self, tag: str, pixels: Any, step: int) -> None:
        """One picture, uint8 [height, width, 3]."""
        self.writer.add_image(tag, pixels, step, dataformats="HWC")

    def flush(self) -> None:
        """All that was added is in the file."""
        self.writer.flush()

    def close(self) -> None:
        """The end."""
        self.writer.close()


class Ours(Peer):
    """torchboard."""

    def make(self, log_dir: str, **options: Any) -> Any:
        from torchboard import SummaryWriter

        return SummaryWriter(log_dir, **options)


class Torch(Peer):
    """torch.utils.tensorboard."""

    def make(self, log_dir: str, **options: Any) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(log_dir, **options)


class TensorboardX(Peer):
    """tensorboardX."""

    def make(self, log_dir: str, **options: Any) -> Any:
        from tensorboardX import SummaryWriter

        return SummaryWriter(log_dir, **options)


class TF2(Peer):
    """tf.summary."""

    def make(self, log_dir: str, flush_secs: float = 120) -> Any:
        import tensorflow as tf

        self._summary = tf.summary
        return tf.summary.create_file_writer(log_dir, flush_millis=int(1000 * flush_secs))

    def add(self, tag: str, value: float, step: int) -> None:
        with self.writer.as_default():
            self._summary.scalar(tag, value, step)

    def image(self, tag: str, pixels: Any, step: int) -> None:
        with self.writer.as_default():
            self._summary.image(tag, pixels[None], step)


class TF1(Peer):
    """tf.compat.v1.summary.FileWriter: a Python thread before TensorFlow's C++ writer."""

    def make(self, log_dir: str, **options: Any) -> Any:
        import tensorflow as tf

        self._v1 = tf.compat.v1
        with tf.Graph().as_default():
            return self._v1.summary.FileWriter(log_dir, **options)

    def add(self, tag: str, value: float, step: int) -> None:
        self.writer.add_summary(self._v1.Summary(value=[self._v1.Summary.Value(tag=tag, simple_value=value)]), step)

    def image(self, tag: str, pixels: Any, step: int) -> None:
        import io

        import PIL.Image

        png = io.BytesIO()
        PIL.Image.fromarray(pixels).save(png, "png")
        image = self._v1.Summary.Image(height=512, width=512, colorspace=3, encoded_image_string=png.getvalue())
        self.writer.add_summary(self._v1.Summary(value=[self._v1.Summary.Value(tag=tag, image=image)]), step)


WRITERS: dict[str, type[Peer]] = {
    "torchboard": Ours,
    "torch": Torch,
    "tensorboardX": TensorboardX,
    "tf.summary": TF2,
    "tf v1 FileWriter": TF1,
}


class Trial:
    """A writer, and the account of what it took."""

    def __init__(self, kind: str, log_dir: str, notes: Notes) -> None:
        self.kind, self.log_dir, self.notes = kind, log_dir, notes
        self.peer: Peer

    def start(self, **options: Any) -> Trial:
        """Makes the writer."""
        self.peer = WRITERS[self.kind](self.log_dir, **options)
        self.notes["ready"] = 1
        return self

    def add(self, count: int = N, first: int = 0, tag: str = "loss", pause: float = 0.0) -> None:
        """Logs ``count`` scalars, and notes each that was taken."""
        for step in range(first, first + count):
            began = time.perf_counter()
            if self.attempt(lambda step=step: self.peer.add(tag, float(step), step)):
                self.notes["accepted"] += 1
            self.notes["longest_us"] = max(self.notes["longest_us"], int(1e6 * (time.perf_counter() - began)))
            if pause:
                time.sleep(pause)

    def attempt(self, action: Callable[[], None]) -> bool:
        """Whether it worked; what it raised is noted."""
        try:
            action()
        except Exception as error:
            self.notes["raised"] += 1
            if not self.notes.text:
                self.notes.text = f"{type(error).__name__}: {error}"
            return False
        return True

    def finish(self) -> None:
        """Flush and close, as at the end of a careful script."""
        self.attempt(self.peer.flush)
        self.attempt(self.peer.close)
        self.notes["ended"] = 1


# ---- the rows


def falls_off_the_end(trial: Trial) -> None:
    """The script ends without ``close``."""
    trial.start().add()


def raises_an_exception(trial: Trial) -> None:
    """The script ends by an exception."""
    trial.start().add()
    raise RuntimeError("diverged")


def calls_sys_exit(trial: Trial) -> None:
    """The script ends by ``sys.exit``."""
    trial.start().add()
    sys.exit(3)


def gets_sigint(trial: Trial) -> None:
    """Ctrl-C."""
    trial.start().add()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)


def gets_sigterm(trial: Trial) -> None:
    """A scheduler's SIGTERM."""
    trial.start().add()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


def leaves_by_os_exit(trial: Trial) -> None:
    """``os._exit``, at once."""
    trial.start().add()
    os._exit(0)


def flushes_and_leaves(trial: Trial) -> None:
    """``flush``, then ``os._exit``."""
    trial.start().add()
    trial.peer.flush()
    os._exit(0)


def adds_after_close(trial: Trial) -> None:
    """Ten scalars after ``close``, then the end of the script."""
    trial.start().add()
    trial.peer.close()
    trial.add(10, N)


def child_logs(trial: Trial) -> None:
    """A forked child logs, and the parent goes on."""
    trial.start().add()
    child = os.fork()
    if child == 0:
        trial.add(20, tag="child")
        sys.exit(0)
    os.waitpid(child, 0)
    trial.add(N, N)
    trial.finish()


def forks_while_busy(trial: Trial) -> None:
    """Children are forked and leave in order while another thread logs."""
    trial.start()
    busy = threading.Thread(target=trial.add, args=(2000,))
    busy.start()
    for _ in range(3):
        child = os.fork()
        if child == 0:
            sys.exit(0)
        os.waitpid(child, 0)
    busy.join()
    trial.finish()


class _Logging:
    """A data set that logs each item that is read."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def __len__(self) -> int:
        return 64

    def __getitem__(self, item: int) -> int:
        self.trial.add(1, item, tag="item")
        return item


def data_loader_workers_log(trial: Trial) -> None:
    """Two workers of a DataLoader log."""
    from torch.utils.data import DataLoader

    trial.start().add(20)
    for _ in DataLoader(_Logging(trial), batch_size=4, num_workers=2):
        trial.add(1, 20 + trial.notes["accepted"], "batch")
    trial.finish()


def _log_elsewhere(peer: Peer, notes_path: str) -> None:
    trial = Trial("", "", Notes(notes_path))
    trial.peer = peer
    trial.add(20, tag="child")


def travels_to_a_spawned_process(trial: Trial) -> None:
    """The writer is an argument of a spawned process."""
    trial.start().add(20)
    process = multiprocessing.get_context("spawn").Process(target=_log_elsewhere, args=(trial.peer, sys.argv[4]))
    trial.attempt(process.start)
    if process.pid is not None:
        process.join()
    trial.finish()


def disk_full(trial: Trial) -> None:
    """The file cannot grow beyond 64 KiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    trial.start().add(3000)
    trial.finish()


def disk_full_for_a_while(trial: Trial) -> None:
    """The disk is full for half a second, then has room again."""
    trial.start().add()
    trial.attempt(trial.peer.flush)
    full = 500 + max(os.path.getsize(os.path.join(trial.log_dir, name)) for name in os.listdir(trial.log_dir))
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
    trial.add(N, N)
    time.sleep(0.5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    trial.add(N, 2 * N)
    trial.finish()


def directory_deleted(trial: Trial) -> None:
    """The log directory is deleted; what is logged half a second later is counted."""
    trial.start().add(20)
    trial.attempt(trial.peer.flush)
    shutil.rmtree(trial.log_dir)
    trial.add(20, 20)
    time.sleep(0.5)
    trial.notes["accepted"] = 0
    trial.add(N, N)
    trial.finish()


def permission_lost(trial: Trial) -> None:
    """File and directory lose all permissions, for a user who is not root."""
    trial.start().add(20)
    trial.attempt(trial.peer.flush)
    for name in os.listdir(trial.log_dir):
        os.chmod(os.path.join(trial.log_dir, name), 0)
    os.chmod(trial.log_dir, 0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    trial.add(N, 20)
    trial.finish()


def two_processes(trial: Trial) -> None:
    """Two processes begin to write in one directory within the same second; the second may be refused."""
    other = subprocess.Popen([sys.executable, __file__, "second_process", *sys.argv[2:]])
    _import(trial)
    while not trial.notes["second"]:
        time.sleep(0.01)
    trial.notes["go"] = int(time.time()) + 2
    _at(trial.notes["go"] + 0.2)
    trial.start().add()
    other.wait(15)
    trial.add(N, N)
    trial.finish()


def second_process(trial: Trial) -> None:
    """The second of two processes."""
    _import(trial)
    trial.notes["second"] = 1
    while not trial.notes["go"]:
        time.sleep(0.01)
    _at(trial.notes["go"] + 0.4)
    if trial.attempt(trial.start):
        trial.add(N, tag="second")
        trial.finish()


def _import(trial: Trial) -> None:
    """Has the writer's package imported."""
    with tempfile.TemporaryDirectory() as directory:
        WRITERS[trial.kind](directory).close()


def _at(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


def two_writers(trial: Trial) -> None:
    """Two writers of one process write in one directory at the same time."""
    second = Trial(trial.kind, trial.log_dir, trial.notes)
    trial.start()
    second.start()
    for step in range(N):
        trial.add(1, step)
        second.add(1, step, "second")
    trial.finish()
    second.finish()


def slow_disk(trial: Trial) -> None:
    """Every write takes 300 ms; 60 scalars at 100 a second."""
    trial.start().add(60, pause=0.01)
    trial.finish()


def clock_goes_back(trial: Trial) -> None:
    """The clock jumps back an hour; two seconds later, twice the flush interval, the process is gone."""
    trial.start(**({} if trial.kind == "torchboard" else {"flush_secs": 1})).add(60)
    clock = time.time
    time.time = lambda: clock() - 3600
    trial.add(60, 60)
    time.sleep(2)
    trial.add(1, 120)
    time.sleep(0.5)
    os._exit(0)


def queue_bound(trial: Trial) -> None:
    """Every write takes 300 ms, and pictures of 768 KiB come as fast as they are taken, for 6 s or 500 of them."""
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    trial.start()
    trial.peer.image("picture", pixels, 0)
    before = _resident()
    end = time.monotonic() + 6
    for step in range(1, 500):
        began = time.perf_counter()
        trial.attempt(lambda step=step: trial.peer.image("picture", pixels, step))
        trial.notes["accepted"] += 1
        trial.notes["longest_us"] = max(trial.notes["longest_us"], int(1e6 * (time.perf_counter() - began)))
        if time.monotonic() > end:
            break
    trial.notes["growth_kib"] = (_resident() - before) // 1024
    os._exit(0)


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


ROWS: dict[str, Callable[[Trial], None]] = {
    row.__name__: row
    for row in (
        falls_off_the_end,
        raises_an_exception,
        calls_sys_exit,
        gets_sigint,
        gets_sigterm,
        leaves_by_os_exit,
        flushes_and_leaves,
        adds_after_close,
        child_logs,
        forks_while_busy,
        data_loader_workers_log,
        travels_to_a_spawned_process,
        disk_full,
        disk_full_for_a_while,
        directory_deleted,
        permission_lost,
        two_processes,
        two_writers,
        slow_disk,
        clock_goes_back,
        queue_bound,
        second_process,
    )
}

if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    row, kind, log_dir, notes = sys.argv[1:]
    ROWS[row](Trial(kind, log_dir, Notes(notes)))
