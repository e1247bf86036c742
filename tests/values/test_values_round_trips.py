"""Every kind of value can be read back: what one test says of all of them, and the round trips that no other test makes."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import torchboard.values
from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values import KINDS, Event, Scalar, Text, encode
from torchboard.values.message import EventMessage, SummaryMessage, values_of
from torchboard.values.projector import Embedding, config, entries
from torchboard.values.text import TextTable, to_text

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LINES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20).filter(str.strip)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def wire(value, tag="tag"):
    """The event of a value, after a trip through bytes."""
    (message,) = encode(Event(3, 1.5, ((tag, value),)))
    return type(message).FromString(message.SerializeToString())


def kinds():
    """Every class in ``values`` that can be written into an event."""
    for module in pkgutil.iter_modules(torchboard.values.__path__):
        for _, kind in inspect.getmembers(importlib.import_module(f"torchboard.values.{module.name}"), inspect.isclass):
            if (
                kind.__module__ == f"torchboard.values.{module.name}"
                and hasattr(kind, "encode")
                and hasattr(kind, "plugin")
            ):
                yield kind


def test_every_kind_that_can_be_encoded_is_decoded_under_its_plugin():
    named = {kind for kind in kinds() if isinstance(kind.plugin, str)}
    assert len(named) > 12
    for kind in named:
        assert callable(getattr(KINDS[kind.plugin], "decode", None)), kind


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.data(), WORDS)
def test_a_table_of_texts_comes_back_cell_by_cell(shape, data, description):
    count = int(np.prod(shape))
    table = TextTable(tuple(data.draw(st.lists(WORDS, min_size=count, max_size=count))), tuple(shape), description)
    back = Text.decode(wire(table).summary.value[0])
    assert back == (table if count > 1 else Text(table.cells[0], description))
    assert back.markdown == table.markdown


@given(nps.arrays(object, nps.array_shapes(max_side=3), elements=WORDS))
def test_lists_and_arrays_of_texts_make_the_same_table(cells):
    table = to_text("tag", cells)
    assert table == to_text("tag", cells.tolist()) == to_text("tag", tuple(cells.tolist()))
    assert table.shape == cells.shape and list(table.cells) == cells.reshape(-1).tolist()


@given(
    nps.arrays(np.float32, nps.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=NUMBERS),
    st.integers(-3, 10**6),
    st.integers(0, 3),
    st.booleans(),
    st.data(),
)
@settings(max_examples=50)
def test_an_embedding_comes_back_from_its_files(points, step, columns, pictured, data):
    count = len(points)
    rows = st.lists(st.tuples(*[LINES] * columns), min_size=count, max_size=count).map(tuple)
    header = data.draw(st.tuples(*[LINES] * columns)) if columns > 1 else ()
    pictures = np.random.default_rng(0).integers(0, 256, (count, 2, 3, 3), np.uint8) if pictured else None
    embedding = Embedding("the/tag:x", step, points, data.draw(rows) if columns else None, header, pictures)
    files = dict(embedding.files())
    (entry,) = entries(config([embedding.entry()]))
    back = Embedding.decode(entry, files.__getitem__)
    assert (back.tag, back.step, back.labels, back.header) == ("the/tag:x", step, embedding.labels, embedding.header)
    np.testing.assert_array_equal(back.points, points)
    assert (back.pictures is None) == (pictures is None)
    assert pictures is None or np.array_equal(back.pictures, pictures)


def test_a_list_of_embeddings_that_is_none_is_refused():
    for data in (b"embeddings {", b"\xff\xfe"):
        with pytest.raises(InvalidValueError, match="no list of embeddings"):
            entries(data)


@given(WORDS, WORDS, st.binary(max_size=20), st.binary(max_size=20))
def test_a_message_of_somebody_elses_comes_back_to_the_byte(tag, plugin, content, data):
    event = proto.Event(step=7, wall_time=1.0)
    value = event.summary.value.add(tag=tag)
    value.metadata.plugin_data.plugin_name, value.metadata.plugin_data.content = plugin, content
    value.tensor.string_val.append(data)
    ((named, kept),) = values_of(event)
    assert (named, kept.plugin) == (tag, plugin)
    back = wire(kept, tag)
    assert back.summary.value[0] == value and (back.step, back.wall_time) == (3, 1.5)
    assert values_of(back) == values_of(event)


@given(st.binary(max_size=20), WORDS)
def test_graphs_and_their_metadata_of_somebody_elses_come_back_to_the_byte(data, tag):
    for event in (
        proto.Event(graph_def=data, step=9),
        proto.Event(tagged_run_metadata={"tag": tag, "run_metadata": data}),
    ):
        ((named, kept),) = values_of(event)
        assert isinstance(kept, EventMessage) and named in ("__run_graph__", tag)
        back = wire(kept, named)
        assert (back.step, back.graph_def, back.tagged_run_metadata) == (3, event.graph_def, event.tagged_run_metadata)


def test_a_plain_number_of_somebody_elses_is_a_scalar():
    event = proto.Event()
    event.summary.value.add(tag="a", simple_value=0.5)
    event.summary.value.add(tag="b").histo.SetInParent()
    (a, scalar), (b, histogram) = values_of(event)
    assert (a, scalar) == ("a", Scalar(0.5)) and isinstance(histogram, SummaryMessage)
    assert histogram.plugin == "histograms" and b == "b"
