"""Trials say what they were given and how they ended; domains hold what they say; choices are complete or repeatable."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import plugin_data_pb2, summary_v2

from torchboard import SummaryWriter, hparams, read
from torchboard.errors import ClosedError, InvalidValueError, TorchboardError
from torchboard.hparams import Discrete, HParam, IntInterval, Metric, RealInterval, Trial, grid, hparams_config, sample

LR = HParam("lr", RealInterval(1e-4, 0.1), "learning rate", "of *SGD*")
DEPTH = HParam("depth", IntInterval(2, 4))
OPTIMIZER = HParam("optimizer", Discrete(["sgd", "adam"]))
BIAS = HParam("bias", Discrete([True, False]))


def contents(log_dir):
    """Tag -> hyperparameter message of every record of the one event file in a directory."""
    (file,) = [path for path in log_dir.iterdir() if path.is_file()]
    values = [value for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    return {
        value.tag.removeprefix("_hparams_/"): plugin_data_pb2.HParamsPluginData.FromString(
            value.metadata.plugin_data.content
        )
        for value in values
        if value.metadata.plugin_data.plugin_name == "hparams"
    }


def started(log_dir):
    """Name -> value that a trial was given, as TensorBoard reads it."""
    found = contents(log_dir)["session_start_info"].session_start_info
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.hparams.items()}


def test_a_trial_writes_what_it_was_given_when_it_begins_and_how_it_ended(tmp_path):
    with Trial(tmp_path / "a", {LR: 0.01, OPTIMIZER: "adam", "bias": True, "width": np.int64(8)}) as trial:
        assert trial.hparams == {"lr": 0.01, "optimizer": "adam", "bias": True, "width": 8}
        assert (tmp_path / "a").is_dir()
    assert started(tmp_path / "a") == {"lr": 0.01, "optimizer": "adam", "bias": True, "width": 8.0}
    found = contents(tmp_path / "a")
    start, end = found["session_start_info"].session_start_info, found["session_end_info"].session_end_info
    assert end.status == 1 and 0 < start.start_time_secs <= end.end_time_secs
    assert start.group_name == trial.trial_id


def test_a_trial_that_an_exception_ends_has_failed_and_the_exception_goes_on(tmp_path):
    with pytest.raises(KeyError), Trial(tmp_path / "a", {"lr": 1.0}):
        raise KeyError("x")
    assert contents(tmp_path / "a")["session_end_info"].session_end_info.status == 2


def test_a_trial_that_runs_has_begun_and_not_ended(tmp_path):
    with Trial(tmp_path / "a", {"lr": 1.0}), SummaryWriter(tmp_path / "a") as writer:
        writer.flush()
        assert set(contents(tmp_path / "a")) == {"session_start_info"}


def test_a_trial_shares_its_file_with_a_writer_in_its_directory(tmp_path):
    with Trial(tmp_path / "a", {"lr": 1.0}), SummaryWriter(tmp_path / "a") as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert set(contents(tmp_path / "a")) == {"session_start_info", "session_end_info"}


def test_the_id_is_the_one_that_tensorboards_own_api_makes(tmp_path):
    choice = {"b": 0.5, "a": 3, "ü": "x", "c": True}
    theirs = summary_v2.hparams_pb(choice).value[0].metadata.plugin_data.content
    group = plugin_data_pb2.HParamsPluginData.FromString(theirs).session_start_info.group_name
    assert Trial(tmp_path, choice).trial_id == Trial(tmp_path, dict(reversed(choice.items()))).trial_id == group
    assert Trial(tmp_path, choice, trial_id="mine").trial_id == "mine"
    for wrong in ("", 5):
        with pytest.raises(InvalidValueError, match="trial_id"):
            Trial(tmp_path, choice, trial_id=wrong)


def test_a_trial_is_for_one_run(tmp_path):
    trial = Trial(tmp_path / "a", {"lr": 1.0})
    with trial:
        pass
    with pytest.raises(ClosedError, match="new Trial"), trial:
        pass


@pytest.mark.parametrize(
    "choice",
    [
        {LR: 0.2},
        {LR: True},
        {LR: "0.01"},
        {DEPTH: 3.0},
        {DEPTH: 5},
        {OPTIMIZER: "rmsprop"},
        {OPTIMIZER: True},
        {BIAS: 1},
        {LR: 0.01, "lr": 0.02},
        {"lr": [1, 2]},
        {3: 0.5},
        {"seed": 2**63 - 1},
        {"limit": math.inf},
        [("lr", 1.0)],
    ],
    ids=repr,
)
def test_what_is_wrong_is_refused_before_a_directory_is_made(tmp_path, choice):
    with pytest.raises(InvalidValueError, match=r"hyperparameter.*: .*; "):
        Trial(tmp_path / "a", choice)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (RealInterval(-1, 1), [-1, 0.5, 1.0], [1.1, True, "0"]),
        (IntInterval(-1, 1), [-1, 0, 1], [2, 0.5, 1.0, False, "0"]),
        (Discrete([3, 1.5, 3.0]), [3, 3.0, 1.5], [True, "3", 2]),
        (Discrete([True]), [True], [1, False, "True"]),
        (Discrete(("b", "a")), ["a", "b"], ["c", True, 0]),
        (Discrete(np.array([1, 2])), [1, 2], [3]),
    ],
)
def test_a_domain_holds_its_values_and_no_others(domain, inside, outside):
    assert all(value in domain for value in inside)
    assert not any(value in domain for value in outside)
    rng = random.Random(0)
    assert all(domain.sample_uniform(rng) in domain for _ in range(50))


def test_listed_values_are_sorted_and_each_once():
    assert Discrete([3, 1, 3]).values == (1, 3) and Discrete(["b", "a"]).values == ("a", "b")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Discrete([]),
        lambda: Discrete([1, "a"]),
        lambda: Discrete([True, 2]),
        lambda: Discrete("adam"),
        lambda: Discrete([None]),
        lambda: IntInterval(1.0, 2),
        lambda: IntInterval(0, True),
        lambda: IntInterval(3, 2),
        lambda: RealInterval(0.2, 0.1),
        lambda: RealInterval(0.0, math.inf),
        lambda: RealInterval("0", 1),
        lambda: HParam(""),
        lambda: HParam("lr", [0.1, 0.2]),
        lambda: Metric(""),
        lambda: Metric("loss", dataset_type="test"),
        lambda: grid([LR]),
        lambda: grid([HParam("x")]),
        lambda: grid([DEPTH, HParam("depth", BIAS.domain)]),
        lambda: grid(["depth"]),
        lambda: sample([HParam("x")], 1, 0),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(make):
    with pytest.raises(InvalidValueError, match=": .*; "):
        make()


def test_a_grid_is_every_combination_once():
    choices = list(grid([DEPTH, OPTIMIZER, BIAS]))
    assert len(choices) == 3 * 2 * 2 == len({tuple(choice.values()) for choice in choices})
    assert choices[0] == {DEPTH: 2, OPTIMIZER: "adam", BIAS: False}
    assert choices[1] == {DEPTH: 2, OPTIMIZER: "adam", BIAS: True}


def test_a_grid_is_not_made_before_it_is_walked():
    assert next(grid([HParam("n", IntInterval(0, 10**6)), DEPTH]))[DEPTH] == 2


def test_choices_can_be_repeated_and_are_inside_their_domains(tmp_path):
    first, second = (sample([LR, DEPTH, OPTIMIZER, BIAS], 30, seed=7) for _ in range(2))
    assert first == second != sample([LR, DEPTH, OPTIMIZER, BIAS], 30, seed=8)
    assert {choice[DEPTH] for choice in first} == {2, 3, 4}
    for choice in first:
        Trial(tmp_path, choice)


def test_an_experiment_is_what_tensorboards_own_function_writes(tmp_path):
    metrics = [Metric("loss", "validation", "L", "the loss", Metric.VALIDATION), "hp/accuracy"]
    hparams_config(tmp_path, [LR, DEPTH, OPTIMIZER, BIAS, HParam("any")], metrics)
    ours = contents(tmp_path)["experiment"].experiment
    theirs = summary_v2.hparams_config_pb(
        [
            summary_v2.HParam("lr", summary_v2.RealInterval(1e-4, 0.1), "learning rate", "of *SGD*"),
            summary_v2.HParam("depth", summary_v2.IntInterval(2, 4)),
            summary_v2.HParam("optimizer", summary_v2.Discrete(["sgd", "adam"])),
            summary_v2.HParam("bias", summary_v2.Discrete([True, False])),
            summary_v2.HParam("any"),
        ],
        [
            summary_v2.Metric("loss", "validation", "L", "the loss", summary_v2.Metric.VALIDATION),
            summary_v2.Metric("hp/accuracy"),
        ],
        ours.time_created_secs,
    )
    content = theirs.value[0].metadata.plugin_data.content
    assert ours == plugin_data_pb2.HParamsPluginData.FromString(content).experiment


def test_an_experiment_of_anything_else_is_refused_before_a_directory_is_made(tmp_path):
    for wrong in (([LR, LR], []), (["lr"], []), ([LR], [5])):
        with pytest.raises(InvalidValueError):
            hparams_config(tmp_path / "a", *wrong)
    assert not (tmp_path / "a").exists()


def test_a_tensor_is_a_value_and_is_inside_its_domain(tmp_path):
    with Trial(tmp_path / "a", {LR: torch.tensor(0.05), "flag": torch.tensor(True)}):
        pass
    assert started(tmp_path / "a") == {"lr": float(np.float32(0.05)), "flag": True}


def test_a_directory_that_cannot_be_used_is_an_error_when_the_trial_begins(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TorchboardError), Trial(tmp_path / "file", {"lr": 1.0}):
        pass


def test_all_names_are_public():
    assert hparams.__all__ == sorted(hparams.__all__)
    assert all(getattr(hparams, name).__doc__ for name in hparams.__all__)


def test_an_experiment_is_declared_once_and_another_is_refused(tmp_path):
    for _ in range(2):
        hparams_config(tmp_path, [LR], ["loss"])
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InvalidValueError, match="declares another"):
        hparams_config(tmp_path, [LR, DEPTH], ["loss"])
    hparams_config(tmp_path / "below", [LR, DEPTH], ["loss"])
    assert read(tmp_path).values("_hparams_/experiment", ".").values[0].metrics[0].tag == "loss"
