"""Files in stretches: every record, wherever a stretch ends, whatever the records imitate, however long they claim to be."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchboard.eventfile import stretches as module
from torchboard.eventfile.framing import BAD_LENGTH, TORN, Fault, frame, unframe
from torchboard.eventfile.scanning import walk
from torchboard.eventfile.stretches import stretches

SIZES = [0, 3, 40, 41, 60, 200, 511, 512, 3000]
SHARES = [0.02, 0.05, 0.4, 0.3, 0.1, 0.05, 0.02, 0.02, 0.04]


def read(path, size=4 << 20):
    """(offset, data) of every record, and the fault at the end, read in stretches of so many bytes."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_STRETCH_BYTES", size)
        for stretch in stretches(path):
            if isinstance(stretch, Fault):
                return found, stretch
            assert all(stretch.is_sound(record) for record in range(len(stretch)))
            found += [(stretch.offset(record), stretch.data(record).tobytes()) for record in range(len(stretch))]
    return found, None


def header(length):
    """The header of a record that claims this length: its bytes, and their checksum."""
    data = struct.pack("<Q", length)
    return data + frame(data)[-4:]


def payloads_at_random(random):
    """Many short payloads with a few long ones between, and some that hold records themselves."""
    payloads = []
    while len(payloads) < 1500:
        data = random.bytes(int(random.choice(SIZES, p=SHARES)))
        if random.random() < 0.05:
            data = b"".join(frame(random.bytes(random.integers(0, 60))) for _ in range(random.integers(1, 80)))
        payloads += [data] * random.integers(1, 20)
    return payloads


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([700, 5000, 30_000, 4 << 20]))
def test_every_record_is_found_wherever_a_stretch_ends(tmp_path_factory, seed, size):
    data = b"".join(map(frame, payloads_at_random(np.random.default_rng(seed))))
    path = tmp_path_factory.mktemp("stretches") / "events"
    path.write_bytes(data)
    found, fault = read(path, size)
    assert fault is None
    assert found == [tuple(record) for record in unframe(data)]


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(0, 60_000))
def test_a_length_that_fails_its_checksum_ends_the_file_there(tmp_path_factory, seed, place):
    records = [frame(payload) for payload in payloads_at_random(np.random.default_rng(seed))]
    ends = np.cumsum([len(record) for record in records])
    number = int(np.searchsorted(ends, place, "right"))
    broken = bytearray(b"".join(records))
    start = int(ends[number]) - len(records[number])
    broken[start + place % 12] ^= 1
    path = tmp_path_factory.mktemp("stretches") / "events"
    path.write_bytes(broken)
    found, fault = read(path)
    assert (len(found), fault) == (number, Fault(start, BAD_LENGTH))


@pytest.mark.parametrize("claim", [5 << 20, 1 << 33, 1 << 60, (1 << 64) - 1])
def test_no_memory_is_reserved_for_a_record_that_the_file_is_too_short_for(tmp_path, claim):
    path = tmp_path / "events"
    path.write_bytes(frame(b"one") + header(claim) + bytes(1000))
    tracemalloc.start()
    try:
        assert read(path) == ([(0, b"one")], Fault(19, TORN))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_record_longer_than_a_stretch_is_whole(tmp_path):
    payloads = [b"short", np.random.default_rng(0).bytes(9 << 20), b"short too"]
    path = tmp_path / "events"
    path.write_bytes(b"".join(map(frame, payloads)))
    assert [data for _, data in read(path)[0]] == payloads


def test_a_file_that_grows_while_it_is_read_is_read_to_its_new_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STRETCH_BYTES", 5000)
    path, record = tmp_path / "events", frame(bytes(84))
    path.write_bytes(record * 100)
    found = []
    for stretch in stretches(path):
        if not found:
            with path.open("ab") as file:
                file.write(record * 100 + record[:30])
        found.append(stretch)
    assert sum(len(stretch) for stretch in found[:-1]) == 200
    assert found[-1] == Fault(20_000, TORN)


def test_a_file_that_shrinks_while_it_is_read_is_read_up_to_there(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STRETCH_BYTES", 5000)
    path, record = tmp_path / "events", frame(bytes(84))
    path.write_bytes(record * 200)
    found = []
    for stretch in stretches(path):
        found.append(stretch)
        with path.open("r+b") as file:
            file.truncate(7050)
    assert [len(stretch) for stretch in found[:-1]] == [50, 20]
    assert found[-1] == Fault(7000, TORN)


def test_a_walk_gives_the_records_and_then_what_ends_them(tmp_path):
    path = tmp_path / "events"
    broken = bytearray(frame(b"three"))
    broken[13] ^= 1
    path.write_bytes(frame(b"one") + frame(b"two") + broken + frame(b"four"))
    items = list(walk(path))
    assert [(item.offset, getattr(item, "data", None)) for item in items] == [(0, b"one"), (19, b"two"), (38, None)]
    assert items[-1].what == "the checksum of its data does not fit"
