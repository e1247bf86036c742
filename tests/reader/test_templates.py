"""Events of scalars read many at once: what every writer's look like, and that nothing else is ever taken for one."""

from __future__ import annotations

import struct
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

from fuzz_reader import failures
from plain_reading import differences
from random_logs import damaged, event_file

import torchboard
from torchboard import SummaryWriter, proto
from torchboard.eventfile import stretches as stretches_module
from torchboard.eventfile.framing import frame
from torchboard.eventfile.stretches import stretches
from torchboard.reader import templates
from torchboard.reader.index import RunIndex
from torchboard.reader.layout import layout_of
from torchboard.reader.templates import TemplateScan

THRESHOLDS = [(700, 2, 1), (20_000, 4, 1), (4 << 20, 16, 4)]
"""How long a stretch is, how many records are looked at together at least, and how many that are alike."""


@contextmanager
def thresholds(size, few, few_alike):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches_module, "_STRETCH_BYTES", size)
        patch.setattr(templates, "_FEW", few)
        patch.setattr(templates, "_FEW_ALIKE", few_alike)
        yield


def indexed(directory, files):
    for number, data in enumerate(files):
        (directory / f"events.out.tfevents.{number}").write_bytes(data)
    return RunIndex(str(directory))


@settings(max_examples=40)
@given(st.integers(0, 2**40), st.booleans(), st.sampled_from(THRESHOLDS))
def test_a_log_at_random_is_read_as_it_is_read_record_by_record(tmp_path_factory, seed, is_damaged, limits):
    random = np.random.default_rng(seed)
    files = [event_file(random, 250) for _ in range(random.integers(1, 3))]
    if is_damaged:
        files = [damaged(random, data) for data in files]
    with thresholds(*limits):
        assert differences(indexed(tmp_path_factory.mktemp("log"), files), files) == []


@pytest.mark.parametrize("limits", THRESHOLDS, ids=["tiny", "small", "as it is"])
def test_the_fuzzer_finds_nothing_in_a_few_hundred_inputs(tmp_path, limits):
    with thresholds(*limits):
        for seed in range(2_000_000, 2_000_100):
            assert failures(seed, tmp_path) == []


@pytest.mark.parametrize("dtype, layout", [("DT_INT64", "<q"), ("DT_INT32", "<i"), ("DT_COMPLEX64", "<q")])
def test_whole_numbers_that_begin_with_zero_are_not_taken_for_floats(tmp_path, dtype, layout):
    events = [proto.Event(wall_time=1.5, step=step) for step in range(40)]
    for step, event in enumerate(events):
        value = event.summary.value.add(tag="x", metadata={"plugin_data": {"plugin_name": "scalars"}})
        value.tensor.dtype = proto.DataType[dtype].number
        value.tensor.tensor_content = struct.pack(layout, step)
    data = b"".join(frame(event.SerializeToString()) for event in events)
    assert differences(indexed(tmp_path, [data]), [data]) == []


@settings(max_examples=40)
@given(st.data())
def test_a_flipped_bit_among_many_alike_is_found(tmp_path_factory, data):
    events = [proto.Event(wall_time=1.7e9 + step, step=step + 1000) for step in range(200)]
    for number, event in enumerate(events):
        event.summary.value.add(tag=f"tag_{number % 3}", simple_value=number / 7)
    records = [frame(event.SerializeToString()) for event in events]
    place = data.draw(st.integers(0, sum(map(len, records)) - 1))
    broken = bytearray(b"".join(records))
    broken[place] ^= 1 << data.draw(st.integers(0, 7))
    number = int(np.searchsorted(np.cumsum([len(record) for record in records]), place, "right"))
    index = indexed(tmp_path_factory.mktemp("flipped"), [bytes(broken)])
    assert differences(index, [bytes(broken)]) == []
    assert [problem.offset for problem in index.problems] == [sum(map(len, records[:number]))]
    assert sum(len(column.steps) for column in index.columns.values()) == number


def parsed_one_by_one(directory):
    """How many records of a run are left to the parser, and how many there are."""
    scan, others, records = TemplateScan(), 0, 0
    for path in sorted(Path(directory).glob("*tfevents*")):
        for stretch in stretches(path):
            others += len(scan.scan(stretch, {"x": None})[1])
            records += len(stretch)
    return others, records


def write_with(package, directory):
    """200 scalars of one tag, as a package writes them; some packages have two ways."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if package == "tensorflow":
            tensorflow = pytest.importorskip("tensorflow")
            with tensorflow.summary.create_file_writer(str(directory)).as_default():
                for step in range(200):
                    tensorflow.summary.scalar("x", step / 2, step)
            return
        writer_type = (
            SummaryWriter
            if package == "torchboard"
            else pytest.importorskip(
                "tensorboardX" if package == "tensorboardX" else "torch.utils.tensorboard"
            ).SummaryWriter
        )
        options = {
            "new style": {"new_style": True},
            "double": {"new_style": True, "double_precision": True},
        }.get(package, {})
        with writer_type(str(directory)) as writer:
            for step in range(200):
                writer.add_scalar("x", step / 2, step, **options)


@pytest.mark.parametrize("package", ["torchboard", "torch", "new style", "double", "tensorboardX", "tensorflow"])
def test_scalars_of_every_writer_are_read_many_at_once(tmp_path, package):
    write_with(package, tmp_path)
    others, records = parsed_one_by_one(tmp_path)
    assert records >= 200 and others <= 5
    series = torchboard.read(tmp_path).scalars("x")
    assert series.steps.tolist() == list(range(200))
    assert series.values.tolist() == [step / 2 for step in range(200)]


def test_a_hundred_metrics_an_event_are_read_many_at_once(tmp_path):
    events = [proto.Event(wall_time=1.5 + step, step=1 << step) for step in range(40)]
    for step, event in enumerate(events):
        for tag in range(100):
            event.summary.value.add(tag=f"tag_{tag}", simple_value=100 * step + tag)
    data = b"".join(frame(event.SerializeToString()) for event in events * 20)
    index = indexed(tmp_path, [data])
    assert parsed_one_by_one(tmp_path) == (0, 800)
    assert differences(index, [data]) == []
    assert index.columns["tag_7", "scalars"].numbers.tolist() == [100 * step + 7 for step in range(40)] * 20


def event_of(*values, step=5):
    event = proto.Event(wall_time=1.5, step=step)
    for value in values:
        event.summary.value.add(**value)
    return event.SerializeToString()


def test_a_layout_says_where_the_numbers_stand():
    record = event_of({"tag": "a", "simple_value": 2.5}, {"tag": "bc", "simple_value": -1.0}, step=300)
    layout = layout_of(record)
    assert (layout.length, layout.step_bytes, layout.number_bytes) == (len(record), 2, 4)
    assert [struct.unpack_from("<f", record, start)[0] for start in layout.numbers] == [2.5, -1.0]
    assert layout.varying.tolist() == sorted(layout.varying.tolist())


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\x09",
        event_of(),
        event_of({"tag": "a"}),
        event_of({"tag": "a", "image": {"height": 1}}),
        event_of({"tag": "a", "simple_value": 1.0}, {"tag": "b"}),
        event_of({"tag": "a", "simple_value": 1.0}, {"tag": "b", "tensor": {"dtype": 2, "double_val": [1.0]}}),
        event_of({"tag": "a", "tensor": {"dtype": 1, "float_val": [1.0, 2.0, 3.0]}}),
        event_of({"tag": "a", "tensor": {"dtype": 1, "float_val": [1.0], "tensor_content": b"1234"}}),
        event_of({"tag": "a", "node_name": "b", "simple_value": 1.0}),
        event_of({"tag": "a", "simple_value": 1.0}) * 2,
        event_of({"tag": "a", "simple_value": 1.0}) + b"\x78\x01",
        event_of({"tag": "a", "simple_value": 1.0})[:-1],
        event_of({"tag": "a", "simple_value": 1.0}, step=-1),
    ],
)
def test_what_is_not_plainly_an_event_of_scalars_has_no_layout(record):
    assert layout_of(record) is None


@given(st.binary(max_size=60))
def test_bytes_at_random_are_no_error(data):
    layout = layout_of(b"\x09" + data)
    assert layout is None or layout.numbers


def test_a_wall_time_that_is_no_number_and_signalling_numbers_are_read_without_a_warning(tmp_path):
    signalling = struct.pack("<I", 0x7FA00000)
    records = [event_of({"tag": "x", "simple_value": 1.0})[:-4] + signalling for _ in range(40)]
    index = indexed(tmp_path, [b"".join(map(frame, records))])
    assert np.isnan(index.columns["x", "scalars"].numbers).all()


def test_memory_does_not_grow_with_what_is_not_asked_for(tmp_path):
    import tracemalloc

    event = proto.Event(wall_time=1.5)
    event.summary.value.add(tag="weights").histo.bucket.extend(range(1200))
    (tmp_path / "events.out.tfevents.0").write_bytes(frame(event.SerializeToString()) * 3000)
    tracemalloc.start()
    try:
        assert len(RunIndex(str(tmp_path)).columns["weights", "histograms"].steps) == 3000
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def test_records_that_share_nothing_but_a_hash_are_told_apart(tmp_path):
    events = [proto.Event(wall_time=1.5 + step, step=step) for step in range(60)]
    for step, event in enumerate(events):
        event.summary.value.add(tag=f"tag_{step % 3}", simple_value=step)
    data = b"".join(frame(event.SerializeToString()) for event in events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates, "_FACTORS", np.zeros_like(templates._FACTORS))
        assert differences(indexed(tmp_path, [data]), [data]) == []


def test_a_record_that_only_resembles_a_layout_is_not_read_by_it(tmp_path):
    def stepped(tag, more):
        record = event_of({"tag": tag, "simple_value": 1.0}, step=0)
        return record[:9] + b"\x10\x85\x80\x00" + more + record[9:]

    once, twice = stepped("longer", b""), stepped("long", b"\x10\x07")
    assert len(once) == len(twice)
    data = frame(once) * 40 + frame(twice) * 40
    index = indexed(tmp_path, [data])
    assert differences(index, [data]) == []
    assert index.columns["long", "scalars"].steps.tolist() == [7] * 40
