"""Runs and tags listed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from handmade import event, scalar, write

from torchboard.cli import main
from torchboard.cli.progress import progress
from torchboard.cli.terminal import duration, size, table
from torchboard.hparams import Trial
from torchboard.values.hparams import SESSION_START_TAG, SessionStart

KILLED = """
import os, sys
from torchboard.hparams import Trial
Trial(sys.argv[1], {"lr": 0.1}).__enter__()
os.kill(os.getpid(), 9)
"""


def test_runs_tags_kinds_points_steps_sizes_and_times(log, capsys, monkeypatch):
    assert main(["ls", str(log)]) == 0
    lines = capsys.readouterr().out.splitlines()
    nbytes = (log / "train" / "events.out.tfevents.1").stat().st_size
    assert lines[0].startswith(f"train  (1 file, {nbytes} bytes, 1970-01-01 ") and lines[0].endswith(", 7 s)")
    rows = [line.split() for line in lines]
    assert rows[1] == ["tag", "kind", "points", "steps", "last", "written"]
    assert ["loss", "scalars", "4", "0..3"] in [row[:4] for row in rows]
    assert ["notes", "text", "1", "7..7"] in [row[:4] for row in rows]
    assert [row[0] for row in rows if row and row[0] in ("train", "validation")] == ["train", "validation"]
    assert rows[2][-1].endswith(":43")


def test_a_trial_that_runs_is_told_from_one_whose_process_was_killed(tmp_path, capsys):
    with Trial(tmp_path / "good", {"lr": 0.1}):
        pass
    with pytest.raises(RuntimeError), Trial(tmp_path / "bad", {"lr": 0.1}):
        raise RuntimeError
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")])
    write(tmp_path / "keras", [event(0, SESSION_START_TAG, SessionStart({"lr": 0.1}, "", 1.0))])
    with Trial(tmp_path / "live", {"lr": 0.1}):
        assert main(["ls", str(tmp_path)]) == 0
        listed = dict(re.findall(r"^(\w+)  \(.*; trial (.+)\)$", capsys.readouterr().out, re.MULTILINE))
        ours = {"bad": "failed", "good": "succeeded", "killed": "not ended", "live": "running"}
        assert listed == {**ours, "keras": "running or not ended"}
        assert main(["doctor", str(tmp_path)]) == 1
        complaints = [line for line in capsys.readouterr().out.splitlines() if "has not ended" in line]
        assert [line.split(":")[0] for line in complaints] == ["keras", "killed"]


def test_a_trial_that_was_killed_is_told_of_after_its_log_was_compacted_too(tmp_path, capsys):
    for files in (1, 2):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")])
        assert len([*(tmp_path / "killed").glob("events*")]) == files
    assert main(["compact", str(tmp_path), "--in-place"]) == 0
    assert len([*(tmp_path / "killed").glob("events*")]) == 1
    capsys.readouterr()
    assert main(["ls", str(tmp_path)]) == 0
    assert "; trial not ended)" in capsys.readouterr().out


def test_globs_choose_runs_and_tags(log, capsys):
    assert main(["ls", str(log), "--tag", "odd"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line] == ["train", "tag", "odd"]


def test_what_cannot_be_read_is_said_on_stderr(tmp_path, capsys):
    path = write(tmp_path, [scalar(0, at=float("nan")), scalar(1), scalar(2)])
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["ls", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert ["loss", "scalars", "2", "0..1", "1970-01-01"] in [line.split()[:5] for line in out.splitlines()]
    assert err.startswith(f"torchboard: {path} at byte ") and "the file ends within it" in err


@pytest.mark.parametrize(
    ("nbytes", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_600, "1 MB"),
        (2.5e12, "2500 GB"),
    ],
)
def test_sizes_have_three_digits(nbytes, words):
    assert size(nbytes) == words


def test_durations_have_two_units():
    assert [duration(seconds) for seconds in (0.0012, 7, 61, 3600, 90000)] == [
        "1.2 ms",
        "7 s",
        "1 min 1 s",
        "1 h 0 min",
        "1 d 1 h",
    ]


def test_columns_line_up():
    assert table([("a", "bb"), ("ccc", "d")], right=(1,)) == ["a    bb", "ccc   d"]


def test_a_bar_is_drawn_on_a_terminal_for_many_bytes_only(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    with progress(1 << 30, "reading") as advance:
        advance(1 << 29)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress(1 << 10, "reading") as advance:
        advance(1)
    assert capsys.readouterr().err == ""
    with progress(1 << 30, "reading") as advance:
        assert advance.__self__.total == 1 << 30
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)
    with progress(1 << 30, "reading") as advance:
        advance(1)
    assert capsys.readouterr().err == ""
