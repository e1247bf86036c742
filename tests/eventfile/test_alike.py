"""Records side by side: the checksum of each from one checksum and a table, whatever varies."""

from __future__ import annotations

import google_crc32c
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from torchboard.eventfile.alike import added_by, rows_of, stored_checksums, without
from torchboard.eventfile.checksum import mask, masked_crc32c
from torchboard.eventfile.framing import frame
from torchboard.eventfile.stretches import stretches


def rows_from_file(directory, payloads):
    path = directory / "events"
    path.write_bytes(b"".join(map(frame, payloads)))
    (stretch,) = stretches(path)
    return rows_of(stretch, np.arange(len(payloads)), len(payloads[0]))


def test_rows_are_the_records_with_their_checksums_behind_them(tmp_path):
    for length in range(1, 40):
        payloads = [bytes([number]) * length for number in range(3)]
        rows = rows_from_file(tmp_path, payloads)
        assert [row[:length].tobytes() for row in rows] == payloads
        assert rows.shape[1] % 8 == 0
        assert stored_checksums(rows, length).tolist() == [masked_crc32c(payload) for payload in payloads]


@settings(max_examples=50)
@given(st.data(), st.integers(1, 600))
def test_what_bytes_add_makes_up_the_checksum_of_the_whole(tmp_path_factory, data, length):
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    columns = np.array(sorted(data.draw(st.sets(st.integers(0, length - 1), max_size=20))), np.int64)
    block = np.tile(random.integers(0, 256, length, np.uint8), (5, 1))
    block[:, columns] = random.integers(0, 256, (5, len(columns)), np.uint8)
    rows = rows_from_file(tmp_path_factory.mktemp("alike"), [row.tobytes() for row in block])
    stored, added = stored_checksums(rows, length), added_by(rows, length, columns)
    words = without(rows, length, columns)
    assert (words == words[0]).all()
    blank = np.uint32(google_crc32c.value(words[0].tobytes()[:length]))
    assert np.array_equal(mask(added ^ blank), stored)
