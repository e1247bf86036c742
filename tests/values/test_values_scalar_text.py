"""Scalars and texts go to their wire form and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard import data_compat
from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util

from torchboard.values import Event, Scalar, Text, encode
from torchboard.values.text import code, table


def wire(value, tag="tag"):
    """A value's ``Summary.Value``, after a trip through bytes."""
    (message,) = encode(Event(3, 1.5, ((tag, value),)))
    return type(message).FromString(message.SerializeToString()).summary.value[0]


def seen_by_tensorboard(value):
    """What TensorBoard's own up-conversion makes of it: (plugin, array, description)."""
    (message,) = encode(Event(3, 1.5, (("tag", value),)))
    event = event_pb2.Event.FromString(message.SerializeToString())
    summary = data_compat.migrate_event(event).summary.value[0]
    return (
        summary.metadata.plugin_data.plugin_name,
        tensor_util.make_ndarray(summary.tensor),
        summary.metadata.summary_description,
    )


@given(st.floats(width=32), st.sampled_from(["", "what it *is*"]))
def test_a_scalar_comes_back_to_the_bit(number, description):
    back = Scalar.decode(wire(Scalar(number, description)))
    assert np.float32(back.value).tobytes() == np.float32(number).tobytes() or (
        math.isnan(back.value) and math.isnan(number)
    )
    assert back.description == description


@pytest.mark.parametrize("description", ["", "about it"])
def test_tensorboard_takes_a_scalar_for_a_rank_0_float32(description):
    plugin, array, seen = seen_by_tensorboard(Scalar(0.1, description))
    assert (plugin, array.dtype, array.shape, seen) == ("scalars", np.float32, (), description)
    assert array == np.float32(0.1)


@given(st.text())
def test_a_text_comes_back_as_it_was(text):
    assert Text.decode(wire(Text(text))) == Text(text)


def test_half_a_surrogate_pair_becomes_a_question_mark_and_not_an_error():
    assert Text.decode(wire(Text("a\ud800b"))) == Text("a?b")


def test_tensorboard_takes_a_text_for_a_rank_0_string():
    plugin, array, _ = seen_by_tensorboard(Text("# Title\n\n* ü"))
    assert (plugin, array.shape, array.item()) == ("text", (), "# Title\n\n* ü".encode())


def test_a_table_shows_its_cells_letter_by_letter():
    drawn = table(("name", "value"), {"a|b": "1\n2", "*c*": "<b>`x`"})
    assert drawn == "| name | value |\n| --- | --- |\n| a\\|b | 1 2 |\n| \\*c\\* | &lt;b&gt;\\`x\\` |"
    assert code("x = 1") == "```\nx = 1\n```"


def test_values_of_one_event_share_one_record_with_its_step_and_time():
    (message,) = encode(Event(7, 2.5, (("a", Scalar(1.0)), ("b", Text("x")))))
    assert (message.step, message.wall_time, [value.tag for value in message.summary.value]) == (7, 2.5, ["a", "b"])


def test_an_event_without_values_makes_no_record():
    assert encode(Event(0, 1.0)) == []
