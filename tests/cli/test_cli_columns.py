"""Plain scalars as columns: the same records, whatever lies between them, and the same events back."""

from __future__ import annotations

import os

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from handmade import scalar, write
from random_logs import damaged, event_file

from torchboard import proto
from torchboard.cli.columns import Scalars, ScalarsEncoder, batches
from torchboard.cli.damage import Damage, records
from torchboard.eventfile.framing import unframe


def flat(items):
    """Every value of items, each as the bytes of an event of its own; records that are no events as they are."""
    for item in items:
        if isinstance(item, Damage):
            yield item
        elif isinstance(item, Scalars):
            for place in range(len(item)):
                yield item.only(slice(place, place + 1)).event().SerializeToString()
        else:
            yield from flat_record(item.data)


def flat_record(data):
    try:
        event = proto.Event.FromString(data)
    except DecodeError:
        event = proto.Event()
    if not event.summary.value:
        yield data
    for value in event.summary.value:
        one = proto.Event(step=event.step, wall_time=event.wall_time, summary=proto.Summary(value=[value]))
        yield one.SerializeToString()


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("salvage", [False, True])
def test_any_file_gives_the_values_that_are_read_record_by_record(tmp_path, seed, salvage):
    random = np.random.default_rng(seed)
    data = event_file(random, 1500)
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(damaged(random, data) if seed % 2 else data)
    stop = int(random.integers(0, 2 * os.path.getsize(path)))
    assert list(flat(batches(str(path), stop, salvage))) == list(flat(records(str(path), stop, salvage)))


def test_scalars_in_a_row_come_as_columns_and_others_between_them_as_records(tmp_path):
    described = scalar(7, "about")
    described.summary.value[0].metadata.summary_description = "what it is"
    many = [scalar(step, tag, 0.5 * step) for step in range(1, 101) for tag in "ab"]
    path = write(tmp_path, [*many, described, scalar(8), *many])
    items = list(batches(str(path), os.path.getsize(path)))
    assert [len(item) if isinstance(item, Scalars) else "record" for item in items] == [
        "record",
        200,
        "record",
        "record",
        200,
    ]
    assert set(items[1].tag_names) == set(items[4].tag_names) == {"a", "b"}
    assert items[4].offset > items[3].offset > items[2].offset > items[1].offset > items[0].offset == 0


def test_scalars_with_a_description_are_no_plain_ones(tmp_path):
    messages = [scalar(step) for step in range(1, 101)]
    for message in messages:
        message.summary.value[0].metadata.summary_description = "about"
    path = write(tmp_path, messages)
    assert not any(isinstance(item, Scalars) for item in batches(str(path), os.path.getsize(path)))


@pytest.mark.parametrize("behind_the_tag", [2, 5, 8])
def test_columns_end_where_a_checksum_fails(tmp_path, behind_the_tag):
    path = write(tmp_path, [scalar(step) for step in range(1, 101)] * 2)
    data = bytearray(path.read_bytes())
    place = [place for place in range(len(data)) if data.startswith(b"loss", place)][120]
    data[place + 4 + behind_the_tag] ^= 1
    path.write_bytes(data)
    items = list(batches(str(path), len(data)))
    assert [len(item) for item in items if isinstance(item, Scalars)] == [120]
    assert list(flat(items)) == list(flat(records(str(path), len(data))))


def random_scalars(seed):
    random = np.random.default_rng(seed)
    number, tags = int(random.integers(1, 400)), int(random.integers(1, 6))
    names = [*"abcdef"[: tags - 1], "long" * 60]
    steps = random.choice([0, 5, 1 << 40, -3], 1) + np.repeat(np.arange(number), random.integers(1, 9, number))[:number]
    times = 1.7e9 + np.cumsum(random.choice([0.0, 0.001, 0.004, 0.5, -0.1], number))
    numbers = random.standard_normal(number).astype(np.float32).astype(np.float64)
    return Scalars(0, names, random.integers(0, tags, number), steps, times, numbers)


@pytest.mark.parametrize("slack", [0.0, 0.005, 10.0])
@pytest.mark.parametrize("seed", range(30))
def test_values_share_an_event_as_long_as_they_may(seed, slack):
    scalars = random_scalars(seed)
    bounds = [0]
    for place in range(1, len(scalars)):
        inside = slice(bounds[-1], place)
        late = scalars.wall_times[place] - scalars.wall_times[bounds[-1]]
        fits = scalars.steps[place] == scalars.steps[bounds[-1]] and 0 <= late <= slack
        if not fits or scalars.tags[place] in scalars.tags[inside]:
            bounds.append(place)
    assert scalars.groups(slack).tolist() == [*bounds, len(scalars)]


@pytest.mark.parametrize("seed", range(30))
def test_groups_are_written_as_the_events_that_they_are(seed):
    scalars = random_scalars(seed)
    bounds = scalars.groups(0.005)
    if seed % 3 == 0:
        bounds = np.arange(len(scalars) + 1)
    written = b"".join(ScalarsEncoder().encode(scalars, bounds))
    expected = [scalars.only(slice(*pair)).event() for pair in zip(bounds[:-1], bounds[1:])]
    assert [proto.Event.FromString(record.data) for record in unframe(written)] == expected
