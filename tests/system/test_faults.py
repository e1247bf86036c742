"""File systems in trouble: training goes on, memory stays bounded, the user is told once, and what can be kept is kept."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from in_trouble import files, finish, last, run, start, steps, steps_for_tensorboard

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and permissions of POSIX")

FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))\n"
ROOM = "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"


def test_a_full_disk_keeps_what_fits_and_the_loss_is_told(tmp_path):
    code = FULL.format(size=65536) + "writer = SummaryWriter(log_dir); log(3000); writer.flush(); writer.close()"
    result = run(code, tmp_path)
    kept = steps(tmp_path)
    assert kept == list(range(len(kept))) == steps_for_tensorboard(tmp_path)
    assert len(kept) > 1000
    assert result.stderr.count("Warning: cannot write the log") == 1
    assert f"{3000 - len(kept)} events could not be written and are lost" in result.stderr


def test_nothing_is_lost_where_the_disk_has_room_again(tmp_path):
    code = f"""
    writer = SummaryWriter(log_dir)
    log(300); writer.flush()
    {FULL.format(size=20_000)}
    log(300, 300); writer.flush(); log(300, 600)
    time.sleep(0.2)
    {ROOM}
    log(300, 900)
    writer.close()
    """
    result = run(code, tmp_path)
    assert steps(tmp_path) == list(range(1200)) == steps_for_tensorboard(tmp_path)
    assert result.stderr.count("Warning: ") == 1 and "cannot write the log" in result.stderr


def test_a_disk_that_stays_full_bounds_memory_and_the_count_of_the_lost_is_a_curve(tmp_path):
    code = f"""
    from torchboard.sink.asynchronous import AsyncSink
    from torchboard.sink.event_file import EventFileSink
    from torchboard.values import Event, Scalar
    sink = AsyncSink(EventFileSink(log_dir), max_bytes=100_000)
    write = lambda step: sink.write(Event(step, 1.0, (("loss", Scalar(float(step))),)))
    write(0); sink.flush()
    {FULL.format(size=200)}
    for step in range(1, 5000): write(step)
    dropped = sink.dropped
    assert dropped > 3000, dropped
    {ROOM}
    step = 5000
    while not grown_to(20_000): write(step); step += 1; time.sleep(0.01)
    write(step)
    sink.close()
    print(sink.dropped, step + 1)
    """
    result = run(code, tmp_path)
    dropped, count = map(int, result.stdout.split())
    kept = steps(tmp_path)
    assert kept == sorted(set(kept)) and len(kept) + dropped == count
    assert last(tmp_path, "monitor/dropped") == dropped
    assert f"{dropped} events" in result.stderr


def test_the_error_is_raised_at_the_next_call_where_that_is_asked_for(tmp_path):
    code = f"""
    from torchboard.errors import SinkError
    writer = SummaryWriter(log_dir, on_error="raise")
    log(10); writer.flush()
    {FULL.format(size=900)}
    try:
        log(2000, 10); writer.flush()
    except SinkError as error:
        print(type(error.__cause__).__name__)
    {ROOM}
    while True:  # what was in the queue may have failed too, before there was room
        try:
            writer.flush()
            break
        except SinkError:
            pass
    log(10, 3000); writer.close()
    """
    result = run(code, tmp_path)
    assert result.stdout == "OSError\n"
    kept = steps(tmp_path)
    assert kept[:10] == list(range(10)) and kept[-10:] == list(range(3000, 3010)) and kept == sorted(set(kept))


def test_a_deleted_directory_is_made_again(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    log(20); writer.flush()
    shutil.rmtree(log_dir)
    log(20, 20); writer.flush()
    log(300, 40); writer.close()
    """
    result = run(code, tmp_path / "log")
    assert steps(tmp_path / "log")[-300:] == list(range(40, 340)) == steps_for_tensorboard(tmp_path / "log")[-300:]
    assert result.stderr.count("Warning: ") == 1 and "deleted" in result.stderr


def test_a_deleted_file_is_followed_by_another(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    log(20); writer.flush()
    for name in os.listdir(log_dir): os.unlink(os.path.join(log_dir, name))
    log(300, 20); writer.close()
    """
    run(code, tmp_path)
    assert steps(tmp_path) == list(range(20, 320))


def test_a_directory_that_cannot_be_made_again_stops_the_log_and_not_the_training(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    log(20); writer.flush()
    shutil.rmtree(log_dir)
    open(log_dir, "w").close()
    log(300, 20); writer.flush()
    os.unlink(log_dir)
    log(300, 320); writer.close()
    """
    result = run(code, tmp_path / "log")
    kept = steps(tmp_path / "log")
    assert kept == sorted(set(kept)) and kept[-300:] == list(range(320, 620))
    assert result.stderr.count("Warning: cannot write the log") == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_permissions_lost_while_writing_lose_nothing(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    log(20); writer.flush()
    for name in os.listdir(log_dir): os.chmod(os.path.join(log_dir, name), 0)
    os.chmod(log_dir, 0)
    os.seteuid(65534)
    log(300, 20); writer.flush(); writer.close()
    """
    run(code, tmp_path / "log")
    assert steps(tmp_path / "log") == list(range(320))


def test_a_run_that_cannot_be_begun_waits_until_it_can(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    open(log_dir + "/both_a", "w").close()
    writer.add_scalars("both", {"a": 0.0, "b": 0.0}, 0); log(10); writer.flush(); log(10, 10)
    os.unlink(log_dir + "/both_a")
    writer.close()
    """
    result = run(code, tmp_path)
    assert steps(tmp_path) == list(range(20))
    assert steps(tmp_path / "both_a", "both") == steps(tmp_path / "both_b", "both") == [0]
    assert result.stderr.count("Warning: cannot write the log") == 1


def test_a_disk_that_stands_still_keeps_nobody_waiting(tmp_path):
    code = """
    pwrite, moves, calls = os.pwrite, threading.Event(), []
    def stuck(*arguments):
        calls.append(arguments)
        moves.wait()
        return pwrite(*arguments)
    writer = SummaryWriter(log_dir)
    log(1); writer.flush()
    os.pwrite = stuck
    log(1, 1)
    until(lambda: calls)
    log(2000, 2)
    moves.set()
    writer.close()
    assert len(calls) < 20, calls
    """
    run(code, tmp_path)
    assert steps(tmp_path) == list(range(2002))


@pytest.mark.parametrize("fault", ["EINTR", "EIO", "ESTALE", "EAGAIN", "short"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_one_write_may_fail_or_be_short(tmp_path, monkeypatch, fault, number, recwarn):
    import errno

    from torchboard import SummaryWriter

    pwrite, calls = os.pwrite, []

    def faulty(file, data, offset):
        calls.append(len(data))
        if len(calls) != number:
            return pwrite(file, data, offset)
        if fault == "short":
            return pwrite(file, data[: len(data) // 2], offset)
        pwrite(file, data[: len(data) // 3], offset)
        raise OSError(getattr(errno, fault), fault)

    writer = SummaryWriter(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", faulty)
        for step in range(90):
            writer.add_scalar("loss", float(step), step)
            if step % 30 == 29:
                writer.flush()
        writer.close()
    assert len(calls) > number
    assert steps(tmp_path) == list(range(90)) == steps_for_tensorboard(tmp_path)


def test_a_clock_that_goes_back_stops_nothing_and_a_later_file_still_sorts_later(tmp_path):
    code = """
    clock = time.time
    writer = SummaryWriter(log_dir)
    log(60); writer.flush()
    time.time = lambda: clock() - 3600
    log(60, 60); writer.flush()
    os._exit(0)
    """
    run(code, tmp_path)
    (first,) = files(tmp_path)
    run(
        "clock = time.time; time.time = lambda: clock() - 3600\nwriter = SummaryWriter(log_dir); log(60, 120)", tmp_path
    )
    assert len(files(tmp_path)) == 2 and files(tmp_path)[0] == first
    assert steps(tmp_path) == list(range(180))


def test_two_processes_cannot_hide_each_others_data(tmp_path):
    holder = start(
        "writer = SummaryWriter(log_dir); log(300); print('ready', flush=True); input(); log(300, 300)", tmp_path
    )
    assert holder.stdout.readline() == "ready\n"
    refused = run("writer = SummaryWriter(log_dir)", tmp_path, check=False)
    holder.stdin.write("\n")
    finish(holder)
    assert refused.returncode == 1 and "RunInUseError" in refused.stderr
    assert steps(tmp_path) == list(range(600)) and len(files(tmp_path)) == 1


def test_two_writers_of_a_process_share_one_file(tmp_path):
    code = """
    writer, second = SummaryWriter(log_dir), SummaryWriter(log_dir)
    for step in range(300):
        writer.add_scalar("loss", float(step), step)
        second.add_scalar("second", float(step), step)
    """
    run(code, tmp_path)
    assert steps(tmp_path) == steps(tmp_path, "second") == list(range(300)) and len(files(tmp_path)) == 1


def test_a_queue_of_pictures_before_a_stuck_disk_is_bounded_and_the_lost_are_counted(tmp_path):
    code = """
    import numpy as np
    from torchboard.sink.asynchronous import AsyncSink
    from torchboard.sink.event_file import EventFileSink
    from torchboard.values import Event, Image, Scalar
    resident = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
    stuck, pwrite = threading.Event(), os.pwrite
    def wait(*arguments):
        stuck.wait()
        return pwrite(*arguments)
    sink = AsyncSink(EventFileSink(log_dir), max_bytes=20 << 20)
    sink.write(Event(0, 1.0, (("loss", Scalar(0.0)),))); sink.flush()
    os.pwrite = wait
    before = resident() if os.path.exists("/proc/self/statm") else 0
    for step in range(300):
        sink.write(Event(step, 1.0, (("picture", Image(np.full((1, 512, 512, 3), step % 256, np.uint8))),), "", (), True))
    grown = resident() - before if before else 0
    stuck.set()
    sink.close()
    print(sink.dropped, grown)
    """
    result = run(code, tmp_path)
    dropped, grown = map(int, result.stdout.split())
    assert 200 < dropped < 300 and grown < 60
    assert f"{dropped} events" in result.stderr and len(files(tmp_path)) == 1


def test_a_call_after_close_opens_another_file(tmp_path):
    run(
        "writer = SummaryWriter(log_dir); log(300); writer.close(); log(10, 300); writer.close(); writer.close()",
        tmp_path,
    )
    assert steps(tmp_path) == list(range(310)) == steps_for_tensorboard(tmp_path) and len(files(tmp_path)) == 2


def test_a_thread_that_is_logging_when_the_script_ends_keeps_nobody(tmp_path):
    code = """
    writer, begun = SummaryWriter(log_dir), threading.Event()
    def forever():
        with contextlib.suppress(Exception):
            log(1)
            begun.set()
            log(10**9, 1)
    threading.Thread(target=forever, daemon=True).start()
    begun.wait()
    time.sleep(0.3)
    """
    run(code, tmp_path)
    kept = steps(tmp_path)
    assert kept == list(range(len(kept))) and kept


def test_the_log_directory_may_be_moved_while_it_is_written(tmp_path):
    code = "writer = SummaryWriter(log_dir); log(20); writer.flush(); os.rename(log_dir, log_dir + '2'); log(20, 20)"
    run(code, tmp_path / "log")
    moved = steps(tmp_path / "log2")
    again = steps(tmp_path / "log") if (tmp_path / "log").exists() else []
    assert moved + again == list(range(40))
    shutil.rmtree(tmp_path / "log2")
