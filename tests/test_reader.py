"""Reading back: files of every writer, value for value, and files that are cut, corrupt or started again."""

from __future__ import annotations

import os
import sys
import tracemalloc
import types
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import torchboard
from torchboard import MemorySink, SummaryWriter, proto
from torchboard.errors import CorruptRecordError, InvalidValueError, RunError, TorchboardError
from torchboard.eventfile.framing import frame
from torchboard.reader import Problem, Reader
from torchboard.values import Array, Audio, ConceptualGraph, Event, Histogram, Image, PrCurve, Scalar, Text, encode
from torchboard.values.graph import ConceptualLayer, OpGraph, OpNode

EVERYTHING = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}


def accumulated(directory):
    """What TensorBoard's own reader makes of a directory, all of it."""
    accumulator = EventAccumulator(str(directory), EVERYTHING)
    accumulator.Reload()
    return accumulator


def scalar_event(step, value, tag="loss", wall_time=None):
    message = proto.Event(step=step, wall_time=1000.0 + step if wall_time is None else wall_time)
    message.summary.value.add(tag=tag, simple_value=value)
    return message


def start_event(step):
    return proto.Event(step=step, session_log=proto.SessionLog(status=proto.SessionLog.START))


def write_file(directory, name, messages):
    directory.mkdir(parents=True, exist_ok=True)
    version = proto.Event(file_version="brain.Event:2", wall_time=1.0)
    path = directory / f"events.out.tfevents.{name}"
    path.write_bytes(b"".join(frame(message.SerializeToString()) for message in [version, *messages]))
    return path


def quietly(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(module)


def test_what_a_summary_writer_wrote_is_read_back(tmp_path):
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 4, 3)
    with SummaryWriter(str(tmp_path / "train")) as writer:
        for step in range(5):
            writer.add_scalar("loss", step / 2, step, walltime=100.5 + step)
        writer.add_histogram("weights", np.arange(10.0), 3)
        writer.add_image("picture", pixels, 4, dataformats="HWC")
        writer.add_text("notes", "**bold**", 2)
    reader = torchboard.read(tmp_path)
    assert reader.runs == ("train",)
    assert reader.tags() == {
        "loss": "scalars",
        "notes/text_summary": "text",
        "picture": "images",
        "weights": "histograms",
    }
    loss = reader.scalars("loss")
    assert (loss.run, loss.tag, loss.plugin, len(loss)) == ("train", "loss", "scalars", 5)
    assert (loss.steps.dtype, loss.wall_times.dtype, loss.values.dtype) == (np.int64, np.float64, np.float64)
    assert loss.steps.tolist() == [0, 1, 2, 3, 4]
    assert loss.wall_times.tolist() == [100.5, 101.5, 102.5, 103.5, 104.5]
    assert loss.values.tolist() == [0, 0.5, 1, 1.5, 2]
    assert reader.texts("notes/text_summary").values == [Text("**bold**")]
    assert np.array_equal(reader.images("picture").values[0].pixels, pixels[None])
    assert reader.histograms("weights").values[0].buckets[:, 2].sum() == 10
    assert reader.values("loss").values[1] == Scalar(0.5)
    assert reader.problems == ()


@pytest.mark.parametrize(
    "value",
    [
        Array(np.arange(6, dtype=np.int16).reshape(2, 3)),
        Audio((np.zeros((1, 8), np.int16), np.ones((2, 8), np.int16)), 8000, "about"),
        ConceptualGraph("net", (ConceptualLayer("a", "Linear"), ConceptualLayer("b", "ReLU", "float32", ("a",)))),
        Histogram(np.array([[0.0, 0.5, 2.0], [0.5, 1.0, 3.0]]), "about"),
        PrCurve.from_predictions(np.array([True, False]), np.array([0.9, 0.2]), 5),
        Text("text", "about"),
    ],
    ids=lambda value: value.plugin,
)
def test_a_value_of_any_kind_comes_back_as_it_was(tmp_path, value):
    messages = encode(Event(3, 1.5, (("tag", value),)))
    write_file(tmp_path, "1", messages)
    series = torchboard.read(tmp_path).values("tag")
    assert (series.plugin, series.steps.tolist(), series.wall_times.tolist()) == (value.plugin, [3], [1.5])
    assert encode(Event(3, 1.5, (("tag", series.values[0]),))) == messages


def test_the_graph_of_a_run_is_read_back(tmp_path):
    graph = OpGraph((OpNode("x", "input"), OpNode("net/y", "aten::relu", ("x",))))
    sink = MemorySink()
    sink.write(Event(1, 2.0, (("ignored", graph),)))
    write_file(tmp_path, "1", [message for event in sink.events for message in encode(event)])
    series = torchboard.read(tmp_path).graphs()
    assert series.tag == "__run_graph__"
    assert [[node.name for node in one.nodes] for one in series.values] == [["x", "net/y"]]


def test_files_of_pytorchs_writer_are_read_as_tensorboard_reads_them(tmp_path):
    tensorboard = quietly("torch.utils.tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tensorboard.SummaryWriter(str(tmp_path)) as writer:
            for step in range(20):
                writer.add_scalar("old", 1 / (step + 1), step)
                writer.add_scalar("new", 1 / (step + 1), step, new_style=True)
                writer.add_scalar("double", 1 / (step + 1), step, new_style=True, double_precision=True)
            writer.add_histogram("weights", torch.arange(100.0), 3)
            writer.add_image("picture", torch.full((3, 4, 5), 0.2), 4)
            writer.add_text("notes", "text", 2)
            writer.add_graph(torch.nn.Linear(2, 3), torch.ones(1, 2))
    check_against_tensorboard(tmp_path, double="double")


def test_files_of_tensorboardx_are_read_as_tensorboard_reads_them(tmp_path):
    tensorboardx = quietly("tensorboardX")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tensorboardx.SummaryWriter(str(tmp_path)) as writer:
            for step in range(20):
                writer.add_scalar("old", 1 / (step + 1), step)
            writer.add_histogram("weights", np.arange(100.0), 3)
            writer.add_image("picture", np.full((3, 4, 5), 51, np.uint8), 4)
            writer.add_text("notes", "text", 2)
    check_against_tensorboard(tmp_path)


def check_against_tensorboard(directory, double=None):
    reader, theirs = torchboard.read(directory), accumulated(directory)
    tags = theirs.Tags()
    for tag in tags["scalars"]:
        events, series = theirs.Scalars(tag), reader.scalars(tag)
        assert series.values.tolist() == [event.value for event in events]
        assert series.steps.tolist() == [event.step for event in events]
        assert series.wall_times.tolist() == [event.wall_time for event in events]
    ours = {tag for tag, plugin in reader.tags().items() if plugin == "scalars"}
    for tag in ours - set(tags["scalars"]):
        expected = [make_ndarray(event.tensor_proto).reshape(()).item() for event in theirs.Tensors(tag)]
        assert reader.scalars(tag).values.tolist() == expected
    if double:
        assert reader.scalars(double).values.tolist() == [1 / (step + 1) for step in range(20)]
    (histogram,) = reader.histograms("weights").values
    assert histogram.buckets[:, 2].sum() == theirs.Histograms("weights")[0].histogram_value.num == 100
    (picture,) = reader.images("picture").values
    assert picture.pixels.shape == (1, 4, 5, 3) and (picture.pixels == 51).all()
    assert [text.markdown for text in reader.texts("notes/text_summary").values] == ["text"]
    if tags["graph"]:
        names = {node.name for node in reader.graphs().values[0].nodes}
        assert names == {node.name for node in theirs.Graph().node} and names


NUMBERS = {
    "DT_FLOAT": ("float_val", "<f4"),
    "DT_DOUBLE": ("double_val", "<f8"),
    "DT_INT8": ("int_val", "<i1"),
    "DT_INT32": ("int_val", "<i4"),
    "DT_INT64": ("int64_val", "<i8"),
    "DT_UINT8": ("int_val", "<u1"),
    "DT_UINT64": ("uint64_val", "<u8"),
    "DT_BOOL": ("bool_val", "?"),
    "DT_HALF": ("half_val", "<f2"),
}


@pytest.mark.parametrize("content", [True, False], ids=["content", "field"])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_a_scalar_of_any_type_is_read_as_float64(tmp_path, dtype, content):
    field, layout = NUMBERS[dtype]
    message = proto.Event(step=3)
    value = message.summary.value.add(tag="x")
    value.metadata.plugin_data.plugin_name = "scalars"
    value.tensor.dtype = proto.DataType[dtype].number
    data = np.array(1, layout).tobytes()
    if content:
        value.tensor.tensor_content = data
    else:
        getattr(value.tensor, field).append(int.from_bytes(data, "little") if field == "half_val" else 1)
    write_file(tmp_path, "1", [message])
    series = torchboard.read(tmp_path).scalars("x")
    assert (series.steps.tolist(), series.values.tolist()) == ([3], [1.0])


def test_a_scalar_that_is_not_one_number_is_left_out_and_reported(tmp_path):
    message = scalar_event(1, 0.5)
    value = message.summary.value.add(tag="x")
    value.metadata.plugin_data.plugin_name = "scalars"
    value.tensor.dtype = proto.DataType["DT_FLOAT"].number
    value.tensor.tensor_shape.dim.add(size=2)
    value.tensor.float_val.extend([1, 2])
    path = write_file(tmp_path, "1", [message])
    reader = torchboard.read(tmp_path)
    assert reader.tags() == {"loss": "scalars"}
    (problem,) = reader.problems
    assert (problem.path, problem.offset > 0) == (str(path), True)
    assert problem.what == "scalar 'x' is not one number (DT_FLOAT [2])"


def test_a_tag_keeps_its_first_metadata(tmp_path):
    messages = encode(Event(0, 1.0, (("note", Text("one", "about")),))) + encode(
        Event(1, 1.0, (("note", Text("two")),))
    )
    messages[1].summary.value[0].ClearField("metadata")
    write_file(tmp_path, "1", messages[:1])
    write_file(tmp_path, "2", messages[1:])
    assert torchboard.read(tmp_path).texts("note").values == [Text("one", "about"), Text("two", "about")]


def test_values_without_a_decoder_are_listed(tmp_path):
    message = proto.Event(step=1)
    message.summary.value.add(tag="x").metadata.plugin_data.plugin_name = "somebody's"
    message.summary.value.add(tag="y", tensor=proto.TensorProto(dtype=1))
    write_file(tmp_path, "1", [message])
    reader = torchboard.read(tmp_path)
    assert reader.tags() == {"x": "somebody's", "y": ""}
    with pytest.raises(InvalidValueError, match='cannot read values of the plugin "somebody\'s"'):
        reader.values("x")


def test_files_of_a_run_are_read_in_the_order_of_their_names(tmp_path):
    write_file(tmp_path, "0002", [scalar_event(2, 2.0)])
    write_file(tmp_path, "0001", [scalar_event(1, 1.0)])
    assert torchboard.read(tmp_path).scalars("loss").values.tolist() == [1.0, 2.0]


def test_a_run_that_was_started_again_shows_the_new_pass_only(tmp_path):
    note = encode(Event(7, 1.0, (("note", Text("old pass")),)))
    write_file(tmp_path, "1", [start_event(0), *(scalar_event(step, 1.0) for step in range(10)), *note])
    write_file(tmp_path, "2", [start_event(5), *(scalar_event(step, 2.0) for step in range(5, 8))])
    reader = torchboard.read(tmp_path)
    loss, theirs = reader.scalars("loss"), accumulated(tmp_path).Scalars("loss")
    assert loss.steps.tolist() == [event.step for event in theirs] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert loss.values.tolist() == [event.value for event in theirs] == [1, 1, 1, 1, 1, 2, 2, 2]
    assert reader.tags() == {"loss": "scalars"}


def test_our_own_writer_started_again_is_read_as_started_again(tmp_path):
    for purge_step, value in ((None, 1.0), (3, 2.0)):
        with SummaryWriter(str(tmp_path), purge_step=purge_step) as writer:
            for step in range(purge_step or 0, 5):
                writer.add_scalar("loss", value, step)
                writer.add_text("note", str(value), step)
    reader = torchboard.read(tmp_path)
    assert reader.scalars("loss").values.tolist() == [1, 1, 1, 2, 2]
    assert [text.markdown for text in reader.texts("note/text_summary").values] == ["1.0", "1.0", "1.0", "2.0", "2.0"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of six records and the offsets at which they end."""
    path = write_file(tmp_path_factory.mktemp("small"), "1", [scalar_event(step, step) for step in range(5)])
    ends = [0]
    for message in [proto.Event(file_version="brain.Event:2", wall_time=1.0)] + [scalar_event(s, s) for s in range(5)]:
        ends.append(ends[-1] + len(frame(message.SerializeToString())))
    return path.read_bytes(), ends


def reread(data, directory):
    path = directory / "events.out.tfevents.1"
    path.write_bytes(data)
    reader = torchboard.read(directory)
    tags = reader.tags()
    return (reader.scalars("loss").steps.tolist() if tags else []), reader.problems, str(path)


def test_a_file_cut_anywhere_gives_what_stands_before_and_reports_where(small, tmp_path):
    data, ends = small
    for cut in range(len(data) + 1):
        steps, problems, path = reread(data[:cut], tmp_path)
        whole = [end for end in ends if end <= cut]
        assert steps == list(range(max(len(whole) - 2, 0)))
        assert [(problem.path, problem.offset) for problem in problems] == ([] if cut in ends else [(path, whole[-1])])


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_is_reported_and_what_stands_before_it_is_kept(small, tmp_path_factory, data):
    content, ends = small
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    broken = bytearray(content)
    broken[bit // 8] ^= 1 << bit % 8
    steps, problems, path = reread(bytes(broken), tmp_path_factory.mktemp("flipped"))
    record = max(number for number, end in enumerate(ends) if end <= bit // 8)
    assert steps == list(range(max(record - 1, 0)))
    assert [(problem.path, problem.offset) for problem in problems] == [(path, ends[record])]
    assert "checksum" in problems[0].what


def test_records_across_the_chunks_of_a_stream_are_whole(tmp_path):
    random = np.random.default_rng(0)
    sizes = (600, 300, 900)
    pictures = [Image(random.integers(0, 256, (1, size, size, 3), np.uint8)) for size in sizes]
    messages = [encode(Event(step, 1.0, (("p", one), ("x", Scalar(step))))) for step, one in enumerate(pictures)]
    path = write_file(tmp_path, "1", [message for group in messages for message in group])
    assert path.stat().st_size > 3 << 20
    reader = torchboard.read(tmp_path)
    assert reader.scalars("x").values.tolist() == [0, 1, 2]
    for ours, one in zip(reader.images("p").values, pictures, strict=True):
        assert np.array_equal(ours.pixels, one.pixels)


def test_a_record_that_is_no_event_is_reported_and_the_next_ones_are_read(tmp_path):
    path = write_file(tmp_path, "1", [scalar_event(1, 1.0)])
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(frame(b"\xff\xff\xff") + frame(scalar_event(2, 2.0).SerializeToString()))
    reader = torchboard.read(tmp_path)
    assert reader.scalars("loss").steps.tolist() == [1, 2]
    assert reader.problems == (Problem(str(path), size, "it is no event"),)


def test_a_picture_that_is_none_is_an_error_that_names_file_and_offset(tmp_path):
    message = proto.Event(step=1)
    message.summary.value.add(tag="picture").image.encoded_image_string = b"no picture"
    write_file(tmp_path, "1", [message, scalar_event(1, 1.0)])
    reader = torchboard.read(tmp_path)
    with pytest.raises(CorruptRecordError, match=r"tfevents\.1 at byte \d+: it is no value for images"):
        reader.images("picture")
    assert len(reader.scalars("loss")) == 1


def test_runs_are_the_directories_with_event_files_at_any_depth_behind_links_too(tmp_path):
    for name in (".", "a", "a/b/c", ".hidden"):
        write_file(tmp_path / name, "1", [scalar_event(0, 0.0)])
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "latest").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dir.tfevents").mkdir()
    assert torchboard.read(tmp_path).runs == (".", ".hidden", "a", "a/b/c", "latest/c")


def test_opening_a_log_reads_no_file(tmp_path, monkeypatch):
    write_file(tmp_path, "1", [scalar_event(0, 0.0)])
    monkeypatch.setattr("builtins.open", None)
    assert torchboard.read(tmp_path).runs == (".",)


def test_pictures_stay_on_disk_until_they_are_asked_for(tmp_path):
    messages = [proto.Event(step=step) for step in range(40)]
    for message in messages:
        message.summary.value.add(tag="picture").image.encoded_image_string = bytes(1 << 20)
        message.summary.value.add(tag="loss", simple_value=1.0)
    write_file(tmp_path, "1", messages)
    tracemalloc.start()
    try:
        assert len(torchboard.read(tmp_path).scalars("loss")) == 40
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_a_log_directory_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(RunError, match="there is no such directory; give"):
        Reader(tmp_path / "nowhere")
    with pytest.raises(InvalidValueError, match="a log directory is a path"):
        Reader(None)


def test_what_cannot_be_found_is_refused_with_what_is_there(tmp_path):
    for run in ("a", "b"):
        write_file(
            tmp_path / run, "1", [scalar_event(0, 0.0, "train/loss"), *encode(Event(0, 1.0, (("t", Text("")),)))]
        )
    reader = torchboard.read(tmp_path)
    with pytest.raises(InvalidValueError, match="perhaps it is 'train/loss'"):
        reader.scalars("train/los")
    with pytest.raises(InvalidValueError, match=r"several runs have it \('a', 'b'\)"):
        reader.scalars("train/loss")
    with pytest.raises(InvalidValueError, match="it holds text, not scalars"):
        reader.scalars("t", "a")
    with pytest.raises(InvalidValueError, match="run 'c': there is none"):
        reader.tags("c")
    assert len(reader.scalars("train/loss", "b")) == 1


def test_a_tag_of_two_kinds_can_be_read_as_either(tmp_path):
    histogram = Histogram(np.array([[0.0, 1.0, 2.0]]))
    write_file(tmp_path, "1", [scalar_event(0, 0.5, "x"), *encode(Event(1, 1.0, (("x", histogram),)))])
    reader = torchboard.read(tmp_path)
    assert reader.scalars("x").values.tolist() == [0.5]
    assert reader.histograms("x").values == [histogram]


def test_without_pandas_a_data_frame_is_refused_with_the_remedy(tmp_path, monkeypatch):
    write_file(tmp_path, "1", [scalar_event(0, 0.0)])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(TorchboardError, match="pandas is not installed; run 'pip install pandas'"):
        torchboard.read(tmp_path).to_pandas()


def test_a_data_frame_has_a_row_for_every_scalar(tmp_path, monkeypatch):
    for run in ("b", "a"):
        write_file(tmp_path / run, "1", [scalar_event(step, step / 2) for step in range(2)])
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=dict))
    frame_of = torchboard.read(tmp_path).to_pandas()
    assert {name: list(column) for name, column in frame_of.items()} == {
        "run": ["a", "a", "b", "b"],
        "tag": ["loss"] * 4,
        "step": [0, 1, 0, 1],
        "wall_time": [1000.0, 1001.0] * 2,
        "value": [0.0, 0.5] * 2,
    }


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="there is no file that nobody can read")
def test_a_file_that_may_not_be_read_is_reported(tmp_path, monkeypatch):
    path = write_file(tmp_path, "1", [scalar_event(0, 0.0)])
    path.unlink()
    os.symlink("/proc/self/mem", path)  # a file whose first byte cannot be read
    reader = torchboard.read(tmp_path)
    (problem,) = reader.problems
    assert problem.offset == 0 and "cannot be read" in problem.what
