"""The profiler over some batches, and that it never outlives them."""

from __future__ import annotations

import copy
import gc
import gzip
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from torchboard import Capture, MemorySink, Monitor, proto
from torchboard.errors import InvalidValueError, TorchboardWarning
from torchboard.profile.batches import batches_of
from torchboard.profile.report import LISTING_TAG


def is_profiling():
    return torch.autograd._profiler_enabled()


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    assert not is_profiling()


class Job:
    """A training whose batches can be told apart: batch n draws n random numbers n times."""

    def __init__(self, sink=None, log_batch=True, model=None, width=2, **options):
        self.model = model or nn.Linear(2, 1)
        self.width = width
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
            self.model(torch.ones(1, self.width)).sum().backward()
            self.optimizer.step()
            if self._logs:
                self.monitor.log_batch(loss=1.0)
        return profiled

    def trace(self):
        """The events of the one trace that was written, of those that take time."""
        (path, data), (beside, _) = [(path, data) for (run, path), data in self.sink.files.items() if run == "train"]
        assert re.fullmatch(r"plugins/profile/\d{4}(_\d\d){5}/[\w-]+\.pt\.trace\.json\.gz", path)
        assert beside == path.replace(".pt.trace.json.gz", ".xplane.pb")
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
    assert not any("Linear" in row[0] for row in rows)


def test_the_files_are_read_by_viewers_and_say_which_layer_ran():
    job = Job(profile_batch=(2, 3))
    job.train(4)
    job.monitor.close()
    space = proto.XSpace.FromString(next(data for (_, path), data in job.sink.files.items() if path.endswith(".pb")))
    host = space.planes[0]
    names = [host.event_metadata[one.metadata_id].name for line in host.lines for one in line.events]
    assert names.count("train") == names.count("Linear") == 2 and names.count("aten::randn") == 5
    assert names.count("MemoryAllocation") > 10
    assert count(job.trace(), "Linear") == 2


class Two(nn.Module):
    """A large layer and a small one, each called twice, in a checkpoint too."""

    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Linear(500, 500), nn.Linear(500, 2)

    def forward(self, x):
        x = checkpoint(self.large, self.large(x), use_reentrant=False)
        return self.small(x) + self.small(x)


def test_the_time_of_each_layer_is_a_scalar_of_each_batch():
    job = Job(model=Two(), width=500, profile_batch=(2, 4))
    job.train(5)
    tags = {tag for tag in job.sink.tags("train") if tag.startswith("layer_time/")}
    parts = [f"{layer}/{part}" for layer in ("large", "small") for part in ("forward_ms", "backward_ms")]
    assert {f"layer_time/{part}" for part in parts} <= tags and len(tags) <= 6
    took = {part: job.sink.series(f"layer_time/{part}", "train") for part in parts}
    assert all([step for step, _ in points] == [2, 3, 4] for points in took.values())
    assert all(value.value > 0 for points in took.values() for _, value in points)
    job.monitor.close()


def hooks(model):
    """How many hooks sit on a model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_are_on_the_layers_while_it_runs_and_never_after():
    job = Job(model=Two(), width=500, profile_batch=(2, 3), feature_maps=False)
    found = []
    for _ in range(4):
        job.train(1)
        found.append(hooks(job.model))
    assert found == [6, 6, 0, 0]
    job.monitor.close()


def test_a_forward_pass_that_raises_and_one_that_is_under_way_at_the_end_leave_nothing():
    class Fails(nn.Linear):
        def forward(self, x):
            if len(x) == 3:
                raise ValueError
            if len(x) == 4:
                job.monitor.close()
            return super().forward(x)

    job = Job(model=Fails(2, 1), profile_batch=(1, 9), feature_maps=False)
    job.train(1)
    with pytest.raises(ValueError):
        job.model(torch.ones(3, 2))
    assert hooks(job.model) and is_profiling()
    job.model(torch.ones(4, 2))
    assert not hooks(job.model) and job.trace()


def test_a_copy_and_a_pickle_of_the_model_that_is_profiled_take_no_part():
    job = Job(profile_batch=(1, 2))
    copied, pickled = copy.deepcopy(job.model), pickle.loads(pickle.dumps(job.model))
    copied(torch.ones(1, 2)), pickled(torch.ones(1, 2))
    job.train(2)
    assert count(job.trace(), "Linear") == 2
    job.monitor.close()


def test_a_compiled_layer_is_one_and_stays_compiled():
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = nn.Sequential(torch.compile(inner, backend="eager"), nn.Linear(2, 1))
    job = Job(model=model, profile_batch=(2, 3), feature_maps=False, capture=Capture(every=0))
    job.train(1)
    assert is_profiling() and hooks(model[1]) and not hooks(inner)
    job.train(2)
    job.monitor.close()
    names = {event["name"] for event in job.trace() if event["cat"] == "user_annotation"}
    assert {"Sequential", "1 (Linear)"} <= names and not any(name.startswith("0") for name in names)


def test_a_trace_that_cannot_be_read_costs_the_layers_and_nothing_else(monkeypatch):
    monkeypatch.setattr(profile, "export_chrome_trace", lambda self, path: Path(path).write_text("{"))
    job = Job(profile_batch=(1, 2))
    with pytest.warns(TorchboardWarning, match="of the profile of batches 1 to 2 something is lost"):
        job.train(3)
    job.monitor.log_epoch(loss=1.0)
    job.monitor.close()
    assert [path.rpartition(".")[2] for _, path in job.sink.files] == ["gz"]
    assert job.sink.series(LISTING_TAG, "train") and job.sink.series("epoch_loss", "train")


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
