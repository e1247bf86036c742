"""Layouts of custom scalars: what users write as a dict is what TensorBoard reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util
from torch.utils.tensorboard.summary import custom_scalars as peer

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values import Event, Layout, encode
from torchboard.values.custom_scalars import LAYOUT_TAG, Category, MarginChart, MultilineChart

LAYOUT = {
    "losses": {"all": ["Multiline", ["loss/.*", "val_loss"]], "band": ["Margin", ["mean", "low", "high"]]},
    "größe": {"损失": ("Multiline", ("a",))},
}
TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
CHARTS = st.one_of(
    st.builds(MultilineChart, TEXT, st.lists(TEXT, max_size=3).map(tuple)),
    st.builds(MarginChart, TEXT, st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=2).map(tuple)),
)
LAYOUTS = st.builds(
    Layout, st.lists(st.builds(Category, TEXT, st.lists(CHARTS, max_size=3).map(tuple), st.booleans())).map(tuple)
)


def wire(layout):
    (message,) = encode(Event(0, 1.0, ((LAYOUT_TAG, layout),)))
    return message.SerializeToString()


@given(LAYOUTS)
def test_a_layout_comes_back_as_it_was(layout):
    assert Layout.decode(proto.Event.FromString(wire(layout)).summary.value[0]) == layout


def test_tensorboard_finds_the_layout_that_the_peer_writes():
    value = event_pb2.Event.FromString(wire(Layout.from_mapping(LAYOUT))).summary.value[0]
    theirs = peer(LAYOUT).value[0]
    assert (value.tag, value.metadata.plugin_data.plugin_name) == (theirs.tag, "custom_scalars")
    ours, expected = (
        layout_pb2.Layout.FromString(tensor_util.make_ndarray(message.tensor).item()) for message in (value, theirs)
    )
    assert ours == expected


def test_a_later_layout_adds_charts_and_takes_the_place_of_those_of_its_titles():
    first = Layout.from_mapping({"a": {"x": ["Multiline", ["1"]], "y": ["Multiline", ["2"]]}, "b": {}})
    later = Layout.from_mapping({"c": {"z": ["Multiline", ["3"]]}, "a": {"x": ["Margin", ["4", "5", "6"]]}})
    merged = first.merged(later)
    assert [category.title for category in merged.categories] == ["a", "b", "c"]
    assert merged.categories[0].charts == (MarginChart("x", (("4", "5", "6"),)), MultilineChart("y", ("2",)))


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ([], "dict of categories"),
        ({"a": ["Multiline", ["x"]]}, "dict of charts"),
        ({"a": {"b": ["Multiline"]}}, "kind"),
        ({"a": {"b": ["Pie", ["x"]]}}, "Pie"),
        ({"a": {"b": ["Multiline", "loss"]}}, "list of tags"),
        ({"a": {"b": ["Margin", ["x", "y"]]}}, "2 tags"),
        ({"a": {"b": ["Multiline", ["loss("]]}}, "re.escape"),
        ({"a": {"b": ["Multiline", [5]]}}, "text"),
        ({"a": {"": ["Multiline", ["x"]]}}, "text"),
        ({5: {}}, "text"),
    ],
)
def test_what_is_built_otherwise_is_refused(layout, words):
    with pytest.raises(InvalidValueError, match="; ") as caught:
        Layout.from_mapping(layout)
    assert words in str(caught.value)
