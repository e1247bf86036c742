"""Event files on disk: whole, shared, and never torn."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from torchboard import proto
from torchboard.errors import ClosedError, InvalidValueError, RunInUseError
from torchboard.eventfile.scanning import scan
from torchboard.sink.event_file import EventFileSink
from torchboard.values import Event, Scalar


def events(path):
    return [proto.Event.FromString(record.data) for record in scan(path)]


def files(directory):
    return sorted(str(path) for path in directory.glob("*tfevents*"))


def steps(directory):
    return [event.step for file in files(directory) for event in events(file) if event.HasField("summary")]


def write(sink, step, run=""):
    sink.write(Event(step, 1.0, (("loss", Scalar(0.5)),), run))


def test_the_first_file_of_a_run_opens_with_version_writer_and_start(tmp_path):
    sink = EventFileSink(str(tmp_path))
    write(sink, 3)
    sink.close()
    version, start, event = events(files(tmp_path)[0])
    assert (version.file_version, version.source_metadata.writer) == ("brain.Event:2", "torchboard")
    assert (start.session_log.status, start.step) == (proto.SessionLog.START, 0)
    assert (event.step, event.summary.value[0].tag, event.summary.value[0].simple_value) == (3, "loss", 0.5)


def test_what_write_returned_for_is_in_the_kernel_before_any_flush(tmp_path):
    sink = EventFileSink(str(tmp_path))
    write(sink, 1)
    assert steps(tmp_path) == [1]
    sink.close()


def test_a_later_file_sorts_later_and_starts_again_only_if_told_to(tmp_path):
    for purge_step in (None, None, 5):
        sink = EventFileSink(str(tmp_path), purge_step)
        write(sink, 1)
        sink.close()
    starts = [[event.step for event in events(file) if event.HasField("session_log")] for file in files(tmp_path)]
    assert starts == [[0], [], [5, 5]]


def test_runs_have_directories_of_their_own_opened_when_first_written(tmp_path):
    sink = EventFileSink(str(tmp_path))
    write(sink, 1, "train")
    assert files(tmp_path) == [] and not (tmp_path / "validation").exists()
    write(sink, 2, "validation")
    sink.close()
    assert (steps(tmp_path / "train"), steps(tmp_path / "validation")) == ([1], [2])


def test_two_sinks_on_one_directory_share_one_file_until_both_have_closed(tmp_path):
    outer, inner = EventFileSink(str(tmp_path)), EventFileSink(str(tmp_path / "train"))
    write(outer, 1, "train")
    write(inner, 2)
    outer.close()
    write(inner, 3)
    inner.close()
    assert len(files(tmp_path / "train")) == 1 and steps(tmp_path / "train") == [1, 2, 3]


def test_a_write_after_close_is_refused(tmp_path):
    sink = EventFileSink(str(tmp_path))
    sink.close()
    sink.close()
    with pytest.raises(ClosedError):
        write(sink, 1)


def failing_half_way(end, error):
    """``os.pwrite`` that writes the first of its data up to ``end``, once, and then fails for ever."""
    pwrite, calls = os.pwrite, []

    def write_some(file, data, offset):
        calls.append(offset)
        if len(calls) == 1:
            return pwrite(file, data[:end], offset)
        raise error

    return write_some


def test_a_write_that_fails_half_way_leaves_the_file_whole(tmp_path, monkeypatch):
    sink = EventFileSink(str(tmp_path))
    write(sink, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing_half_way(10, OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            write(sink, 2)
    write(sink, 3)
    sink.close()
    assert steps(tmp_path) == [1, 3]


def test_what_could_not_be_cut_off_at_once_is_cut_off_before_the_next_write(tmp_path, monkeypatch):
    sink = EventFileSink(str(tmp_path))
    write(sink, 1)
    broken = OSError(errno.EIO, "Input/output error")

    def no_cut(*_):
        raise broken

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing_half_way(-1, broken))
        patch.setattr(os, "ftruncate", no_cut)
        with pytest.raises(OSError, match="Input/output"):
            sink.write(Event(2, 1.0, (("longer than what comes next", Scalar(2.0)),), ""))
        with pytest.raises(OSError, match="Input/output"):
            write(sink, 2)
    write(sink, 3)
    sink.close()
    assert steps(tmp_path) == [1, 3]


def test_a_file_that_could_not_be_begun_can_be_begun_later(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    sink = EventFileSink(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full_disk)
        with pytest.raises(OSError, match="No space"):
            write(sink, 1)
    write(sink, 2)
    sink.close()
    assert steps(tmp_path) == [2]


def test_a_forked_child_that_lives_on_does_not_keep_the_directory(tmp_path):
    sink = EventFileSink(str(tmp_path))
    write(sink, 1)
    child = os.fork()
    if child == 0:
        threading.Event().wait(30)
        os._exit(0)
    try:
        sink.close()
        again = EventFileSink(str(tmp_path))
        write(again, 2)
        again.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert steps(tmp_path) == [1, 2]


def test_a_directory_that_another_process_writes_in_is_refused_until_that_process_ends(tmp_path):
    code = (
        "import sys; from torchboard.sink.event_file import EventFileSink\n"
        "sink = EventFileSink(sys.argv[1]); sink.open(''); sys.stdout.write('open'); sys.stdout.flush(); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.read(4) == b"open"
    with pytest.raises(RunInUseError, match="another process is writing"):
        EventFileSink(str(tmp_path)).open("")
    other.kill()
    other.wait()
    other.stdin.close()
    other.stdout.close()
    sink = EventFileSink(str(tmp_path))
    write(sink, 1)
    sink.close()
    assert steps(tmp_path) == [1]


def test_a_file_is_put_below_its_run_whole_and_replaces_the_one_before(tmp_path):
    sink = EventFileSink(str(tmp_path))
    sink.put("train", "00000/a.tsv", b"1")
    sink.put("train", "00000/a.tsv", b"22")
    sink.put("", "b", b"")
    sink.close()
    found = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: data for name, data in found.items() if "tfevents" not in name} == {
        "train/00000/a.tsv": b"22",
        "b": b"",
    }
    assert files(tmp_path / "train") and files(tmp_path)


def test_a_file_is_never_put_outside_its_run(tmp_path):
    sink = EventFileSink(str(tmp_path / "log"))
    (tmp_path / "log" / "train").mkdir(parents=True)
    (tmp_path / "log" / "train" / "link").symlink_to(tmp_path)
    for path in ("../up", "/etc/up", "link/up", "../train2/up", "", "."):
        with pytest.raises(InvalidValueError, match="not below"):
            sink.put("train", path, b"1")
    sink.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_a_file_that_can_never_be_made_is_an_error_and_leaves_nothing_behind(tmp_path):
    sink = EventFileSink(str(tmp_path))
    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for path in ("folder/a", "file/b", "x" * 300):
        with pytest.raises(InvalidValueError, match="cannot be made"):
            sink.put("", path, b"1")
    sink.close()
    assert sorted(path.name for path in tmp_path.iterdir() if "tfevents" not in path.name) == ["file", "folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors where the kernel lists them")
def test_runs_without_number_take_a_bounded_number_of_descriptors_and_one_file_each(tmp_path):
    sink = EventFileSink(str(tmp_path), purge_step=0)
    before = len(os.listdir("/proc/self/fd"))
    for step in range(3):
        for number in range(150):
            write(sink, step, f"run{number}")
    assert len(os.listdir("/proc/self/fd")) - before < 150
    sink.flush()
    sink.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for number in range(150):
        assert steps(tmp_path / f"run{number}") == [0, 1, 2] and len(files(tmp_path / f"run{number}")) == 1


def test_a_file_that_sleeps_leaves_its_directory_to_others_until_it_writes_again(tmp_path):
    sink = EventFileSink(str(tmp_path))
    write(sink, 1)
    sink.open("").suspend()
    write(sink, 2)
    sink.close()
    assert steps(tmp_path) == [1, 2]
