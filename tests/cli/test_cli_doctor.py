"""The doctor: every finding names where it is and what to do, and a sound log has none."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from handmade import event, records, scalar, start, write

from torchboard import Monitor, proto
from torchboard.cli import main
from torchboard.values import Event, Histogram, Image, Scalar, Text, encode
from torchboard.values.hparams import (
    EXPERIMENT_TAG,
    SESSION_END_TAG,
    SESSION_START_TAG,
    Experiment,
    HParamInfo,
    MetricInfo,
    SessionEnd,
    SessionStart,
)


def findings(directory, capsys, *words):
    """What the doctor says, but for the flag that shows every point."""
    assert main(["doctor", str(directory), *words]) == 1
    return [line for line in capsys.readouterr().out.splitlines() if not line.startswith("every point is shown by")]


def test_nothing_is_found_in_a_sound_log(log, capsys):
    write(log / "resumed", [start(0), scalar(0), scalar(1), scalar(2)], "1")
    write(log / "resumed", [start(1), scalar(1, at=2000), scalar(2, at=2001)], "2")
    assert main(["doctor", str(log)]) == 0
    assert capsys.readouterr().out == "nothing found\n"


def test_nothing_is_found_in_the_log_of_a_monitor(tmp_path, capsys):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, tmp_path / "trial", hparams={"lr": 0.1}) as monitor:
        for _ in range(3):
            loss = model(torch.randn(5, 1, 4, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.log_batch(loss=loss)
            monitor.log_epoch(val_loss=loss)
    assert main(["doctor", str(tmp_path)]) == 0, capsys.readouterr().out


def test_steps_that_go_back(tmp_path, capsys):
    write(tmp_path / "a", [scalar(step) for step in (0, 1, 2, 0, 1)])
    assert findings(tmp_path, capsys) == [
        "a: tag 'loss' at step 0: it comes after step 2 (1 time in all): the default loader shows 2 of 5 points, the "
        "Python loader a line that goes back; count steps on, or resume with purge_step; 'torchboard compact --clean' "
        "keeps the last pass"
    ]


def test_two_kinds_under_a_tag(tmp_path, capsys):
    write(tmp_path, [scalar(0, "x"), event(1, "x", Histogram(np.array([[0.0, 1.0, 2.0]])))])
    assert findings(tmp_path, capsys) == [
        ".: tag 'x' at step 1: it holds scalars and histograms: TensorBoard shows neither; give each kind a tag of its own"
    ]


def test_files_written_at_the_same_time(tmp_path, capsys):
    write(tmp_path, [scalar(step, "a", at=1 + step / 10) for step in range(30)], "1")
    write(tmp_path, [scalar(step, "b", at=1 + step / 10) for step in range(10, 50)], "2")
    write(tmp_path, [scalar(step, "c", at=1 + step / 10) for step in range(49, 60)], "3")
    (line,) = findings(tmp_path, capsys)
    assert line.startswith(
        ".: events.out.tfevents.1 and events.out.tfevents.2: they were written at the same time, for 1.9 s"
    )
    assert line.endswith("; give each writer a run of its own")


def test_a_torn_tail(tmp_path, capsys):
    path = write(tmp_path / "a", [scalar(0), scalar(1)])
    offset = len(records([scalar(0)]))
    path.write_bytes(path.read_bytes()[:-3])
    (line,) = findings(tmp_path, capsys)
    assert line.startswith(
        f"a: events.out.tfevents.1 at byte {offset}: the last record is torn (the file ends within it"
    )
    assert line.endswith("never append to this one; 'torchboard compact' leaves it behind")


@pytest.mark.parametrize(
    ("spot", "what", "loaders"), [(9, "length", "no loader reads further"), (-1, "data", "the Python")]
)
def test_a_bad_checksum_and_what_is_lost_behind_it(tmp_path, capsys, spot, what, loaders):
    head, bad, tail = (
        records([scalar(0)]),
        bytearray(records([scalar(1)], False)),
        records([scalar(2), scalar(3)], False),
    )
    bad[spot] ^= 1
    write(tmp_path, []).write_bytes(head + bad + tail)
    (line,) = findings(tmp_path, capsys)
    assert line.startswith(
        f".: events.out.tfevents.1 at byte {len(head)}: the checksum of its {what} does not fit ({len(bad)} bytes)"
    )
    assert loaders in line and "2 sound records behind it; take the rest with 'torchboard compact --salvage'" in line


@pytest.mark.parametrize("length", [10, 10_000])
def test_records_behind_a_torn_one(tmp_path, capsys, length):
    cut = records([event(1, "t", Text("x" * length))], False)[:-9]
    head, tail = records([scalar(0)]), records([scalar(2), scalar(3)], False)
    write(tmp_path, []).write_bytes(head + cut[: len(head) + 40] + tail)
    line = findings(tmp_path, capsys)[0]
    assert line.startswith(f".: events.out.tfevents.1 at byte {len(head)}: the ")
    assert "sound record" in line and "torchboard compact --salvage" in line


def test_a_record_that_is_no_event(tmp_path, capsys):
    from torchboard.eventfile.framing import frame

    path = write(tmp_path, [scalar(0)])
    offset = path.stat().st_size
    path.write_bytes(path.read_bytes() + frame(b"\xff\xff\xff") + records([scalar(1)], False))
    (line,) = findings(tmp_path, capsys)
    assert line.startswith(
        f".: events.out.tfevents.1 at byte {offset}: it is no event; 'torchboard compact' leaves it out"
    )


def test_directories_that_look_like_files(tmp_path, capsys):
    write(tmp_path / "my.tfevents.run", [scalar(0)])
    write(tmp_path, [scalar(0)])
    assert findings(tmp_path, capsys) == [
        f"{run}: the directory 'my.tfevents.run'{where}: it contains 'tfevents': the Python loader takes the directory for a "
        "file, and fails; rename it"
        for run, where in ((".", " in it"), ("my.tfevents.run", ""))
    ]


def test_tags_over_the_reservoir_with_the_flag_that_shows_all(tmp_path, capsys):
    texts = [event(step, "t", Text("")) for step in range(11)]
    pictures = [event(step, "p", Image(np.zeros((1, 1, 1, 1), np.uint8))) for step in range(11)]
    write(
        tmp_path,
        [*(scalar(step, "x") for step in range(1001)), *texts, *pictures, *(scalar(s, "y") for s in range(1000))],
    )
    assert main(["doctor", str(tmp_path)]) == 1
    *lines, flag = capsys.readouterr().out.splitlines()
    assert sorted(lines) == [
        ".: tag 'p' up to step 10: it has 11 points of images: TensorBoard shows a sample of 10; start it with "
        "--samples_per_plugin images=11, as 'torchboard view' does",
        ".: tag 't' up to step 10: it has 11 points of text: TensorBoard's Python loader shows a sample of 10; start it with "
        "--samples_per_plugin text=11, as 'torchboard view' does",
        ".: tag 'x' up to step 1000: it has 1001 points of scalars: TensorBoard shows a sample of 1000; start it with "
        "--samples_per_plugin scalars=1001, as 'torchboard view' does",
    ]
    assert flag.endswith(f"tensorboard --logdir {tmp_path} --samples_per_plugin images=11,scalars=1001,text=11")


def test_many_findings_of_a_kind_are_counted_unless_all_are_asked_for(tmp_path, capsys):
    write(tmp_path, [scalar(0, f"tag{number}") for number in range(12) for _ in range(2)])
    lines = findings(tmp_path, capsys)
    assert len(lines) == 11 and lines[-1] == ".: and 2 more of steps that go back; name them with --all"
    assert len(findings(tmp_path, capsys, "--all")) == 12


def tensor_event(step, tag, dtype, plugin="", **values):
    message = proto.Event(step=step, wall_time=1.0 + step)
    value = message.summary.value.add(tag=tag)
    value.tensor.CopyFrom(proto.TensorProto(dtype=proto.DataType[dtype].number, **values))
    if plugin:
        value.metadata.plugin_data.plugin_name = plugin
    return message


def test_scalars_that_are_not_float32(tmp_path, capsys):
    write(tmp_path, [tensor_event(1, "x", "DT_DOUBLE", "scalars", double_val=[1.0])])
    (line,) = findings(tmp_path, capsys)
    assert line.startswith(
        ".: tag 'x' at step 1: its scalars are DT_DOUBLE: the default loader shows DT_FLOAT of rank 0 only;"
    )


def test_metadata_that_come_late_and_never(tmp_path, capsys):
    late = [tensor_event(1, "late", "DT_FLOAT", float_val=[1.0]), event(2, "late", Scalar(1.0, "about"))]
    write(tmp_path, [*late, tensor_event(3, "never", "DT_FLOAT", float_val=[1.0])])
    first, second = findings(tmp_path, capsys)
    assert first.startswith(
        ".: tag 'late': its first record lacks the metadata that come at step 2: the default loader shows"
    )
    assert first.endswith("write the plugin ('scalars') with every value")
    assert second.startswith(".: tag 'never' at step 3: it names no plugin: it is shown nowhere;")


def test_wall_times_that_are_not_finite(tmp_path, capsys):
    write(tmp_path, [scalar(1, at=1.0), scalar(2, at=float("nan"))])
    (line,) = findings(tmp_path, capsys)
    assert line.startswith(
        ".: tag 'loss' at step 2: its wall time is not finite: the default loader reads the file no further;"
    )


def test_an_empty_log_and_an_empty_run(tmp_path, capsys):
    assert findings(tmp_path, capsys) == [f".: {tmp_path}: no file in it or below is an event file; check the path"]
    write(tmp_path / "a", [])
    assert findings(tmp_path, capsys) == ["a: 1 event file: there is no value: an empty run is listed; remove it"]


def trial(**hparams):
    pairs = ((SESSION_START_TAG, SessionStart(hparams, "group", 1.0)), (SESSION_END_TAG, SessionEnd(True, 2.0)))
    return encode(Event(0, 1000.0, pairs))[0]


def experiment(hparams, metrics):
    infos = tuple(HParamInfo(name) for name in hparams), tuple(MetricInfo(tag, group) for group, tag in metrics)
    return event(0, EXPERIMENT_TAG, Experiment(*infos))


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ({".": [experiment(["lr"], [("", "acc")])]}, [".: hparams: an experiment is declared and no run has"]),
        ({"a": [trial(lr=1.0)]}, ["a: hparams: hyperparameters without a metric: their row is empty"]),
        ({"a": [trial(lr=1.0)], "a/eval": [scalar(0)]}, []),
        (
            {"a": [event(0, SESSION_START_TAG, SessionStart({"lr": 1.0}, "group", 1.0)), scalar(0)]},
            ["a: hparams: the trial has not ended, and no writer of torchboard's on this machine holds it"],
        ),
        ({"a": [trial(lr=1.0)], "b": [scalar(0)]}, ["a: hparams: hyperparameters without a metric"]),
        ({".": [trial(lr=1.0), scalar(0)]}, [".: hparams: the trial lies in the log directory itself"]),
        (
            {"a": [event(0, SESSION_END_TAG, SessionEnd(True, 2.0)), scalar(0)]},
            ["a: hparams: a trial ends that never began"],
        ),
        (
            {".": [experiment(["lr"], [("eval", "acc")])], "a": [trial(lr=1.0, depth=3)], "a/eval": [scalar(0, "acc")]},
            ["a: hparams: 'depth': not declared by the experiment, so the table has no such column"],
        ),
        (
            {".": [experiment(["lr"], [("", "acc"), ("", "f1")])], "a": [trial(lr=1.0), scalar(0, "acc")]},
            [".: hparams: metric 'f1' is declared, and no trial has such a scalar"],
        ),
        (
            {
                ".": [experiment(["lr"], [("", "acc")])],
                "a": [trial(lr=1.0), scalar(0, "acc")],
                "b": [scalar(0, "acc"), scalar(0, "other")],
            },
            [
                "b: hparams: scalar 'acc' is a declared metric, but neither this run nor one above it has hyperparameters"
            ],
        ),
        (
            {
                "a": [experiment(["lr"], [("", "acc")]), trial(lr=1.0), scalar(0, "acc")],
                "b": [experiment(["lr"], [("", "f1")]), trial(lr=1.0), scalar(0, "f1")],
            },
            ["b: hparams: its experiment declares other columns than that of 'a'"],
        ),
        (
            {"a": [trial(lr=1.0), scalar(2**31)]},
            ["a: hparams: scalar 'loss' has step 2147483648: the table fails as a whole"],
        ),
    ],
)
def test_trials_and_their_metrics(tmp_path, capsys, runs, expected):
    for run, messages in runs.items():
        write(tmp_path / run, messages)
    status = main(["doctor", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    lines = lines if status else []
    assert status == bool(expected) and len(lines) == len(expected), lines
    assert all(line.startswith(start) for line, start in zip(lines, expected)), lines
    assert all(re.search(r"; \S.*$", line) for line in lines)
