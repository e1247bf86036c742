"""Runs keep TensorBoard's rules by construction, and refuse what would break them at the call."""

from __future__ import annotations

import copy
import math
import pickle
import socket
import time

import numpy as np
import pytest
import torch

from torchboard import SummaryWriter, read
from torchboard.errors import ClosedError, InvalidValueError, RunError, RunInUseError, TagError, TorchboardWarning
from torchboard.log_dir import new_log_dir
from torchboard.run import Run, open_run
from torchboard.sink.memory import MemorySink
from torchboard.values import Scalar, Text

ONE = (("loss", Scalar(1.0)),)


@pytest.fixture
def run():
    return Run(MemorySink(), "train")


def test_one_tag_belongs_to_one_kind(run):
    run.write(0, ONE)
    with pytest.raises(TagError, match="already holds scalars"):
        run.write(1, (("loss", Text("x")),))
    run.root.sub("validation").write(1, (("loss", Text("x")),))
    assert run.sink.tags("train") == {"loss": "scalars"} and run.sink.tags("validation") == {"loss": "text"}


def test_where_one_value_is_refused_nothing_of_the_event_is_written(run):
    with pytest.raises(TagError):
        run.write(0, (*ONE, ("", Scalar(1.0))))
    assert run.sink.events == []


def test_a_step_that_does_not_go_up_is_written_and_warned_of_once_a_tag(run):
    run.write(5, ONE)
    with pytest.warns(TorchboardWarning, match="from step 5 to 5"):
        run.write(5, ONE)
    run.write(4, ONE)
    assert [step for step, _ in run.sink.series("loss")] == [5, 5, 4]


@pytest.mark.parametrize("step", [3, np.int64(3), torch.tensor(3), -2, 2**63 - 1])
def test_whole_numbers_of_any_kind_are_steps(run, step):
    run.write(step, ONE)
    assert run.sink.events[0].step == int(step) and type(run.sink.events[0].step) is int


@pytest.mark.parametrize("step", [1.5, "3", None, 2**63, math.nan, torch.tensor([1, 2])], ids=str)
def test_anything_else_is_refused(run, step):
    with pytest.raises(InvalidValueError, match="step"):
        run.write(step, ONE)


@pytest.mark.parametrize("tag", ["", None, 5, b"loss", "half\ud800"])
def test_a_tag_is_a_text(run, tag):
    with pytest.raises(TagError, match="tag"):
        run.write(0, ((tag, Scalar(1.0)),))


@pytest.mark.parametrize("time", [math.nan, math.inf])
def test_a_time_that_is_not_finite_is_refused(run, time):
    with pytest.raises(InvalidValueError, match="walltime"):
        run.write(0, ONE, wall_time=time)


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/abs", "a//b", "a\0", "x.tfevents.y", "x\ud800", 3])
def test_a_run_name_stays_below_the_log_directory(run, name):
    with pytest.raises(TagError, match="run name"):
        run.sub(name)


def test_writers_of_one_directory_share_one_sink_and_the_last_closes_it(tmp_path):
    first, second = open_run(tmp_path / "run"), open_run(tmp_path / "run")
    assert first.sink is second.sink
    first.close()
    second.write(0, ONE)
    second.close()
    assert len(list((tmp_path / "run").iterdir())) == 1
    with pytest.raises(ClosedError):
        second.write(1, ONE)


def test_the_kinds_of_a_shared_run_are_known_to_all_its_writers(tmp_path):
    first, second = open_run(tmp_path), open_run(tmp_path)
    first.write(0, ONE)
    with pytest.raises(TagError):
        second.write(0, (("loss", Text("x")),))
    first.close()
    second.close()


def test_the_kinds_of_a_run_are_known_from_whatever_root_one_came_to_it(tmp_path):
    outer, inner = open_run(tmp_path, "train"), open_run(tmp_path / "train")
    outer.write(0, ONE)
    with pytest.raises(TagError):
        inner.write(0, (("loss", Text("x")),))
    outer.close()
    inner.close()
    assert len(list((tmp_path / "train").iterdir())) == 1


def test_closing_a_run_twice_takes_nothing_from_its_other_users(tmp_path):
    first, second = open_run(tmp_path), open_run(tmp_path)
    first.close()
    first.close()
    second.write(0, ONE)
    with pytest.raises(ClosedError):
        first.write(1, ONE)
    second.close()


def test_a_copy_is_a_user_from_its_first_write_on(tmp_path):
    first = open_run(tmp_path, exclusive=True)
    unused, used = copy.deepcopy(first), copy.deepcopy(first)
    first.write(0, ONE)
    first.close()
    again = open_run(tmp_path, exclusive=True)
    unused.flush()
    unused.close()
    with pytest.raises(ClosedError):
        unused.write(1, ONE)
    used.sub("below").write(1, ONE)
    again.close()
    used.write(2, ONE)
    used.close()
    with pytest.raises(ClosedError):
        used.write(3, ONE)
    log = read(tmp_path)
    assert log.scalars("loss", run=".").steps.tolist() == [0, 2]
    assert log.scalars("loss", run="below").steps.tolist() == [1]


def test_a_copy_of_a_writer_goes_on_in_the_same_run_behind_it(tmp_path):
    writer = SummaryWriter(tmp_path)
    writer.add_scalar("loss", 0.0, 0)
    other, travelled = copy.deepcopy(writer), pickle.dumps(writer)
    writer.close()
    for step in range(1, 4):
        other.add_scalar("loss", 0.0, step)
    assert other._lane is open_run(tmp_path).lane
    other.close()
    late = pickle.loads(travelled)
    late.add_scalar("loss", 0.0, 4)
    late.close()
    log = read(tmp_path)
    assert log.runs == (".",) and log.scalars("loss").steps.tolist() == [0, 1, 2, 3, 4]


def test_two_exclusive_users_of_one_directory_exclude_each_other(tmp_path):
    first = open_run(tmp_path, "train", exclusive=True)
    with pytest.raises(RunInUseError, match="another monitor"):
        open_run(tmp_path, "train", exclusive=True)
    first.close()
    open_run(tmp_path, "train", exclusive=True).close()


def test_a_file_in_place_of_the_directory_is_refused_at_the_call(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match="cannot be made"):
            open_run(path)


@pytest.mark.parametrize("path", ["/proc/torchboard", "/sys/torchboard"])
def test_a_place_that_cannot_be_written_is_refused_at_the_call(path):
    with pytest.raises(RunError, match="log_dir"):
        open_run(path)


def test_a_name_that_tensorboard_takes_for_a_file_is_refused(tmp_path):
    with pytest.raises(RunError, match="tfevents"):
        open_run(tmp_path / "my.tfevents.run")


@pytest.mark.parametrize("path", [5, b"x", ""], ids=str)
def test_what_is_no_path_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((InvalidValueError, RunError)):
        open_run(path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_directory_one_is_made_below_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = open_run(new_log_dir("_first"))
    run.close()
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name.endswith("_first") and run.log_dir == str(made)


def test_directories_made_in_the_same_second_are_several(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "Jan01_00-00-00_")
    name = "Jan01_00-00-00_" + socket.gethostname()
    open_run(None).close()
    runs = [open_run(None, exclusive=True), open_run(None, exclusive=True)]
    writer = SummaryWriter(comment="-2")
    assert [run.log_dir for run in runs] == [str(tmp_path / "runs" / f"{name}-{number}") for number in (2, 3)]
    assert writer.log_dir == str(tmp_path / "runs" / f"{name}-2-2")
    for user in (*runs, writer):
        user.close()


def test_a_directory_that_cannot_be_made_below_runs_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="cannot be made"):
        open_run()


@pytest.mark.parametrize("path", ["", "..", "a/../b", "/abs", "a\\b", "x.tfevents.y", "a" * 300])
def test_a_file_stays_below_its_run(run, path):
    with pytest.raises(TagError, match="file name"):
        run.put(path, b"x")
    run.put("a/b.txt", b"x")
    assert run.sink.files == {("train", "a/b.txt"): b"x"}
    run.close()
    with pytest.raises(ClosedError):
        run.put("a/b.txt", b"y")


def test_where_one_tag_is_refused_none_is_noted():
    run = Run(MemorySink())
    run.write(0, (("words", Text("a")),))
    with pytest.raises(TagError):
        run.write(5, (("loss", Scalar(1.0)), ("words", Scalar(1.0))))
    run.write(3, (("loss", Scalar(1.0)),))  # warns, and fails, if step 5 was noted
    with pytest.raises(TagError):
        run.write(6, (("new", Scalar(1.0)), ("new", Text("a"))))
    run.write(6, (("new", Text("a")),))
