"""Trials as people run them: configurations of every kind, runs that are repeated, and ends of every kind."""

from __future__ import annotations

import dataclasses
import enum
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from torchboard import Monitor, SummaryWriter, hparams, read
from torchboard.errors import InvalidValueError, TorchboardWarning
from torchboard.hparams import Discrete, HParam, IntInterval, RealInterval, Trial, grid, sample
from torchboard.values.hparams import SESSION_END_TAG, SESSION_START_TAG

FAILURE = "trial/failure"


class Optimizer(enum.Enum):
    ADAM = "adam"
    SGD = 2


@dataclasses.dataclass
class Layers:
    width: int = 8
    dropout: float | None = None


@dataclasses.dataclass
class Config:
    data: Path = Path("data/digits")
    layers: Layers = dataclasses.field(default_factory=Layers)
    optimizer: Optimizer = Optimizer.ADAM
    amsgrad: bool = False


def kept(log_dir, tag):
    """What a trial's run holds under a tag, or nothing."""
    log = read(log_dir)
    return list(log.values(tag, ".").values) if tag in log.tags(".") else []


def ends(log_dir):
    return [end.succeeded for end in kept(log_dir, SESSION_END_TAG)]


def test_a_configuration_is_a_flat_table_of_typed_values(tmp_path):
    flat = {
        "data": str(Path("data/digits")),
        "layers.width": 8,
        "layers.dropout": "None",
        "optimizer": "adam",
        "amsgrad": False,
    }
    assert Trial(tmp_path, Config()).hparams == flat
    nested = {"a": {"b": {HParam("c", IntInterval(1, 3)): 2}, "d": Config()}, "e": Optimizer.SGD, "f": np.float64(0.5)}
    expected = {"a.b.c": 2, **{f"a.d.{name}": value for name, value in flat.items()}, "e": "SGD", "f": 0.5}
    with Trial(tmp_path, nested) as trial:
        assert trial.hparams == expected
    (start,) = kept(tmp_path, SESSION_START_TAG)
    assert start.hparams == expected and start.hparams["a.d.amsgrad"] is False


def test_a_configuration_that_cannot_be_shown_is_refused(tmp_path):
    circle: dict = {}
    circle["in"] = circle
    for wrong in (
        {"a": {HParam("b", IntInterval(1, 3)): 4}},
        {"a": {"b": 1}, "a.b": 2},
        {"a": {"b": (1, 2)}},
        {"a": {3: 1}},
        {"a": {"": 1}},
        circle,
        Config,
        7,
    ):
        with pytest.raises(InvalidValueError, match=r"hyperparameter.*: .*; "):
            Trial(tmp_path / "a", wrong)
    assert not (tmp_path / "a").exists()


def test_a_monitor_takes_a_configuration_too(tmp_path):
    with Monitor(nn.Linear(1, 1), tmp_path, hparams=Config()):
        pass
    assert kept(tmp_path, SESSION_START_TAG)[0].hparams["layers.width"] == 8 and ends(tmp_path) == [True]


def test_the_beginning_is_on_disk_while_the_trial_runs(tmp_path):
    with Trial(tmp_path, {"lr": 0.1}):
        assert kept(tmp_path, SESSION_START_TAG)[0].hparams == {"lr": 0.1}
        assert ends(tmp_path) == []


def test_a_failure_says_why(tmp_path):
    with pytest.raises(ZeroDivisionError), Trial(tmp_path / "trial", {"lr": 0.1}):
        1 / 0  # noqa: B018
    with pytest.raises(KeyError), Monitor(nn.Linear(1, 1), tmp_path / "monitor", hparams={"lr": 0.1}):
        raise KeyError("a | ``` b")
    for name, words in (("trial", ("ZeroDivisionError", "1 / 0", __file__)), ("monitor", ("KeyError", "a \\|"))):
        (text,) = kept(tmp_path / name, FAILURE)
        assert all(word in text.markdown for word in words), text.markdown
        assert text.markdown.count("```") == 2 and ends(tmp_path / name) == [False]


def test_a_success_has_no_reason(tmp_path):
    with Trial(tmp_path, {"lr": 0.1}):
        pass
    assert ends(tmp_path) == [True] and kept(tmp_path, FAILURE) == []


JOB = """
import signal, sys, time
from torchboard import Monitor, SummaryWriter
from torchboard.hparams import Trial
how = sys.argv[2]
if how == "handled":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
if how == "monitor":
    import torch
    trial = Monitor(torch.nn.Linear(1, 1), sys.argv[1], hparams={"lr": 0.1})
else:
    trial = Trial(sys.argv[1], {"lr": 0.1})
with trial:
    if how == "ended":
        trial.__exit__(None, None, None)
        writer = SummaryWriter(sys.argv[1])
        writer.add_scalar("loss", 1.0, 0)
    told = []
    if how == "chained":
        found = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *arguments: (found(*arguments), told.append(True)))
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    deadline = time.monotonic() + 60
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("how", "status", "succeeded", "reason"),
    [
        ("trial", -signal.SIGTERM, False, "SIGTERM"),
        ("monitor", -signal.SIGTERM, False, "SIGTERM"),
        ("handled", 3, False, "SystemExit"),
        ("chained", 0, True, None),
        ("ended", -signal.SIGTERM, True, None),
    ],
)
def test_a_trial_has_failed_where_sigterm_ends_it_and_only_there(tmp_path, how, status, succeeded, reason):
    command = [sys.executable, "-c", JOB, str(tmp_path / "a"), how]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with job:
        assert job.stdout.readline() == "ready\n"
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == status
    assert ends(tmp_path / "a") == [succeeded]
    texts = [text.markdown for text in kept(tmp_path / "a", FAILURE)]
    assert len(texts) == (reason is not None) and all(reason in text for text in texts)


def test_the_same_trial_again_ends_as_it_ends_last(tmp_path):
    with pytest.raises(RuntimeError), Trial(tmp_path, {"lr": 0.1}):
        raise RuntimeError("out of memory")
    time.sleep(0.01)
    with Trial(tmp_path, {"lr": 0.1}):
        assert ends(tmp_path) == [], "while it runs, it has no end"
    assert ends(tmp_path) == [True] and kept(tmp_path, FAILURE) == []
    assert {tuple(start.hparams.items()) for start in kept(tmp_path, SESSION_START_TAG)} == {(("lr", 0.1),)}


def test_another_trial_in_the_directory_is_refused_and_the_first_stays(tmp_path):
    with Trial(tmp_path, {"lr": 0.1, "depth": 2}):
        pass
    before = sorted(path.name for path in tmp_path.iterdir())
    for hparams_, trial_id, message in (({"lr": 0.2, "depth": 2}, None, "'lr'"), ({"lr": 0.1, "depth": 2}, "x", "id")):
        with pytest.raises(InvalidValueError, match=f"another {message}.*; "), Trial(tmp_path, hparams_, trial_id):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == before and ends(tmp_path) == [True]


def test_an_end_that_cannot_be_taken_back_is_warned_of(tmp_path):
    with Trial(tmp_path, {"lr": 0.1}):
        pass
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", 1.0, 0)
    with pytest.warns(TorchboardWarning, match="has ended"), Trial(tmp_path, {"lr": 0.1}):
        pass


def test_a_trial_beside_a_writer_that_is_open_begins_all_the_same(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", 1.0, 0)
        with Trial(tmp_path, {"lr": 0.1}):
            pass
    assert ends(tmp_path) == [True]


def test_only_the_directories_of_trials_are_made(tmp_path):
    for number, choice in enumerate(grid([HParam("depth", Discrete([1, 2]))])):
        with Trial(tmp_path / str(number), choice):
            pass
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["0", "1"]


def test_choices_have_a_length_and_go_by_with_a_bar(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    depth, bias = HParam("depth", IntInterval(1, 3)), HParam("bias", Discrete([True, False]))
    assert len(grid([depth, bias])) == 6
    choices = sample([HParam("lr", RealInterval(0, 1))], 4, seed=0)
    assert list(hparams.progress(choices)) == choices
    assert list(hparams.progress(grid([depth, bias]))) == list(grid([depth, bias]))
    assert capsys.readouterr().err == "", "nobody looks"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert len(list(hparams.progress(grid([depth, bias])))) == 6
    drawn = capsys.readouterr().err
    assert "6/6" in drawn and "depth=3" in drawn
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(hparams.progress(choices)) == choices
