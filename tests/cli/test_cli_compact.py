"""Compacting: the same in TensorBoard's Python reader before and after, nothing sound lost, nothing half done."""

from __future__ import annotations

import logging
import math
import os
import shutil
import warnings

import numpy as np
import pytest
from handmade import event, records, scalar, start, write
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

import torchboard
from torchboard import proto
from torchboard.cli import main
from torchboard.eventfile.framing import frame
from torchboard.eventfile.scanning import walk
from torchboard.sink.ownership import disown, own
from torchboard.values import Array, Histogram, Image, Scalar, Text
from torchboard.values.hparams import SESSION_START_TAG, SessionStart

EVERYTHING = {"tensors": 0}

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every restart


def shown(directory, times=True):
    """What TensorBoard's Python reader has of a run: tag -> metadata and points, and the graph."""
    accumulator = EventAccumulator(str(directory), EVERYTHING, dict.fromkeys(("images", "text", "scalars", "audio"), 0))
    accumulator.Reload()
    tags = accumulator.Tags()
    found = {
        tag: (
            accumulator.SummaryMetadata(tag).SerializeToString(),
            [
                (item.step, item.wall_time if times else None, item.tensor_proto.SerializeToString())
                for item in accumulator.Tensors(tag)
            ],
        )
        for tag in tags["tensors"]
    }
    return found, accumulator.SerializedGraph(), {tag: accumulator.RunMetadata(tag) for tag in tags["run_metadata"]}


def compact(log_dir, *words):
    assert main(["compact", str(log_dir), *words]) == 0


def files(directory):
    return sorted(path.name for path in directory.iterdir())


def events(path):
    return [proto.Event.FromString(item.data) for item in walk(path)]


def points(directory, tag="loss"):
    series = torchboard.read(directory).scalars(tag)
    return list(zip(series.steps.tolist(), series.values.tolist()))


def test_the_copy_is_shown_as_the_log_is_and_the_log_is_untouched(log, capsys):
    before = {path: path.read_bytes() for path in log.rglob("*tfevents*")}
    compact(log)
    copy = log.parent / "log-compact"
    assert {path: path.read_bytes() for path in log.rglob("*") if path.is_file()} == before
    assert torchboard.read(copy).runs == ("train", "validation")
    for run in ("train", "validation"):
        assert shown(copy / run) == shown(log / run)
        assert len(files(copy / run)) == 1
    assert f"written to {copy}" in capsys.readouterr().out


def test_scalars_of_a_step_share_an_event_and_keep_their_order(tmp_path, capsys):
    calls = [scalar(step, tag, step + number) for step in range(50) for number, tag in enumerate("cab")]
    path = write(tmp_path, calls)
    before, size = shown(tmp_path), path.stat().st_size
    compact(tmp_path, "--in-place")
    assert shown(tmp_path) == before
    packed = events(path)
    assert [len(one.summary.value) for one in packed] == [0, *[3] * 50]
    assert [value.tag for value in packed[1].summary.value] == ["c", "a", "b"]
    saved = size - path.stat().st_size
    assert saved > 0.4 * size
    assert f"1 file, {size / 1000:.3g} kB -> " in capsys.readouterr().out


@pytest.mark.parametrize(("slack", "counts", "times"), [("0.01", [3], [5.0]), ("0", [1, 1, 1], [5.0, 5.006, 5.009])])
def test_times_move_to_the_first_of_an_event_by_no_more_than_the_slack(tmp_path, capsys, slack, counts, times):
    path = write(tmp_path, [scalar(1, "abc"[number], at=5.0 + at) for number, at in enumerate((0, 0.006, 0.009))])
    compact(tmp_path, "--in-place", "--time-slack", slack)
    assert [len(one.summary.value) for one in events(path)[1:]] == counts
    assert [one.wall_time for one in events(path)[1:]] == times
    assert ("times moved by up to 9 ms" in capsys.readouterr().out) == (slack != "0")


def test_no_event_takes_a_tag_twice_a_later_step_or_a_far_time(tmp_path):
    calls = [
        scalar(1, "a"),
        scalar(1, "a", 2.0),
        scalar(2, "b", at=1001.0),
        scalar(2, "c", at=1001.5),
        scalar(2, "d", at=9),
    ]
    path = write(tmp_path, calls)
    compact(tmp_path, "--in-place")
    assert [[value.tag for value in one.summary.value] for one in events(path)[1:]] == [
        ["a"],
        ["a"],
        ["b"],
        ["c"],
        ["d"],
    ]


def test_an_event_of_several_kinds_stays_behind_the_scalars_before_it(tmp_path):
    mixed = scalar(1)
    mixed.summary.value.extend(event(1, "text", Text("x")).summary.value)
    write(tmp_path, [scalar(0), mixed, scalar(1, "acc")])
    compact(tmp_path)
    assert [step for step, _ in points(f"{tmp_path}-compact")] == [0, 1]


def test_every_kind_of_record_is_kept(tmp_path):
    graph = proto.Event(wall_time=3.0, graph_def=proto.GraphDef(node=[proto.NodeDef(name="x")]).SerializeToString())
    old = proto.Event(step=4, wall_time=4.0)
    old.summary.value.add(tag="old").histo.CopyFrom(
        proto.HistogramProto(min=0, max=2, num=3, sum=3, sum_squares=4, bucket_limit=[1, 2], bucket=[1, 2])
    )
    write(
        tmp_path,
        [
            scalar(0),
            graph,
            event(0, "text", Text("hello", "about")),
            scalar(0, "acc"),
            event(0, "array", Array(np.arange(3))),
            event(0, "pictures", Image(np.zeros((2, 3, 4, 1), np.uint8))),
            old,
            scalar(1),
        ],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = shown(tmp_path)
        compact(tmp_path, "--in-place")
        assert shown(tmp_path) == before
    assert len(torchboard.read(tmp_path).graphs().values) == 1


def test_several_files_become_one_under_the_name_of_the_last(tmp_path):
    write(tmp_path, [scalar(0), scalar(1)], "1")
    write(tmp_path, [scalar(2), scalar(3)], "2")
    last = write(tmp_path, [scalar(4)], "3")
    (tmp_path / "notes.txt").write_text("mine")
    os.utime(last, (77, 77))
    before = shown(tmp_path)
    compact(tmp_path, "--in-place")
    assert files(tmp_path) == ["events.out.tfevents.3", "notes.txt"]
    assert (shown(tmp_path), last.stat().st_mtime) == (before, 77)


RESTART = {
    "1": [start(0), *(scalar(step) for step in range(6)), scalar(5, "only first")],
    "2": [start(3), *(scalar(step, value=2.0) for step in range(3, 8))],
}


def test_points_that_both_loaders_leave_out_after_a_restart_are_left_behind(tmp_path, capsys):
    for name, messages in RESTART.items():
        write(tmp_path, messages, name)
    before = shown(tmp_path)
    compact(tmp_path, "--in-place")
    assert shown(tmp_path) == before
    (path,) = tmp_path.iterdir()
    steps = [one.step for one in events(path) for value in one.summary.value if value.tag == "loss"]
    assert steps == [0, 1, 2, 3, 4, 5, 6, 7]
    assert "3 superseded points left behind" in capsys.readouterr().out
    kept = [value.tag for one in events(path) for value in one.summary.value if value.tag != "loss"]
    assert kept == ["only first"]  # which the default loader shows


def test_clean_leaves_behind_what_either_loader_leaves_out(tmp_path):
    for name, messages in RESTART.items():
        write(tmp_path / "said", messages, name)
        write(tmp_path / "unsaid", messages[1:], name)
    compact(tmp_path, "--in-place", "--clean")
    assert set(torchboard.read(tmp_path).tags("said")) == {"loss"}
    assert points(tmp_path / "said")[2:4] == [(2, 1.0), (3, 2.0)]
    assert points(tmp_path / "unsaid") == points(tmp_path / "said")


def test_clean_keeps_hyperparameters_that_were_written_once_and_the_last_of_all_steps(tmp_path):
    last = 2**63 - 1
    write(tmp_path, [start(0), event(0, SESSION_START_TAG, SessionStart({"lr": 0.1}, "group", 1.0)), scalar(0)], "1")
    write(tmp_path, [start(0), scalar(0, value=2.0), scalar(last)], "2")
    compact(tmp_path, "--in-place", "--clean")
    assert points(tmp_path) == [(0, 2.0), (last, 1.0)]
    (path,) = tmp_path.iterdir()
    assert SESSION_START_TAG in [value.tag for one in events(path) for value in one.summary.value]


def test_without_clean_a_restart_that_was_not_announced_keeps_every_point(tmp_path):
    for name, messages in RESTART.items():
        write(tmp_path, messages[1:], name)
    before = shown(tmp_path)
    compact(tmp_path, "--in-place")
    assert shown(tmp_path) == before
    assert len(points(tmp_path)) == 11


def test_the_metadata_that_count_stay_the_first(tmp_path):
    trials = [SessionStart({"lr": rate}, "group", 1.0) for rate in (0.1, 0.2)]
    for name, trial, text in zip("12", trials, ("old", "new")):
        write(tmp_path, [start(0), event(0, SESSION_START_TAG, trial), event(0, "t", Text("x", text))], name)
    before = shown(tmp_path)
    compact(tmp_path, "--in-place", "--clean")
    after = shown(tmp_path)
    assert after == before and b"old" in after[0]["t"][0]
    assert b"lr" in after[0][SESSION_START_TAG][0]


def test_many_scalars_in_a_row_take_the_metadata_of_the_first_and_lose_times_that_are_not_finite(tmp_path, capsys):
    first = event(50, "loss", Scalar(1.0, "about"))
    rest = [scalar(step, at=math.nan if step == 150 else None) for step in range(1, 201)]
    write(tmp_path / "log", [start(0), first, start(1), *rest])
    before = points(tmp_path / "log")
    compact(tmp_path / "log")
    assert points(tmp_path / "log-compact") == before
    out = capsys.readouterr().out
    assert "1 superseded point left behind" in out and "1 record without a finite time" in out
    kept = [one for one in events(tmp_path / "log-compact" / "events.out.tfevents.1") if one.summary.value]
    assert len(kept) == 200 and kept[0].summary.value[0].metadata.summary_description == "about"
    assert kept[149].wall_time == kept[148].wall_time == 1149.0


def test_files_without_a_version_are_purged_as_before(tmp_path):
    path = write(tmp_path, [scalar(step) for step in (0, 1, 2, 1, 2, 3)], version=False)
    before = shown(tmp_path)
    compact(tmp_path, "--in-place")
    assert shown(tmp_path) == before
    assert not any(one.file_version for one in events(path))


def test_a_torn_tail_is_left_behind_and_named(tmp_path, capsys):
    path = write(tmp_path, [scalar(0), scalar(1), scalar(2)])
    path.write_bytes(path.read_bytes()[:-5])
    compact(tmp_path, "--in-place")
    assert points(tmp_path) == [(0, 1.0), (1, 1.0)] and torchboard.read(tmp_path).problems == ()
    assert "left behind at byte " in capsys.readouterr().out
    assert files(tmp_path) == ["events.out.tfevents.1"]


def damaged(directory, length=False):
    """A file whose second scalar of four has a bad checksum, of its data or of its length."""
    head, bad, tail = (
        records([scalar(0)]),
        bytearray(records([scalar(1)], False)),
        records([scalar(2), scalar(3)], False),
    )
    bad[9 if length else -1] ^= 1
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "events.out.tfevents.1").write_bytes(head + bad + tail)
    return head + bad + tail


@pytest.mark.parametrize(
    ("length", "words", "expected"),
    [(False, [], [0, 2, 3]), (True, [], [0]), (True, ["--salvage"], [0, 2, 3]), (False, ["--salvage"], [0, 2, 3])],
)
def test_records_behind_a_broken_one_are_taken_as_the_default_loader_does_or_salvaged(
    tmp_path, length, words, expected
):
    before = damaged(tmp_path / "run", length)
    write(tmp_path / "run", [scalar(9)], "2")
    compact(tmp_path, "--in-place", *words)
    assert [step for step, _ in points(tmp_path)] == [*expected, 9]
    assert files(tmp_path / "run") == ["events.out.broken.1", "events.out.tfevents.2"]
    assert (tmp_path / "run" / "events.out.broken.1").read_bytes() == before


def test_the_last_file_is_kept_aside_too_where_it_is_damaged(tmp_path, capsys):
    before = damaged(tmp_path)
    compact(tmp_path, "--in-place")
    assert (tmp_path / "events.out.broken.1").read_bytes() == before
    assert "the checksum of its data does not fit; the file is kept as events.out.broken.1" in capsys.readouterr().out


def test_times_that_are_not_finite_become_those_of_the_record_before(tmp_path, capsys):
    write(tmp_path, [scalar(0), scalar(1, at=float("nan")), scalar(2, at=float("inf")), scalar(3)])
    compact(tmp_path, "--in-place")
    assert torchboard.read(tmp_path).scalars("loss").wall_times.tolist() == [1000.0, 1000.0, 1000.0, 1003.0]
    assert "2 records without a finite time" in capsys.readouterr().out


def test_a_sound_record_that_is_no_event_is_left_behind(tmp_path, capsys):
    path = write(tmp_path, [scalar(0)])
    path.write_bytes(path.read_bytes() + frame(b"\xff\xff\xff") + records([scalar(1)], False))
    compact(tmp_path, "--in-place")
    assert [step for step, _ in points(tmp_path)] == [0, 1]
    assert "1 record left behind that are no events" in capsys.readouterr().out


def test_a_run_that_somebody_writes_is_left_out_and_the_others_are_done(tmp_path, capsys):
    for run in "ab":
        write(tmp_path / run, [scalar(0), scalar(0, "acc")])
    before = (tmp_path / "a" / "events.out.tfevents.1").read_bytes()
    owner = own(str(tmp_path / "a"))
    try:
        assert main(["compact", str(tmp_path), "--in-place"]) == 2
    finally:
        disown(owner)
    out, err = capsys.readouterr()
    assert (tmp_path / "a" / "events.out.tfevents.1").read_bytes() == before
    assert "run 'a' is left out" in err and "another process is writing in it" in err and "saved" in out
    assert len(events(tmp_path / "b" / "events.out.tfevents.1")) == 2


def test_a_file_that_grows_meanwhile_is_left_alone(tmp_path, capsys, monkeypatch):
    path = write(tmp_path, [scalar(0), scalar(0, "acc")])
    from torchboard.cli import compaction

    rewritten = compaction._Copy.write

    def write_while_it_grows(*arguments):
        rewritten(*arguments)
        path.write_bytes(path.read_bytes() + records([scalar(1)], False))

    monkeypatch.setattr(compaction._Copy, "write", write_while_it_grows)
    assert main(["compact", str(tmp_path), "--in-place"]) == 2
    assert "its event files changed while they were read; end the training" in capsys.readouterr().err
    assert files(tmp_path) == [path.name] and len(points(tmp_path)) == 2


@pytest.mark.parametrize("fails", ["torchboard.cli.compaction.os.fsync", "torchboard.cli.compact.os.replace"])
def test_a_failure_leaves_the_log_as_it_was(tmp_path, capsys, monkeypatch, fails):
    for name in "12":
        write(tmp_path, [scalar(int(name)), scalar(int(name), "acc")], name)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, fail)
    assert main(["compact", str(tmp_path), "--in-place"]) == 2
    assert main(["compact", str(tmp_path)]) == (2 if "fsync" in fails else 0)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert os.path.exists(f"{tmp_path}-compact") == ("fsync" not in fails)
    assert not os.path.exists(f"{tmp_path}-compact.part")
    assert "No space left" in capsys.readouterr().err


def test_an_interruption_between_rename_and_removal_is_finished_by_the_next_command(tmp_path, monkeypatch, capsys):
    for name in "123":
        write(tmp_path, [scalar(int(name)), scalar(int(name), "acc")], name)
    before = shown(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("torchboard.cli.compact._aside", lambda path: path)
        patch.setattr("torchboard.cli.compact._sync", lambda directory: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["compact", str(tmp_path), "--in-place"]) == 130
    assert len(files(tmp_path)) == 3
    capsys.readouterr()
    assert main(["doctor", str(tmp_path)]) == 1
    assert "an interrupted 'torchboard compact' has already written its data" in capsys.readouterr().out
    compact(tmp_path)
    assert shown(f"{tmp_path}-compact") == before
    compact(tmp_path, "--in-place")
    assert (files(tmp_path), shown(tmp_path)) == (["events.out.tfevents.3"], before)
    compact(tmp_path, "--in-place")
    assert (files(tmp_path), shown(tmp_path)) == (["events.out.tfevents.3"], before)


def test_a_command_that_was_killed_leaves_a_file_that_the_next_one_removes(tmp_path):
    write(tmp_path, [scalar(0), scalar(0, "acc")])
    (tmp_path / ".torchboard-compact.tmp").write_bytes(b"half")
    compact(tmp_path, "--in-place")
    assert files(tmp_path) == ["events.out.tfevents.1"]


def test_a_file_that_would_not_shrink_stays_as_it_is(tmp_path):
    path = write(tmp_path, [scalar(0), scalar(1)])
    inode = path.stat().st_ino
    compact(tmp_path, "--in-place")
    assert path.stat().st_ino == inode


def test_embeddings_and_profiles_go_with_the_copy_and_nothing_else_does(tmp_path):
    log = tmp_path / "log"
    write(log / "run", [scalar(0)])
    config = 'embeddings { tensor_name: "a" tensor_path: "a/t.tsv" metadata_path: "../../secret" }'
    (log / "run" / "projector_config.pbtxt").write_text(config)
    (log / "run" / "a").mkdir()
    (log / "run" / "plugins" / "profile" / "x").mkdir(parents=True)
    for name in ("run/a/t.tsv", "run/plugins/profile/x/host.xplane.pb", "run/checkpoint.pt"):
        (log / name).write_text(name)
    (tmp_path / "secret").write_text("secret")
    compact(log)
    copied = {
        str(path.relative_to(f"{log}-compact")) for path in (tmp_path / "log-compact").rglob("*") if path.is_file()
    }
    assert copied == {
        "run/events.out.tfevents.1",
        "run/projector_config.pbtxt",
        "run/a/t.tsv",
        "run/plugins/profile/x/host.xplane.pb",
    }


def test_large_histograms_get_few_buckets_if_asked_and_keep_counts_and_extremes(tmp_path, capsys):
    edges = np.linspace(-3, 5, 601)
    counts = np.arange(600.0)
    large = Histogram.from_counts(edges, counts, "about")
    small = Histogram(np.array([[0.0, 1.0, 2.0]]))
    halves = Histogram.from_counts(edges, counts + 0.5)
    path = write(tmp_path, [event(0, "large", large), event(0, "small", small), event(0, "halves", halves)])
    compact(tmp_path, "--in-place")
    assert torchboard.read(tmp_path).histograms("large").values == [large]
    compact(tmp_path, "--in-place", "--histograms")
    assert "1 histogram with fewer buckets" in capsys.readouterr().out
    reader = torchboard.read(tmp_path)
    (made,) = reader.histograms("large").values
    assert len(made.buckets) <= 64 and made.description == "about"
    assert made.buckets[:, 2].sum() == counts.sum() and (made.buckets[0, 0], made.buckets[-1, 1]) == (-3, 5)
    between = np.interp([0.0, 2.0], np.append(made.buckets[:, 0], 5), np.append(0, made.buckets[:, 2].cumsum()))
    assert np.allclose(
        between / counts.sum(), np.interp([0.0, 2.0], edges, np.append(0, counts.cumsum())) / counts.sum(), atol=0.03
    )
    assert reader.histograms("small").values == [small] and reader.histograms("halves").values == [halves]
    assert max(len(item.data) for item in walk(path)) > 900  # that of halves


def test_logs_of_other_writers_are_shown_as_before(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("torch.utils.tensorboard")
        tensorboardx = pytest.importorskip("tensorboardX")
        for name, writer_of in (("torch", theirs.SummaryWriter), ("x", tensorboardx.SummaryWriter)):
            with writer_of(str(tmp_path / "log" / name)) as writer:
                for step in range(20):
                    writer.add_scalar("loss", 1 / (step + 1), step)
                    writer.add_scalar("acc", step, step)
                writer.add_histogram("weights", np.arange(100.0), 3)
                writer.add_image("picture", np.full((3, 4, 5), 51, np.uint8), 4)
                writer.add_text("notes", "text", 2)
                if name == "torch":
                    writer.add_scalar("new", 1.0, 0, new_style=True)
        compact(tmp_path / "log", "--time-slack", "0")
        for name in ("torch", "x"):
            assert shown(tmp_path / "log-compact" / name) == shown(tmp_path / "log" / name)
        shutil.rmtree(tmp_path / "log-compact")
        compact(tmp_path / "log")
        assert shown(tmp_path / "log-compact" / "x", times=False) == shown(tmp_path / "log" / "x", times=False)


messages = st.one_of(
    st.builds(
        scalar, st.integers(0, 5), st.sampled_from("ab"), st.floats(width=32), st.sampled_from([1.0, 1.005, 2.0])
    ),
    st.builds(start, st.integers(0, 5)),
    st.builds(lambda step, text: event(step, "t", Text("x", text)), st.integers(0, 5), st.sampled_from(["", "y"])),
)


def burst(seed):
    """More scalars in a row than are read one by one: steps that go on or stay, a few tags, times apart or not."""
    random = np.random.default_rng(seed)
    pace, number = random.choice([0.0, 0.3, 1.0]), int(random.integers(80, 300))
    steps = np.cumsum(random.random(number) < pace).tolist()
    times = (1000 + np.cumsum(random.choice([0.0, 0.004, 0.02], number))).tolist()
    return [scalar(step, tag, step / 7, at) for step, tag, at in zip(steps, random.choice([*"abc"], number), times)]


def default_loader(paths):
    """What the default loader keeps, by its rule: tag -> first metadata, and steps and values."""
    first, kept = {}, {}
    for one in [one for path in sorted(paths) for one in events(path)]:
        for value in one.summary.value:
            first.setdefault(value.tag, value.metadata.SerializeToString())
            rows = kept.setdefault(value.tag, [])
            while rows and rows[-1][0] >= one.step:
                rows.pop()
            value.ClearField("metadata")
            rows.append((one.step, value.SerializeToString()))
    return first, kept


pieces = st.lists(messages.map(lambda one: [one]) | st.integers(0, 99).map(burst), max_size=8)


@given(st.lists(pieces, min_size=1, max_size=3), st.booleans())
@settings(max_examples=40)
def test_both_loaders_show_the_same_of_any_run(tmp_path_factory, parts, clean):
    log = tmp_path_factory.mktemp("any")
    for number, part in enumerate(parts):
        write(log / "log", [message for piece in part for message in piece], str(number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        python, default = shown(log / "log", times=False), default_loader((log / "log").iterdir())
        compact(log / "log", *["--clean"] * clean)
        copy = log / "log-compact"
        if clean:
            first, kept = default_loader(copy.iterdir())
            assert first.items() <= default[0].items()
            seen = {tag: [step for step, *_ in rows] for tag, (_, rows) in shown(copy, times=False)[0].items() if rows}
            assert seen == {tag: [step for step, _ in rows] for tag, rows in kept.items() if rows}
        else:
            assert shown(copy, times=False) == python
            assert default_loader(copy.iterdir()) == default
