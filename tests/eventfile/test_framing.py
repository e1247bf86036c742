"""Records: framed, checked, and read back up to a torn tail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from torchboard.errors import CorruptRecordError
from torchboard.eventfile.framing import Record, frame, unframe
from torchboard.eventfile.scanning import scan

PAYLOADS = st.lists(st.binary(max_size=300), max_size=8)


@given(PAYLOADS)
def test_what_is_framed_is_read_back(payloads):
    assert [record.data for record in unframe(b"".join(map(frame, payloads)))] == payloads


@given(PAYLOADS, st.data())
def test_a_file_cut_anywhere_gives_the_records_before_the_cut(payloads, data):
    whole = b"".join(map(frame, payloads))
    cut = data.draw(st.integers(0, len(whole)))
    records = [record.data for record in unframe(whole[:cut])]
    assert records == payloads[: len(records)]
    assert sum(len(frame(payload)) for payload in payloads[: len(records) + 1]) > cut or len(records) == len(payloads)


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=2, max_size=4), st.data())
def test_a_flipped_bit_is_reported_at_the_offset_of_its_record(payloads, data):
    whole = bytearray(b"".join(map(frame, payloads)))
    bit = data.draw(st.integers(0, 8 * len(frame(payloads[0])) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptRecordError, match="byte 0"):
        list(unframe(whole))


def test_tensorboards_own_reader_reads_a_file_of_ours_and_ours_reads_it_too(tmp_path):
    path = tmp_path / "events"
    payloads = [b"", b"one", bytes(range(256)) * 40]
    path.write_bytes(b"".join(map(frame, payloads)))
    reader = pywrap_tensorflow.PyRecordReader_New(str(path))
    seen = []
    for _ in payloads:
        reader.GetNext()
        seen.append(reader.record())
    assert seen == payloads
    assert list(scan(path)) == [Record(0, b""), Record(16, b"one"), Record(35, payloads[2])]
