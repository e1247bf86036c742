"""The profiler over some batches, and that it never outlives them."""

from __future__ import annotations

import gc
import gzip
import json
import os
import re

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from torchboard import MemorySink, Monitor
from torchboard.errors import InvalidValueError, TorchboardWarning
from torchboard.profile.batches import LISTING_TAG, batches_of


def is_profiling():
    return torch.autograd._profiler_enabled()


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    assert not is_profiling()


class Job:
    """A training whose batches can be told apart: batch n draws n random numbers n times."""

    def __init__(self, sink=None, log_batch=True, **options):
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.sink = sink or MemorySink()
        self.monitor = Monitor(self.model, sink=self.sink, histogram_freq=0, write_graph=False, **options)
        self._logs = log_batch
        self.batch = 0

    def train(self, batches):
        profiled = []
        for _ in range(batches):
            self.batch += 1
            if is_profiling():
                profiled.append(self.batch)
            for _ in range(self.batch):
                torch.randn(self.batch)
            self.optimizer.zero_grad()
            self.model(torch.ones(1, 2)).sum().backward()
            self.optimizer.step()
            if self._logs:
                self.monitor.log_batch(loss=1.0)
        return profiled

    def trace(self):
        """The events of the one trace that was written, of those that take time."""
        ((path, data),) = [(path, data) for (run, path), data in self.sink.files.items() if run == "train"]
        assert re.fullmatch(r"plugins/profile/\d{4}(_\d\d){5}/[\w-]+\.pt\.trace\.json\.gz", path)
        return [event for event in json.loads(gzip.decompress(data))["traceEvents"] if event.get("ph") == "X"]


def count(events, name):
    return sum(event["name"] == name for event in events)


@pytest.mark.parametrize(
    ("given", "batches"), [(2, [2]), (1, [1]), ((2, 4), [2, 3, 4]), ([3, 3], [3]), ("2,3", [2, 3]), (" 2 , 3 ", [2, 3])]
)
def test_the_batches_asked_for_are_profiled_and_no_other(given, batches):
    job = Job(profile_batch=given)
    assert job.train(6) == batches
    events = job.trace()
    assert count(events, "aten::randn") == sum(batches)
    assert count(events, "aten::addmm") == count(events, "Optimizer.step#SGD.step") == len(batches)
    assert [event["name"] for event in events if event["name"].startswith("ProfilerStep#")] == [
        f"ProfilerStep#{batch}" for batch in batches
    ]
    job.monitor.close()


@pytest.mark.parametrize("given", [0, (0, 0), "0,0"])
def test_none_is_profiled_unless_asked_for(given):
    job = Job(profile_batch=given)
    assert job.train(3) == []
    job.monitor.close()
    assert job.sink.files == {}


def test_where_nobody_ends_batches_steps_are_counted():
    job = Job(log_batch=False, profile_batch=(3, 4))
    assert job.train(6) == [3, 4]
    assert count(job.trace(), "aten::randn") == 7
    job.monitor.close()


def test_batches_of_validation_do_not_count():
    job = Job(profile_batch=2)
    with job.monitor.phase("validation"):
        for _ in range(5):
            job.monitor.log_batch(loss=1.0)
    assert job.train(3) == [2]
    job.monitor.close()


def test_the_text_lists_what_took_longest():
    job = Job(profile_batch=(1, 2))
    job.train(2)
    torch.randn(10)
    job.monitor.close()
    ((step, text),) = job.sink.series(LISTING_TAG, "train")
    assert step == 2 and text.markdown.startswith("Batches 1 to 2")
    rows = [line.split(" | ") for line in text.markdown.splitlines() if "ms" not in line and line.startswith("| ")][1:]
    own = [float(row[2].replace(",", "")) for row in rows]
    assert len(rows) > 5 and own == sorted(own, reverse=True)
    (row,) = [row for row in rows if "randn" in row[0]]
    assert row[1] == "3"
    assert not any("ProfilerStep" in row[0] for row in rows)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((5, 2), r"profile_batch=\(5, 2\): batch 2 comes before batch 5; give a batch such as 5"),
        (-1, "profile_batch=-1: batches are counted from 1"),
        ((0, 4), "counted from 1"),
        ("x", "profile_batch='x': it is neither a batch nor the first and the last"),
        ("5", "neither"),
        ("5,2", "batch 2 comes before"),
        (True, "neither"),
        (2.0, "neither"),
        ((1, 2, 3), "neither"),
        ((1, "2"), "neither"),
        (None, "neither"),
        ([], "neither"),
    ],
)
def test_what_is_no_range_of_batches_is_refused_at_the_call_and_nothing_is_made(given, message, tmp_path):
    with pytest.raises(InvalidValueError, match=message):
        batches_of(given)
    with pytest.raises(InvalidValueError, match=message):
        Monitor(nn.Linear(1, 1), tmp_path / "log", profile_batch=given)
    assert not (tmp_path / "log").exists()


def test_a_profiler_that_is_active_already_is_left_alone_with_a_warning():
    job = Job(profile_batch=(3, 4))
    with profile(activities=[ProfilerActivity.CPU]) as theirs:
        with pytest.warns(TorchboardWarning, match="another profiler is active: batches 3 to 4") as caught:
            job.train(5)
        assert is_profiling() and len(caught) == 1
    assert sum(row.count for row in theirs.key_averages() if row.key == "aten::randn") == 15
    assert job.train(2) == []
    job.monitor.log_epoch(loss=1.0)
    job.monitor.close()
    assert job.sink.files == {} and job.sink.series("epoch_loss", "train")


def test_an_exception_in_the_with_block_stops_it_and_what_it_saw_is_written():
    with pytest.raises(ZeroDivisionError):
        with Job(profile_batch=(2, 9)).monitor as monitor:
            sink = monitor._run.sink
            for _ in range(3):
                torch.randn(3)
                monitor.log_batch(loss=1.0)
            assert is_profiling()
            raise ZeroDivisionError
    assert not is_profiling()
    assert any(path.endswith(".pt.trace.json.gz") for _, path in sink.files)


def test_a_monitor_that_is_forgotten_stops_it():
    job = Job(profile_batch=(2, 9))
    job.train(3)
    assert is_profiling()
    job.monitor = None
    gc.collect()
    assert not is_profiling()


def test_close_before_the_first_of_the_batches_writes_nothing():
    job = Job(profile_batch=9)
    job.train(3)
    job.monitor.close()
    assert job.sink.files == {}


def test_a_profiler_that_somebody_else_ends_is_no_error():
    job = Job(profile_batch=(1, 3))
    job.train(1)
    torch.autograd._disable_profiler()
    with pytest.warns(TorchboardWarning, match="somebody else has stopped"):
        job.train(4)
    job.monitor.log_epoch(loss=1.0)
    job.monitor.close()
    assert job.sink.files == {}
    assert job.sink.series("epoch_loss", "train")


def test_the_trace_is_below_the_directory_of_the_run(tmp_path):
    model = nn.Linear(1, 1)
    with Monitor(model, tmp_path, profile_batch=1, histogram_freq=0) as monitor:
        model(torch.ones(1, 1))
        monitor.log_batch(loss=1.0)
    (path,) = (tmp_path / "train" / "plugins" / "profile").glob("*/*.pt.trace.json.gz")
    assert json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert os.listdir(tmp_path) == ["train"]
