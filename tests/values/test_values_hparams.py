"""Hyperparameters go to their wire form and back, and TensorBoard reads the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.hparams import metadata as tensorboards
from tensorboard.plugins.hparams import plugin_data_pb2, summary_v2

from torchboard.errors import InvalidValueError
from torchboard.values import KINDS, Event, encode
from torchboard.values.hparams import (
    EXPERIMENT_TAG,
    SESSION_END_TAG,
    SESSION_START_TAG,
    Experiment,
    HParamInfo,
    Interval,
    MetricInfo,
    SessionEnd,
    SessionStart,
    plain,
    type_of,
)

EXPERIMENT = Experiment(
    (
        HParamInfo("lr", "number", Interval(1e-5, 0.5), "learning rate", "of *Adam*"),
        HParamInfo("nesterov", "bool", (False, True)),
        HParamInfo("optimizer", "string", ("adam", "sgd")),
        HParamInfo("width"),
    ),
    (MetricInfo("epoch_loss", "validation", "loss", "at the end", "validation"), MetricInfo("hp/accuracy")),
    12.5,
)
VALUES = [EXPERIMENT, Experiment((), ()), SessionStart({}, "", 0.0), SessionEnd(True, 3.5), SessionEnd(False, 0.0)]

plains = st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53) | st.text()


def record(value, tag="tag"):
    """The bytes of a value's event."""
    (message,) = encode(Event(0, 1.5, ((tag, value),)))
    return message.SerializeToString()


def wire(value):
    """A value's ``Summary.Value``, after a trip through bytes."""
    (message,) = encode(Event(0, 1.5, (("tag", value),)))
    return type(message).FromString(message.SerializeToString()).summary.value[0]


def seen_by_tensorboard(value):
    """The message that TensorBoard's plugin parses out of an event."""
    summary = event_pb2.Event.FromString(record(value)).summary.value[0]
    assert summary.metadata.plugin_data.plugin_name == tensorboards.PLUGIN_NAME
    return plugin_data_pb2.HParamsPluginData.FromString(summary.metadata.plugin_data.content)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was(value):
    assert KINDS["hparams"].decode(wire(value)) == value


@given(st.dictionaries(st.text(min_size=1), plains), st.text())
def test_hyperparameters_come_back_with_their_types(hparams, group):
    back = KINDS["hparams"].decode(wire(SessionStart(hparams, group, 1.0)))
    assert back.hparams == hparams and back.group == group
    assert {name: type_of(value) for name, value in back.hparams.items()} == {
        name: type_of(value) for name, value in hparams.items()
    }


def test_what_is_written_is_what_tensorboards_own_functions_write():
    ours = seen_by_tensorboard(SessionStart({"b": True, "n": 3, "x": 0.5, "s": "y"}, "group", 7.0))
    theirs = summary_v2.hparams_pb({"b": True, "n": 3, "x": 0.5, "s": "y"}, "group", 7.0).value[0]
    assert ours == plugin_data_pb2.HParamsPluginData.FromString(theirs.metadata.plugin_data.content)
    declared = summary_v2.hparams_config_pb(
        [
            summary_v2.HParam("lr", summary_v2.RealInterval(1e-5, 0.5), "learning rate", "of *Adam*"),
            summary_v2.HParam("nesterov", summary_v2.Discrete([True, False])),
            summary_v2.HParam("optimizer", summary_v2.Discrete(["sgd", "adam"])),
            summary_v2.HParam("width"),
        ],
        [
            summary_v2.Metric("epoch_loss", "validation", "loss", "at the end", summary_v2.Metric.VALIDATION),
            summary_v2.Metric("hp/accuracy"),
        ],
        12.5,
    ).value[0]
    assert seen_by_tensorboard(EXPERIMENT) == plugin_data_pb2.HParamsPluginData.FromString(
        declared.metadata.plugin_data.content
    )


def test_tensorboard_reads_the_end_of_a_trial_and_knows_the_tags():
    assert [seen_by_tensorboard(SessionEnd(ok, 9.0)).session_end_info.status for ok in (True, False)] == [1, 2]
    assert seen_by_tensorboard(SessionEnd(True, 9.0)).session_end_info.end_time_secs == 9.0
    assert (EXPERIMENT_TAG, SESSION_START_TAG, SESSION_END_TAG) == (
        tensorboards.EXPERIMENT_TAG,
        tensorboards.SESSION_START_INFO_TAG,
        tensorboards.SESSION_END_INFO_TAG,
    )


def test_the_order_of_a_dictionary_does_not_change_the_bytes():
    assert record(SessionStart({"a": 1, "b": 2}, "", 0.0)) == record(SessionStart({"b": 2, "a": 1}, "", 0.0))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (np.bool_(False), False),
        (torch.tensor(True), True),
        (3, 3),
        (np.int64(-7), -7),
        (np.uint8(200), 200),
        (torch.tensor(2**40), 2**40),
        (np.array(5), 5),
        (0.1, 0.1),
        (np.float64(0.1), 0.1),
        (np.float32(0.1), float(np.float32(0.1))),
        (torch.tensor(3.14e-8, dtype=torch.bfloat16), torch.tensor(3.14e-8, dtype=torch.bfloat16).double().item()),
        (torch.tensor(1.5, requires_grad=True), 1.5),
        (2**60, 2**60),
        ("adam", "adam"),
        (np.str_("adam"), "adam"),
    ],
)
def test_every_kind_of_scalar_is_unwrapped_exactly(value, expected):
    found = plain("x", value)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1],
        (1, 2),
        {"a": 1},
        1j,
        b"x",
        np.zeros(1),
        torch.zeros(2),
        torch.tensor(0.0, device="meta"),
        object(),
        max,
        "half\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_refused_by_name(value):
    with pytest.raises(InvalidValueError, match=r"hyperparameter 'depth' .*: .*; .*\."):
        plain("depth", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, np.float16("nan")], ids=str)
def test_a_number_that_tensorboard_would_drop_is_refused(value):
    with pytest.raises(InvalidValueError, match="'limit'.*not finite"):
        plain("limit", value)


def test_a_whole_number_that_tensorboard_would_round_is_refused():
    assert plain("seed", 2**53) == 2**53
    with pytest.raises(InvalidValueError, match="9007199254740993: .*9007199254740992; give str"):
        plain("seed", 2**53 + 1)


@pytest.mark.parametrize("name", ["", None, 5, "half\ud800"], ids=repr)
def test_a_name_is_a_text(name):
    with pytest.raises(InvalidValueError, match="name"):
        plain(name, 1)
