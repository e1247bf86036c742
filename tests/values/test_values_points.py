"""Points become the very bytes that messages would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchboard import proto
from torchboard.eventfile.framing import frame, unframe
from torchboard.values import encode
from torchboard.values.points import MAX_TAG_BYTES, NAMES, POINT, PointEncoder, events_of, pack_point

STEPS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 127, 128, 2**14 - 1, 2**14, 2**35, -1])
TAGS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_TAG_BYTES // 4)
WALL_TIMES = st.floats(allow_nan=False, allow_infinity=False).filter(bool)


def points(*rows):
    """``(tag, step, wall_time, value)`` each, of one run."""
    run = NAMES.number("train")
    return np.frombuffer(b"".join(pack_point(run, NAMES.number(tag), *rest) for tag, *rest in rows), POINT)


def encoded(rows, encoder=None):
    data, ends = (encoder or PointEncoder()).encode(rows)
    records = list(unframe(data.tobytes()))
    assert [record.offset for record in records[1:]] + [len(data)] == ends.tolist()
    return data.tobytes()


def one_by_one(rows):
    return b"".join(frame(message.SerializeToString()) for event in events_of(rows) for message in encode(event))


@given(st.lists(st.tuples(TAGS, STEPS, WALL_TIMES, st.floats()), min_size=1, max_size=40))
def test_the_bytes_are_those_of_messages(rows):
    packed = points(*rows)
    assert encoded(packed) == one_by_one(packed)


def test_an_encoder_learns_tags_as_they_come():
    encoder = PointEncoder()
    for tags in (["a"], ["a", "b"], ["c" * MAX_TAG_BYTES, "a"], ["b", "d"]):
        packed = points(*((tag, step, 1.0, 0.5) for step in (1, 200) for tag in tags))
        assert encoded(packed, encoder) == one_by_one(packed)


def test_step_zero_takes_no_bytes_and_reads_as_zero():
    data = encoded(points(("loss", 0, 2.0, 0.5), ("loss", 1, 3.0, -0.0)))
    assert len(data) == 2 * len(encoded(points(("loss", 0, 2.0, 0.5)))) + 2
    events = [proto.Event.FromString(record.data) for record in unframe(data)]
    assert [(event.step, event.wall_time) for event in events] == [(0, 2.0), (1, 3.0)]
    assert [event.summary.value[0].simple_value for event in events] == [0.5, -0.0]


def test_a_number_beyond_float32_is_infinite_without_a_warning():
    data = encoded(points(("loss", 1, 1.0, 1e300), ("loss", 2, 1.0, -1e300)))
    values = [proto.Event.FromString(record.data).summary.value[0].simple_value for record in unframe(data)]
    assert values == [float("inf"), float("-inf")]


def test_names_keep_their_numbers():
    numbers = [NAMES.number(name) for name in ("one", "two", "one")]
    assert numbers[0] == numbers[2] != numbers[1]
    assert NAMES[numbers[1]] == "two"


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1])
def test_a_step_beyond_64_bits_is_no_point(step):
    import struct

    with pytest.raises(struct.error):
        pack_point(0, 0, step, 1.0, 1.0)
