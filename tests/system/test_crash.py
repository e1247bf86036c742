"""A writer that is killed: what was flushed is there, nothing else is torn, and the next process goes on cleanly."""

from __future__ import annotations

import os
import random
import time

import pytest
from in_trouble import files, finish, run, start, steps, steps_for_tensorboard
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

FULL_SPEED = """
import mmap, struct
with open(sys.argv[2], "r+b") as file:
    notes = mmap.mmap(file.fileno(), 16)
writer, step = SummaryWriter(log_dir), 0
while True:
    for _ in range(10 ** (step % 5)):
        writer.add_scalar("loss", float(step), step)
        step += 1
        struct.pack_into("<q", notes, 0, step)
    writer.flush()
    struct.pack_into("<q", notes, 8, step)
"""


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_writer_leaves_all_that_was_flushed_and_a_whole_file(tmp_path, seed):
    notes = tmp_path / "notes"
    notes.write_bytes(bytes(16))
    writer = start(FULL_SPEED, tmp_path / "log", notes)
    while not int.from_bytes(notes.read_bytes()[:8], "little"):
        assert writer.poll() is None, writer.stderr.read()
        time.sleep(0.002)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    writer.kill()
    finish(writer, check=False)
    logged, flushed = (int.from_bytes(notes.read_bytes()[at : at + 8], "little") for at in (0, 8))
    kept = steps(tmp_path / "log")
    assert kept == list(range(len(kept))) == steps_for_tensorboard(tmp_path / "log")
    assert flushed <= len(kept) <= logged + 1


def test_what_was_logged_some_time_ago_survives_without_a_flush(tmp_path):
    code = """
    from torchboard.eventfile.scanning import scan
    def records():
        return sum(1 for name in os.listdir(log_dir) for _ in scan(os.path.join(log_dir, name)))
    writer = SummaryWriter(log_dir)
    log(1000)
    until(lambda: records() >= 1002)  # two begin a file
    log(10, 1000)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    run(code, tmp_path, check=False)
    kept = steps(tmp_path)
    assert kept == list(range(len(kept))) and len(kept) >= 1000


def test_a_process_that_dies_right_after_flush_has_lost_nothing(tmp_path):
    run("writer = SummaryWriter(log_dir); log(5000); writer.flush(); os._exit(0)", tmp_path)
    assert steps(tmp_path) == list(range(5000))


def test_the_next_process_never_writes_behind_a_torn_record(tmp_path):
    run("writer = SummaryWriter(log_dir); log(100)", tmp_path)
    (torn,) = files(tmp_path)
    os.truncate(torn, torn.stat().st_size - 7)
    size = torn.stat().st_size
    run("writer = SummaryWriter(log_dir, purge_step=50); log(100, 50)", tmp_path)
    first, second = files(tmp_path)
    assert (first, first.stat().st_size) == (torn, size)
    log = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()
    assert [point.step for point in log.Tensors("loss")] == list(range(150))


def test_purge_step_also_purges_what_a_writer_without_a_session_start_left(tmp_path):
    code = (
        "from torch.utils.tensorboard import SummaryWriter\nwriter = SummaryWriter(log_dir); log(100); writer.close()"
    )
    run(code, tmp_path)
    run("writer = SummaryWriter(log_dir, purge_step=50); log(20, 50)", tmp_path)
    log = EventAccumulator(str(tmp_path), {"tensors": 0}).Reload()
    assert [point.step for point in log.Tensors("loss")] == list(range(70))
