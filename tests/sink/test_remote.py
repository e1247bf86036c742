"""Logs in stores without append: complete, in order, cheap to grow, and nothing lost where the store fails."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch

import torchboard
from torchboard import Monitor, SummaryWriter, proto
from torchboard.errors import InvalidValueError, RunError, TorchboardWarning
from torchboard.eventfile.framing import frame, unframe
from torchboard.run import open_run
from torchboard.sink.asynchronous import AsyncSink
from torchboard.sink.object_store import ObjectStore
from torchboard.sink.parts import Mirror
from torchboard.sink.remote import RemoteSink
from torchboard.values import Event, Scalar

fsspec = pytest.importorskip("fsspec", reason="remote targets need fsspec")

from serving import tensorboard, until  # noqa: E402
from stores import faulty, s3_server  # noqa: E402

URL, PLACE = "faulty://bucket/run", "bucket/run"
BRIEF = {"interval": 0.06, "patience": 0.2}
PART = 4000


@pytest.fixture
def store():
    with faulty() as store:
        yield store


@pytest.fixture(autouse=True)
def spools(tmp_path_factory, monkeypatch):
    """Where spools are made; what is left there."""
    directory = tmp_path_factory.mktemp("spools")
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


def event(step, run=""):
    return Event(step, 1.0, (("loss", Scalar(0.5 * step)),), run)


def events(data):
    return [proto.Event.FromString(record.data) for record in unframe(data)]


def steps(store, directory=PLACE):
    """The steps of a run in the order in which a reader meets them."""
    names = store.names(directory)
    found = [event for name in names for event in events(store.objects[f"{directory}/{name}"])]
    return [event.step for event in found if event.HasField("summary")]


def accumulated(directory, tag="loss"):
    """``(step, value)`` of a curve as TensorBoard's Python loader reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(directory), {"scalars": 0})
    reader.Reload()
    return [(point.step, point.value) for point in reader.Scalars(tag)]


def fill(sink, flushes, each=50, run="", first=0):
    for number in range(flushes):
        for step in range(first + number * each, first + (number + 1) * each):
            sink.write(event(step, run))
        sink.flush()


def test_parts_are_event_files_of_one_run_for_every_reader(store, tmp_path, spools):
    sink = RemoteSink(URL, part_bytes=PART)
    fill(sink, 10)
    sink.close()
    names = store.names(PLACE)
    assert len(names) > 3
    parts = [events(store.objects[f"{PLACE}/{name}"]) for name in names]
    assert [part[0].file_version for part in parts] == ["brain.Event:2"] * len(parts)
    assert [item.HasField("session_log") for part in parts for item in part].count(True) == 1
    assert steps(store) == list(range(500))
    local = store.download(tmp_path) / PLACE
    assert accumulated(local) == [(step, 0.5 * step) for step in range(500)]
    ours = torchboard.read(local).scalars("loss")
    assert list(ours.steps) == list(range(500)) and list(ours.values) == [0.5 * step for step in range(500)]
    assert list(spools.iterdir()) == []


def test_tensorboard_shows_the_parts_as_one_run(store, tmp_path):
    sink = RemoteSink(URL, part_bytes=PART)
    fill(sink, 10)
    sink.close()
    with tensorboard(store.download(tmp_path / "log"), "default", tmp_path / "output") as board:
        points = board.await_points(PLACE, "loss", 499)
        assert points == [(step, 0.5 * step) for step in range(500)] and board.complaints() == []


def test_a_part_that_has_a_successor_is_never_put_again(store):
    sink = RemoteSink(URL, part_bytes=PART)
    fill(sink, 20)
    sink.close()
    order = [name for name, _ in store.puts]
    assert order == sorted(order) and len(set(order)) < len(order)


def test_what_a_flush_uploads_does_not_grow_with_the_run(store):
    sink = RemoteSink(URL, part_bytes=PART)
    fill(sink, 100)
    sink.close()
    stored = sum(map(len, store.objects.values()))
    each = stored / 100
    assert max(size for _, size in store.puts) < PART + 2 * each
    assert sum(size for _, size in store.puts) < 3 * stored
    assert len(store.puts) == 100


def test_a_reader_that_looks_between_flushes_sees_every_point_once():
    from tensorboard.backend.event_processing.directory_watcher import DirectoryWatcher
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    url = "memory://looking/run"
    sink, seen = RemoteSink(url, part_bytes=PART), []
    watcher = DirectoryWatcher(url, EventFileLoader, lambda name: "tfevents" in name)
    for number in range(12):
        fill(sink, 1, each=40, first=40 * number)
        seen += [item.step for item in watcher.Load() if item.HasField("summary")]
    sink.close()
    assert seen == list(range(480)) and len(fsspec.filesystem("memory").ls("/looking/run")) > 3


def test_a_later_writer_goes_on_behind_the_parts_that_are_there(store, monkeypatch):
    now = time.time()
    starts = []
    for purge_step, clock in ((None, now), (None, now - 3600), (5, now)):
        monkeypatch.setattr("time.time", lambda clock=clock: clock)
        before = store.names(PLACE)
        sink = RemoteSink(URL, purge_step, part_bytes=PART)
        fill(sink, 5)
        assert len([path for path in Path(sink.spool).iterdir() if path.is_file()]) == 1
        sink.close()
        after = store.names(PLACE)
        assert after[: len(before)] == before and len(after) > len(before) + 1
        found = [item for name in after[len(before) :] for item in events(store.objects[f"{PLACE}/{name}"])]
        starts.append(sorted({item.step for item in found if item.HasField("session_log")}))
    assert starts == [[0], [], [5]]
    assert steps(store) == 3 * list(range(250))


def test_the_suffix_ends_the_name_of_every_part(store):
    sink = RemoteSink(URL, suffix=".job7", part_bytes=PART)
    fill(sink, 5)
    sink.close()
    assert all(name.endswith(".job7") for name in store.names(PLACE)) and steps(store) == list(range(250))


def test_every_run_has_its_parts_below_its_directory(store):
    sink = RemoteSink(URL, part_bytes=PART)
    for run in ("", "train", "deep/down"):
        fill(sink, 5, run=run)
    sink.close()
    for run in ("", "/train", "/deep/down"):
        assert steps(store, PLACE + run) == list(range(250))


def test_files_beside_the_events_are_uploaded_and_replaced(store):
    sink = RemoteSink(URL)
    sink.put("train", "projector/points.tsv", b"1\t2\n")
    sink.flush()
    sink.flush()
    assert store.objects[f"{PLACE}/train/projector/points.tsv"] == b"1\t2\n"
    sink.put("train", "projector/points.tsv", b"3\t4\n")
    sink.close()
    assert store.objects[f"{PLACE}/train/projector/points.tsv"] == b"3\t4\n"
    assert len([path for path, _ in store.puts if path.endswith(".tsv")]) == 2


def test_a_flush_that_brings_nothing_new_asks_nothing(store):
    sink = RemoteSink(URL)
    fill(sink, 1)
    tries = store.tries
    sink.flush()
    sink.flush()
    sink.close()
    assert store.tries == tries


def test_what_gathered_while_the_store_failed_comes_in_parts_of_whole_records(store, tmp_path, monkeypatch):
    monkeypatch.setattr("torchboard.sink.parts._MOST_BYTES", 1000)
    version, large = frame(b"version"), frame(bytes(5000))
    small = [frame(b"%100d" % number) for number in range(40)]
    (tmp_path / "x.tfevents.1").write_bytes(version + b"".join(small[:20]) + large + b"".join(small[20:]) + large[:90])
    mirror = Mirror(str(tmp_path), ObjectStore(URL), "", 900)
    mirror.update()
    parts = [store.objects[f"{PLACE}/{name}"] for name in store.names(PLACE)]
    found = [[record.data for record in unframe(part)] for part in parts]
    assert len(parts) > 2 and all(part[0] == b"version" for part in found)
    assert [data for part in found for data in part[1:]] == [
        record[12:-4] for record in (*small[:20], large, *small[20:])
    ]
    assert mirror.missing() == (1, 90)


def test_an_outage_is_told_once_costs_nothing_and_ends(store, spools):
    store.open.set()
    sink = AsyncSink(RemoteSink(URL, part_bytes=PART, **BRIEF))
    sink.write(event(0))
    sink.flush()
    store.failures = float("inf")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for step in range(1, 200):
            sink.write(event(step))
            if step % 20 == 0:
                sink.flush()
            time.sleep(0.002)
        until(lambda: store.tries > 3)
    assert [item.category for item in caught] == [TorchboardWarning]
    assert "the network is gone" in str(caught[0].message) and URL in str(caught[0].message)
    assert steps(store) == [0]
    store.failures = 0
    sink.write(event(200))
    sink.close()
    assert steps(store) == list(range(201)) and sink.dropped == 0
    assert list(spools.iterdir()) == []


def test_a_fault_is_raised_once_by_ticks_and_by_every_flush(store):
    sink = RemoteSink(URL, interval=0, patience=0)
    sink.write(event(0))
    store.failures = 5
    with pytest.raises(OSError, match="the network is gone"):
        sink.tick()
    sink.tick()
    for _ in range(2):
        with pytest.raises(OSError, match="the network is gone"):
            sink.flush()
    sink.tick()
    sink.tick()
    store.failures = 1
    sink.write(event(1))
    with pytest.raises(OSError, match="the network is gone"):
        sink.tick()
    sink.close()
    assert steps(store) == [0, 1]


class Clock:
    """Goes on only where somebody sleeps."""

    now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_a_store_that_fails_for_a_while_at_the_end_gets_everything(store, spools, monkeypatch):
    monkeypatch.setattr("torchboard.sink.remote.time", Clock())
    sink = RemoteSink(URL, part_bytes=PART, **BRIEF)
    for step in range(300):
        sink.write(event(step))
    store.failures = 3
    sink.close()
    assert steps(store) == list(range(300)) and list(spools.iterdir()) == []


def test_close_gives_up_on_a_store_that_is_gone_and_says_where_the_log_is(store, spools):
    sink = AsyncSink(RemoteSink(URL, part_bytes=PART, **BRIEF))
    sink.write(event(0))
    sink.flush()
    store.failures = float("inf")
    with pytest.warns(TorchboardWarning) as caught:
        for step in range(1, 300):
            sink.write(event(step))
        sink.close()
    (spool,) = spools.iterdir()
    (message,) = [str(item.message) for item in caught if "did not reach the store" in str(item.message)]
    assert repr(str(spool)) in message and "in 1 file(s)" in message and "the network is gone" in message
    assert accumulated(spool) == [(step, 0.5 * step) for step in range(300)]
    assert sink.dropped == 0


def test_a_sink_told_to_raise_raises_where_the_store_fails(store):
    sink = AsyncSink(RemoteSink(URL, **BRIEF), on_error="raise")
    store.failures = 1
    sink.write(event(0))
    with pytest.raises(torchboard.errors.SinkError, match="the network is gone"):
        sink.flush()
    time.sleep(BRIEF["interval"])
    sink.close()
    assert steps(store) == [0] and sink.dropped == 0


def test_a_store_that_takes_its_time_holds_nobody_up(store):
    sink = AsyncSink(RemoteSink(URL))
    store.open.clear()
    sink.write(event(0))
    flusher = threading.Thread(target=sink.flush)
    flusher.start()
    until(lambda: store.tries)
    for step in range(1, 1000):
        sink.write(event(step))
    assert flusher.is_alive() and store.puts == []
    store.open.set()
    flusher.join()
    sink.close()
    assert steps(store) == list(range(1000))


def test_what_nobody_flushes_is_uploaded_after_the_interval(store):
    sink = AsyncSink(RemoteSink(URL, **BRIEF))
    for step in range(3):
        sink.write(event(step))
        until(lambda: steps(store), lambda found: found == list(range(step + 1)))  # noqa: B023
    sink.close()


def test_a_request_that_is_never_answered_is_given_up(store, monkeypatch):
    monkeypatch.setattr("torchboard.sink.object_store._ANSWER_SECONDS", 0.1)
    with pytest.raises(RunError, match="TimeoutError"):
        SummaryWriter("silent://bucket/run")
    assert until(lambda: store.tries) == 1


def test_a_store_that_refuses_shows_at_construction_and_leaves_nothing(store, spools):
    store.failures, store.fault = float("inf"), PermissionError("access denied")
    with pytest.raises(RunError, match="PermissionError: access denied.*credentials"):
        SummaryWriter(URL)
    assert list(spools.iterdir()) == []
    store.failures = 0
    with SummaryWriter(URL) as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert steps(store) == [0]


def test_a_store_that_may_be_written_but_not_listed_is_written(store):
    store.lists = False
    for _ in range(2):
        with SummaryWriter(URL) as writer:
            writer.add_scalar("loss", 1.0, 0)
    starts = [item for path in store.objects for item in events(store.objects[path]) if item.HasField("session_log")]
    assert steps(store) == [0, 0] and starts == []


def test_what_is_not_installed_or_not_known_is_said_at_the_call(monkeypatch):
    with pytest.raises(RunError, match="'nowhere://x'.*Protocol not known.*check the URL"):
        SummaryWriter("nowhere://x")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(RunError, match="is not installed.*gcsfs"):
        SummaryWriter("gs://bucket/run")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(RunError, match=r"fsspec.*is not installed.*torchboard\[remote\]"):
        SummaryWriter("s3://bucket/run")


def test_writers_of_one_url_share_one_sink_wherever_they_stand(store, tmp_path, monkeypatch):
    first = open_run(URL)
    monkeypatch.chdir(tmp_path)
    second = open_run(URL + "/")
    assert first.sink is second.sink and first.log_dir == URL
    first.close()
    second.write(0, (("loss", Scalar(1.0)),))
    second.close()
    third = open_run(URL)
    third.close()
    assert len(store.names(PLACE)) == 2 and list(tmp_path.iterdir()) == []


def test_what_a_path_object_makes_of_a_url_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValueError, match="give the URL as a string"):
        SummaryWriter(PurePosixPath("s3://bucket/run"))
    with pytest.raises(RunError, match="'tfevents'"):
        SummaryWriter("memory://bucket/my.tfevents.run/")
    with pytest.raises(RunError, match="'nowhere://'"):
        SummaryWriter("nowhere://")
    assert list(tmp_path.iterdir()) == []


def test_a_file_url_is_the_directory_it_names(tmp_path):
    with SummaryWriter(f"file://{tmp_path}/run") as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert accumulated(tmp_path / "run") == [(0, 1.0)]


def test_a_store_with_directories_gets_them(tmp_path):
    store = ObjectStore(f"local://{tmp_path}/run")
    store.put("train/x.tfevents.1", b"1")
    assert (tmp_path / "run/train/x.tfevents.1").read_bytes() == b"1"
    assert store.event_files("train") == ["x.tfevents.1"] and store.event_files("validation") == []


def test_a_monitor_logs_to_a_url(store, tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters())
    with Monitor(model, URL) as monitor:
        for _ in range(2):
            model(torch.randn(4, 3)).sum().backward()
            optimizer.step()
            monitor.log_epoch(loss=0.5, val_loss=0.25)
        monitor.writer.add_embedding(np.eye(3), metadata=list("abc"))
    local = store.download(tmp_path) / PLACE
    log = torchboard.read(local)
    assert log.runs == ("train", "validation")
    assert list(log.scalars("epoch_loss", "validation").values) == [0.25, 0.25]
    assert accumulated(local / "train", "epoch_loss") == [(0, 0.5), (1, 0.5)]
    assert (local / "train/projector_config.pbtxt").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_parts_and_a_spool_of_its_own(tmp_path, spools):
    writer = SummaryWriter(f"local://{tmp_path}/run")
    writer.add_scalar("loss", 0.0, 0)
    writer.flush()
    child = os.fork()
    if not child:
        writer.add_scalar("loss", 1.0, 0)
        writer.close()
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    writer.add_scalar("loss", 2.0, 1)
    writer.close()
    assert accumulated(tmp_path / "run") == [(0, 0.0), (1, 2.0)]
    assert accumulated(tmp_path / f"run/fork-{child}") == [(0, 1.0)]
    assert list(spools.iterdir()) == []


UNCLOSED = """
import fsspec, sys
from concurrent.futures import ThreadPoolExecutor
from torchboard import SummaryWriter

pool = ThreadPoolExecutor()

class Pooled(fsspec.AbstractFileSystem):
    protocol = "pooled"
    def ls(self, path, detail=True, **kwargs):
        return []
    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        pool.submit(open(sys.argv[1], "wb").write, value).result()

fsspec.register_implementation("pooled", Pooled)
writer = SummaryWriter("pooled://bucket/run")
for step in range(100):
    writer.add_scalar("loss", 0.5 * step, step)
"""


def test_a_program_that_closes_nothing_loses_nothing(tmp_path):
    path = tmp_path / "part.tfevents.1"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", UNCLOSED, str(path)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(accumulated(tmp_path)) == 100 and [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.fixture(scope="module")
def s3():
    pytest.importorskip("moto", reason="S3 on loopback needs moto[server]")
    pytest.importorskip("s3fs", reason="s3:// needs s3fs")
    with s3_server() as (address, requests), pytest.MonkeyPatch.context() as patch:
        names = ("AWS_ENDPOINT_URL", "S3_ENDPOINT")
        for name, value in {
            **dict.fromkeys(names, address),
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        client = fsspec.get_filesystem_class("s3")
        client.clear_instance_cache()
        client().mkdir("bucket")
        yield requests
        client.clear_instance_cache()


def test_a_log_on_s3_is_read_where_it_is_and_after_a_download(s3, tmp_path):
    sink = RemoteSink("s3://bucket/run", part_bytes=PART)
    s3.clear()
    fill(sink, 10)
    sink.close()
    puts = s3.puts()
    assert accumulated("s3://bucket/run") == [(step, 0.5 * step) for step in range(500)]
    fsspec.filesystem("s3").get("bucket/run", str(tmp_path), recursive=True)
    stored = sum(path.stat().st_size for path in Path(tmp_path).rglob("*tfevents*"))
    assert accumulated(tmp_path / "run") == [(step, 0.5 * step) for step in range(500)]
    assert len(puts) == 10 and stored < sum(puts) < 3 * stored


def test_a_bucket_that_is_not_there_shows_at_construction(s3):
    with pytest.raises(RunError, match="bucket does not exist"):
        SummaryWriter("s3://missing/run")


def test_a_log_below_a_url_is_read_back_and_the_copy_goes_with_the_reader(spools):
    for run in ("train", "validation"):
        with SummaryWriter(f"memory://back/{run}") as writer:
            writer.add_scalar("loss", 0.5, 0)
    log = torchboard.read("memory://back")
    assert log.runs == ("train", "validation") and list(log.scalars("loss", "train").values) == [0.5]
    assert len(list(spools.iterdir())) == 1
    del log
    gc.collect()
    assert list(spools.iterdir()) == []


def test_a_log_on_s3_is_read_back(s3):
    with SummaryWriter("s3://bucket/back/deep") as writer:
        writer.add_scalar("loss", 0.5, 0)
    assert list(torchboard.read("s3://bucket/back").scalars("loss", "deep").values) == [0.5]


@pytest.mark.parametrize("url", ["memory://nothing/here", "nowhere://x"])
def test_a_url_that_cannot_be_read_is_said(url, spools):
    with pytest.raises(RunError, match="no event file|Protocol not known"):
        torchboard.read(url)
    assert list(spools.iterdir()) == []


def test_names_that_lead_out_of_the_copy_are_left_out(tmp_path):
    memory = fsspec.filesystem("memory")
    for name in ("run/x.tfevents.1", "run/../../../../out.tfevents.1"):
        memory.store[f"/hostile/{name}"] = fsspec.implementations.memory.MemoryFile(memory, name, b"")
    assert ObjectStore("memory://hostile").download(str(tmp_path / "copy")) == 1
    assert [path.name for path in tmp_path.rglob("*tfevents*")] == ["x.tfevents.1"]
