"""A row becomes the very bytes that a message would, and is an event to whoever asks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from torchboard import proto
from torchboard.eventfile.framing import frame, unframe
from torchboard.sink.memory import MemorySink
from torchboard.values import encode
from torchboard.values.rows import Row, RowEncoder

STEPS = st.integers(-(2**63), 2**63 - 1) | st.just(0)
WALL_TIMES = st.floats(allow_nan=False, allow_infinity=False).filter(bool)
TAGS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)


@given(STEPS, WALL_TIMES, st.lists(st.tuples(TAGS, st.floats()), min_size=1, max_size=150))
def test_the_bytes_are_those_of_a_message(step, wall_time, metrics):
    tags, values = zip(*metrics)
    row = Row(step, wall_time, "train", tags, values)
    (message,) = encode(row.settled())
    encoder = RowEncoder()
    assert encoder.encode(row) == frame(message.SerializeToString())
    later = Row(step, 2.0, "train", tags, values[::-1])
    assert encoder.encode(later) == frame(encode(later.settled())[0].SerializeToString())


def test_more_sets_of_tags_than_are_remembered_are_written_too():
    encoder = RowEncoder()
    for number in range(600):
        (record,) = unframe(encoder.encode(Row(0, 1.0, "", (f"tag{number}",), (float(number),))))
        (value,) = proto.Event.FromString(record.data).summary.value
        assert (value.tag, value.simple_value) == (f"tag{number}", number)


def test_to_a_sink_that_knows_events_only_a_row_is_one():
    sink = MemorySink()
    sink.write(Row(3, 1.0, "train", ("a", "b"), (1.0, 2.0)))
    assert [(step, value.value) for step, value in sink.series("b")] == [(3, 2.0)]
    assert sink.tags() == {"a": "scalars", "b": "scalars"}
