"""The writer's methods, and that what they were given is what is read back."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from matplotlib import pyplot
from tensorboard.compat.proto.config_pb2 import RunMetadata
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.util.tensor_util import make_tensor_proto
from torch import nn

import torchboard
from torchboard import MemorySink, SummaryWriter
from torchboard.errors import ClosedError, InvalidValueError, TagError, TorchboardError, TorchboardWarning
from torchboard.run import Run, open_run
from torchboard.values import OpGraph, encode
from torchboard.values.hparams import EXPERIMENT_TAG, SESSION_START_TAG
from torchboard.values.image import decode_png
from torchboard.values.text import TextTable


@pytest.fixture
def sink():
    return MemorySink()


@pytest.fixture
def writer(sink):
    return SummaryWriter.on_run(Run(sink), lambda: 5)


def one(sink, tag):
    ((step, value),) = sink.series(tag, "")
    return step, value


@pytest.mark.parametrize(
    "value", [0.5, 1, np.float64(0.5), torch.tensor(0.5), torch.tensor([2.0], requires_grad=True), True]
)
def test_scalars_of_any_kind(writer, sink, value):
    writer.add_scalar("loss", value, 3)
    number = value.detach() if isinstance(value, torch.Tensor) else value
    assert one(sink, "loss")[0] == 3 and one(sink, "loss")[1].value == float(number)


def test_a_step_not_given_is_the_owners(writer, sink):
    writer.add_scalar("loss", math.inf)
    assert one(sink, "loss") == (5, type(one(sink, "loss")[1])(math.inf))


def test_pictures_of_tensors_and_arrays(writer, sink):
    writer.add_image("one", torch.ones(3, 4, 5))
    writer.add_image("grey", np.zeros((4, 5), np.uint8), dataformats="HW")
    writer.add_images("many", torch.zeros(2, 1, 4, 5, dtype=torch.bfloat16))
    shapes = {tag: one(sink, tag)[1].pixels.shape for tag in ("one", "grey", "many")}
    assert shapes == {"one": (1, 4, 5, 3), "grey": (1, 4, 5, 1), "many": (2, 4, 5, 1)}
    assert one(sink, "one")[1].pixels.min() == 255


def test_a_picture_does_not_follow_the_tensor_it_was_made_of(writer, sink):
    picture = torch.zeros(1, 2, 2, dtype=torch.uint8)
    writer.add_image("picture", picture)
    picture.fill_(9)
    assert one(sink, "picture")[1].pixels.max() == 0


def test_a_figure_is_drawn_and_forgotten_by_pyplot(writer, sink):
    figure, axes = pyplot.subplots(figsize=(2, 1), dpi=50)
    axes.set_facecolor("red")
    writer.add_figure("figure", figure)
    pixels = one(sink, "figure")[1].pixels
    assert pixels.shape == (1, 50, 100, 3) and (pixels == [255, 0, 0]).all(-1).any()
    assert not pyplot.fignum_exists(figure.number)
    other, _ = pyplot.subplots()
    canvas = other.canvas
    writer.add_figure("kept", [other, other], close=False)
    assert pyplot.fignum_exists(other.number) and one(sink, "kept")[1].pixels.shape[0] == 2
    assert other.canvas is canvas
    with pytest.raises(InvalidValueError, match="one size"):
        writer.add_figure("mixed", [other, figure])
    pyplot.close("all")


@pytest.mark.parametrize(
    "values",
    [
        torch.arange(10.0),
        np.arange(10.0),
        list(range(10)),
        torch.arange(10, dtype=torch.int64),
        torch.arange(10.0).bfloat16(),
        torch.arange(10.0, requires_grad=True),
    ],
    ids=["tensor", "array", "list", "int64", "bfloat16", "requires_grad"],
)
def test_histograms_count_every_element(writer, sink, values):
    writer.add_histogram("values", values)
    buckets = one(sink, "values")[1].buckets
    assert buckets[:, 2].sum() == 10 and (buckets[0, 0], buckets[-1, 1]) == (0, 9)


def test_a_histogram_keeps_what_the_peer_loses(writer, sink):
    writer.add_histogram("values", torch.tensor([1e30, 3e-8, math.nan, math.inf, 0.0]).bfloat16())
    assert one(sink, "values")[1].buckets[:, 2].sum() == 3
    assert one(sink, "nonfinite/values")[1].value == 2


@pytest.mark.parametrize(
    "values", ["text", torch.zeros(3, device="meta"), torch.zeros(2, dtype=torch.complex64), [[1], [2, 3]]], ids=str
)
def test_what_has_no_distribution_is_refused(writer, sink, values):
    with pytest.raises(InvalidValueError, match="; "):
        writer.add_histogram("values", values)
    assert sink.events == []


def test_a_histogram_does_not_follow_the_tensor_it_was_made_of(writer, sink):
    values = torch.ones(4)
    writer.add_histogram("values", values)
    values.fill_(7)
    assert one(sink, "values")[1].buckets[:, 0].tolist() == [1.0]


def test_a_histogram_that_was_counted_elsewhere_keeps_its_buckets(writer, sink):
    limits = torch.tensor([0.0, 1.0, 2.5, 9.0])
    writer.add_histogram_raw("h", 0.25, 2.0, 5, 7.5, 12.0, limits, torch.tensor([0, 2, 3, 0]), 4)
    step, histogram = one(sink, "h")
    assert step == 4 and histogram.buckets.tolist() == [[0.25, 1.0, 2.0], [1.0, 2.0, 3.0]]


def test_boxes_are_red_with_their_labels_beside_them(writer, sink):
    box = torch.tensor([[2, 3, 12, 13]])
    writer.add_image_with_boxes("plain", torch.zeros(3, 20, 30), box)
    writer.add_image_with_boxes("named", np.zeros((20, 30), np.uint8), box, dataformats="HW", labels=["a"], rescale=2)
    plain, named = one(sink, "plain")[1].pixels, one(sink, "named")[1].pixels
    assert plain.shape == (1, 20, 30, 3) and named.shape == (1, 40, 60, 3)
    assert (plain[0, 3:14, 2] == [255, 0, 0]).all() and (plain[0, 5:12, 5:11] == 0).all()
    assert not (named[0, 8:24, 8:20] == 0).all()


def test_masks_are_half_transparent_and_an_alpha_channel_stays(writer, sink):
    picture = np.full((4, 6, 8), 100, np.uint8)
    masks = np.zeros((2, 6, 8), bool)
    masks[0, :3], masks[1, 3:] = True, True
    writer.add_image_with_boxes("masks", picture, None, masks=masks)
    pixels = one(sink, "masks")[1].pixels[0]
    assert (pixels[..., 3] == 100).all() and len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) == 2
    assert pixels[0, 0].tolist() == [65, 109, 140, 100]


def test_a_broken_torchvision_breaks_boxes_only(writer, sink, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(TorchboardError, match="torchvision cannot be imported"):
        writer.add_image_with_boxes("boxes", torch.zeros(3, 4, 4), torch.zeros(0, 4))
    assert sink.events == []
    writer.add_image("image", torch.zeros(3, 4, 4))


def test_messages_of_tensorboards_own_are_written_as_they_are(writer, sink):
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="mine", content=b"\x01"))
    value = Summary.Value(tag="foreign", metadata=metadata, tensor=make_tensor_proto(np.arange(3)))
    writer.file_writer.add_summary(Summary(value=[value]), 3, 12.5)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="n", simple_value=0.5)]).SerializeToString())
    writer._get_file_writer().add_event(Event(summary=Summary(value=[value]), step=4))
    writer.file_writer.add_graph((GraphDef(node=[NodeDef(name="a", op="b")]), RunMetadata()))
    assert [(event.step, [tag for tag, _ in event.pairs]) for event in sink.events] == [
        *((3, ["foreign"]), (5, ["n"]), (4, ["foreign"]), (0, ["__run_graph__"]), (0, ["step1"]))
    ]
    assert sink.events[0].wall_time == 12.5 and sink.tags("")["foreign"] == "mine"
    messages = [encode(event)[0] for event in sink.events]
    assert messages[0].summary.value[0].SerializeToString() == value.SerializeToString()
    assert messages[1].summary.value[0].simple_value == 0.5 and messages[2].step == 4
    assert OpGraph.decode(messages[3].graph_def).nodes[0].name == "a"
    assert messages[4].tagged_run_metadata.tag == "step1"
    with pytest.raises(TagError):
        writer.add_scalar("foreign", 1.0, 5)


def test_the_graph_of_a_model_that_is_left_as_it_was(writer, sink):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    writer.add_graph(model, torch.ones(4, 2))
    assert {value.plugin for value in (one(sink, "__run_graph__")[1], one(sink, "model")[1])} == {
        "graphs",
        "graph_keras_model",
    }
    assert model.training and not model[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(InvalidValueError, match="torch.nn.Module"):
        writer.add_graph("model", None)


def test_texts_only(writer, sink):
    writer.add_text("note", "# Title")
    assert one(sink, "note/text_summary")[1].markdown == "# Title"
    with pytest.raises(InvalidValueError, match="text"):
        writer.add_text("other", 5)


def test_texts_in_lists_and_arrays_are_tables(writer, sink):
    writer.add_text("row", [["a", "*b*"], ["c", "d"]])
    writer.add_text("column", np.array(["a", "b"]))
    assert one(sink, "row/text_summary")[1] == TextTable(("a", "*b*", "c", "d"), (2, 2))
    assert one(sink, "column/text_summary")[1] == TextTable(("a", "b"), (2,))


def test_one_tag_holds_one_kind(writer):
    writer.add_scalar("x", 1.0)
    with pytest.raises(TagError):
        writer.add_tensor("x", [1.0])


def test_a_writer_of_ones_own_makes_a_file_and_closes_once(tmp_path):
    with SummaryWriter(tmp_path / "run", filename_suffix=".mine") as writer:
        assert writer.get_logdir() == str(tmp_path / "run")
        writer.add_scalar("loss", 1.0, 0)
        writer.flush()
    writer.close()
    (file,) = (tmp_path / "run").iterdir()
    assert file.name.endswith(".mine")


def test_a_writer_that_was_closed_goes_on_in_a_new_file(tmp_path):
    writer = SummaryWriter(tmp_path, filename_suffix=".mine")
    for step in range(3):
        writer.add_scalars("chart", {"a": step}, step)
        writer.add_scalar("loss", step, step)
        writer.close()
        writer.close()
        writer.flush()
        assert writer.get_logdir() == str(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert len(names) == 3 and all(name.endswith(".mine") for name in names)
    read = torchboard.read(tmp_path)
    assert read.scalars("loss").steps.tolist() == read.scalars("chart").steps.tolist() == [0, 1, 2]


def test_a_step_to_purge_from_may_be_set_before_the_next_file(tmp_path):
    writer = SummaryWriter(tmp_path)
    for step in range(4):
        writer.add_scalar("loss", 0.0, step)
    writer.purge_step = 2
    writer.close()
    writer.add_scalar("loss", 1.0, 2)
    writer.close()
    assert writer.purge_step is None
    assert torchboard.read(tmp_path).scalars("loss").values.tolist() == [0, 0, 1]


def test_a_writer_on_somebody_elses_run_ends_with_it(tmp_path):
    run = open_run(tmp_path)
    writer = SummaryWriter.on_run(run, lambda: 0)
    writer.close()
    writer.add_scalar("loss", 1.0, 0)
    run.close()
    with pytest.raises(ClosedError):
        writer.add_scalar("loss", 1.0, 1)


def test_two_writers_on_one_directory_share_its_file(tmp_path):
    with SummaryWriter(tmp_path) as first, SummaryWriter(tmp_path) as second:
        first.add_scalar("a", 1.0, 0)
        second.add_scalar("b", 1.0, 0)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_finished_trial_is_a_run_of_its_own_with_its_metrics(writer, sink):
    writer.add_hparams({"lr": 0.1, "bias": True, "n": np.int64(3), "name": "x"}, {"hp/acc": torch.tensor(0.5), "b": 2})
    (event,) = sink.events
    assert float(event.run) > 1e9 and event.step == 5
    values = dict(event.pairs)
    assert values["hp/acc"].value == 0.5 and values["b"].value == 2.0
    start, end = values["_hparams_/session_start_info"], values["_hparams_/session_end_info"]
    assert start.hparams == {"lr": 0.1, "bias": True, "n": 3, "name": "x"} and start.hparams["bias"] is True
    assert start.group == "" and end.succeeded
    assert "_hparams_/experiment" not in values


def test_domains_of_a_trial_are_declared_with_all_its_names(writer, sink):
    writer.add_hparams({"lr": 0.1, "opt": "sgd"}, {"acc": 1.0}, {"opt": ["sgd", "adam"]}, run_name="a/b")
    (event,) = sink.events
    experiment = dict(event.pairs)["_hparams_/experiment"]
    assert event.run == "a/b"
    assert [(info.name, info.domain) for info in experiment.hparams] == [("lr", None), ("opt", ("adam", "sgd"))]
    assert [info.tag for info in experiment.metrics] == ["acc"]


def test_a_trial_named_again_gets_another_point_and_keeps_its_hyperparameters(writer, sink):
    for step in range(2):
        writer.add_hparams({"lr": 1}, {"acc": step}, run_name="a", global_step=step)
    assert [(step, value.value) for step, value in sink.series("acc", "a")] == [(0, 0.0), (1, 1.0)]
    assert len(sink.series("_hparams_/session_start_info", "a")) == 1
    with pytest.raises(InvalidValueError, match="second trial in run 'a'"):
        writer.add_hparams({"lr": True}, {"acc": 1.0}, run_name="a", global_step=3)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (({"lr": {"at": 1}}, {"acc": 1.0}), "hyperparameter 'lr'"),
        (({"lr": 0.1}, {"acc": "high"}), "metric 'acc'"),
        (({"lr": 0.1}, {"": 1.0}), "tag ''"),
        ((["lr"], {"acc": 1.0}), "hyperparameters of type list"),
        (({"lr": 0.1}, {"acc": 1.0}, {"lr": [0.2]}), "outside"),
        (({"lr": 0.1}, {"acc": 1.0}, {"depth": [2]}), "'depth'"),
        (({"lr": 0.1}, {"acc": 1.0}, None, "../up"), "run name"),
        (({"lr": 0.1}, {"acc": 1.0}, None, "/tmp/up"), "run name"),
        (({"lr": 0.1}, {"acc": 1.0}, None, "a", 2**31), "31 bits"),
    ],
    ids=repr,
)
def test_a_trial_that_is_refused_writes_nothing(writer, sink, arguments, match):
    with pytest.raises((InvalidValueError, TagError), match=match):
        writer.add_hparams(*arguments)
    assert sink.events == []


def test_a_hyperparameter_of_none_is_left_out_and_its_domain_with_it(writer, sink):
    hparams, domains = {"lr": 0.1, "schedule": None}, {"lr": [0.1, 0.2], "schedule": ["cosine", "linear"]}
    writer.add_hparams(hparams, {"acc": 1.0}, domains)
    (event,) = sink.events
    values = dict(event.pairs)
    assert dict(values[SESSION_START_TAG].hparams) == {"lr": 0.1}
    assert [info.name for info in values[EXPERIMENT_TAG].hparams] == ["lr"]


def test_a_trial_starts_no_thread_and_is_on_disk_with_its_writer(tmp_path):
    import threading

    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("first", 0.0, 0)
        before = set(threading.enumerate())
        for number in range(3):
            writer.add_hparams({"lr": number}, {"acc": 1.0}, run_name=f"trial{number}")
        assert set(threading.enumerate()) <= before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["trial0", "trial1", "trial2"]


def test_scalars_of_one_chart_are_curves_of_runs_of_their_own(writer, sink):
    losses = {"train": 0.5, "a/test": torch.tensor(0.25), 3: np.float32(2)}
    writer.add_scalars("loss/all", losses, 3, walltime=12.5)
    runs = ["loss_all_train", "loss_all_a/test", "loss_all_3"]
    assert [(event.run, event.step, event.wall_time) for event in sink.events] == [(run, 3, 12.5) for run in runs]
    assert [sink.series("loss/all", run)[0][1].value for run in runs] == [0.5, 0.25, 2]
    writer.add_scalars("loss/all", {"train": 1})
    assert sink.series("loss/all", "loss_all_train")[-1][0] == 5


def test_scalars_of_one_chart_need_no_file_or_thread_but_one_file_a_run(tmp_path):
    import threading

    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("first", 0.0, 0)
        before = set(threading.enumerate())
        for step in range(3):
            writer.add_scalars("loss", {"train": 0.5, "test": 0.25}, step)
        writer.flush()
        assert set(threading.enumerate()) <= before
    files = sorted(path.relative_to(tmp_path).parts[:-1] for path in tmp_path.rglob("*tfevents*"))
    assert files == [(), ("loss_test",), ("loss_train",)]


def test_a_step_of_scalars_that_does_not_go_up_is_warned_of_once(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalars("loss", {"train": 1.0}, 1)
        with pytest.warns(TorchboardWarning, match="step 1 to 1"):
            writer.add_scalars("loss", {"train": 1.0}, 1)
        writer.add_scalars("loss", {"train": 1.0}, 1)


@pytest.mark.parametrize(
    ("main_tag", "values", "error"),
    [
        ("loss", {"train": 0.5, "../../evil": 0.5}, TagError),
        ("loss", {"train": 0.5, "a\\b": 0.5}, TagError),
        ("loss", {"train": 0.5, "test": [1, 2]}, InvalidValueError),
        ("loss", {"train": 0.5, "test": "0.5"}, InvalidValueError),
        ("loss", [0.5], InvalidValueError),
        (5, {"train": 0.5}, TagError),
    ],
    ids=["leaves", "backslash", "list", "text", "no_dict", "no_tag"],
)
def test_scalars_are_refused_all_together(writer, sink, main_tag, values, error):
    with pytest.raises(error, match="; "):
        writer.add_scalars(main_tag, values, 0)
    assert sink.events == []


def test_pr_curves_of_predictions_and_of_counts(writer, sink):
    labels, scores = torch.tensor([1, 0, 1]), torch.tensor([0.75, 0.5, 0.25], requires_grad=True).bfloat16()
    writer.add_pr_curve("curve", labels, scores, num_thresholds=5, weights=[1, 2, 3])
    table = one(sink, "curve")[1].table
    assert table[:4].tolist() == [[4, 4, 1, 1, 0], [2, 2, 2, 0, 0], [0, 0, 0, 2, 2], [0, 0, 3, 3, 4]]
    writer.add_pr_curve_raw("raw", *(torch.tensor(row.tolist()) for row in table), 3)
    assert one(sink, "raw")[0] == 3 and np.array_equal(one(sink, "raw")[1].table, table)


def test_more_thresholds_than_the_peer_has(writer, sink):
    writer.add_pr_curve("curve", [1, 0], [0.5, 0.25], num_thresholds=500)
    assert one(sink, "curve")[1].table.shape == (6, 500)


def test_sound_of_tensors_and_arrays(writer, sink):
    writer.add_audio("mono", torch.tensor([[0.0, 2.0, math.nan]]), sample_rate=8000)
    writer.add_audio("stereo", np.zeros((2, 3), np.int16))
    assert one(sink, "mono")[1].clips[0].tolist() == [[0, 32767, 0]] and one(sink, "mono")[1].sample_rate == 8000
    assert one(sink, "stereo")[1].clips[0].shape == (2, 3)


def test_videos_play_on_the_images_dashboard(writer, sink):
    writer.add_video("video", torch.zeros(2, 4, 3, 8, 6), fps=10)
    video = one(sink, "video")[1]
    assert (video.plugin, video.frames.shape, video.fps) == ("images", (2, 4, 8, 6, 3), 10)


def test_meshes_are_written_part_by_part(writer, sink):
    vertices, faces = torch.rand(1, 4, 3), torch.tensor([[[0, 1, 2]]])
    colors = torch.full((1, 4, 3), 200)
    writer.add_mesh("mesh", vertices, colors, faces, {"material": {"cls": "MeshBasicMaterial"}}, 2)
    assert sink.tags("") == dict.fromkeys(["mesh_VERTEX", "mesh_FACE", "mesh_COLOR"], "mesh")
    assert np.array_equal(one(sink, "mesh_VERTEX")[1].data, vertices.numpy())
    assert one(sink, "mesh_COLOR")[1].data.tolist() == colors.tolist()
    assert one(sink, "mesh_FACE")[0] == 2 and "MeshBasicMaterial" in one(sink, "mesh_FACE")[1].config
    with pytest.raises(TagError):
        writer.add_scalar("mesh_FACE", 1.0)


@pytest.mark.parametrize("value", [torch.arange(6).reshape(2, 3), np.float16(3), [[1.5, 2]], torch.ones(2).bfloat16()])
def test_tensors_of_any_shape_are_kept(writer, sink, value):
    writer.add_tensor("tensor", value)
    expected = value.float().numpy() if getattr(value, "dtype", None) == torch.bfloat16 else np.asarray(value)
    back = one(sink, "tensor")[1].data
    assert back.dtype == expected.dtype and np.array_equal(back, expected)


@pytest.mark.parametrize("method", ["add_tensor", "add_audio", "add_video", "add_mesh"])
def test_what_was_written_does_not_follow_the_tensor_it_was_made_of(writer, sink, method):
    values = torch.zeros({"add_audio": (1, 3), "add_video": (1, 2, 1, 2, 2)}.get(method, (1, 2, 3)))
    getattr(writer, method)("tag", values)
    values.fill_(1)
    ((_, value),) = sink.events[0].pairs
    held = {"add_audio": "clips", "add_video": "frames"}.get(method, "data")
    assert not np.any(getattr(value, held))


@pytest.mark.parametrize("method", ["add_tensor", "add_audio", "add_video", "add_mesh", "add_image"])
@pytest.mark.parametrize("value", [[[1], [2, 3]], None, "text", torch.zeros(3, device="meta")], ids=str)
def test_what_is_no_array_is_refused(writer, sink, method, value):
    with pytest.raises(InvalidValueError, match="; "):
        getattr(writer, method)("tag", value)
    assert sink.events == []


def test_charts_of_custom_scalars_add_up(writer, sink):
    tag = "custom_scalars__config__"
    writer.add_custom_scalars({"losses": {"all": ["Multiline", ["loss/.*"]]}})
    writer.add_custom_scalars_multilinechart(["acc"], title="accuracy")
    writer.add_custom_scalars_marginchart(["mean", "low", "high"])
    series = sink.series(tag, "")
    assert [step for step, _ in series] == [0, 1, 2]
    titles = [(category.title, [chart.title for chart in category.charts]) for category in series[-1][1].categories]
    assert titles == [("losses", ["all"]), ("default", ["accuracy", "untitled"])]
    with pytest.raises(InvalidValueError, match="list of tags"):
        writer.add_custom_scalars_multilinechart("loss")
    assert len(sink.events) == 3


def put(sink, path):
    """The text of a file that was put into the run."""
    return sink.files["", path].decode()


def test_points_with_labels_and_pictures_become_the_files_of_the_projector(writer, sink):
    points = torch.randn(5, 3)
    writer.add_embedding(points, list("abcde"), torch.rand(5, 3, 4, 6), 7, "conv/one")
    folder = "00007/conv%2fone"
    assert {path for _, path in sink.files} == {
        "projector_config.pbtxt",
        *(f"{folder}/{name}" for name in ("tensors.bytes", "metadata.tsv", "sprite.png")),
    }
    read = np.frombuffer(sink.files["", f"{folder}/tensors.bytes"], "<f4").reshape(5, 3)
    np.testing.assert_array_equal(read, points.numpy())
    assert put(sink, f"{folder}/metadata.tsv") == "a\nb\nc\nd\ne\n"
    listed = text_format.Parse(put(sink, "projector_config.pbtxt"), ProjectorConfig()).embeddings[0]
    assert (listed.tensor_name, listed.tensor_path) == ("conv/one:00007", f"{folder}/tensors.bytes")
    assert list(listed.sprite.single_image_dim) == [6, 4] and list(listed.tensor_shape) == [5, 3]


def test_all_embeddings_of_a_run_are_listed_and_each_once(writer, sink):
    other = SummaryWriter.on_run(writer._run, lambda: 9)
    for each in (writer, other, other):
        each.add_embedding(np.eye(2))
    writer.add_embedding(np.eye(2), tag="b")
    listed = text_format.Parse(put(sink, "projector_config.pbtxt"), ProjectorConfig()).embeddings
    assert [info.tensor_name for info in listed] == ["default:00005", "default:00009", "b:00005"]


def test_labels_are_one_clean_line_each(writer, sink):
    labels = ["a\tb", "c\r\nd", "", " ", "e\u2028f", torch.tensor(3), np.float32(0.5), None]
    writer.add_embedding(np.ones((8, 2)), labels)
    assert put(sink, "00005/default/metadata.tsv").split("\n") == [
        *("a b", "c d", "(empty)", "(empty)", "e f", "3", "0.5", "None", "")
    ]
    writer.add_embedding(np.ones((2, 2)), torch.tensor([4, 5]), tag="numbers")
    assert put(sink, "00005/numbers/metadata.tsv") == "4\n5\n"


def test_several_columns_of_labels_have_a_header_and_one_has_none(writer, sink):
    writer.add_embedding(np.ones((2, 2)), [["a", 1], ["", 2]], metadata_header=["name", "size"])
    assert put(sink, "00005/default/metadata.tsv") == "name\tsize\na\t1\n\t2\n"
    writer.add_embedding(np.ones((2, 2)), [["a"], ["b"]], metadata_header=["name"], tag="one")
    assert put(sink, "00005/one/metadata.tsv") == "a\nb\n"


def test_the_sprite_holds_the_pictures_row_by_row(writer, sink):
    pictures = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones((5, 1, 2, 3), np.uint8)
    writer.add_embedding(np.ones((5, 2)), label_img=pictures)
    sprite = decode_png(sink.files["", "00005/default/sprite.png"])[:, :, 0]
    assert sprite.shape == (3 * 2, 3 * 3)
    assert sprite[::2, ::3].tolist() == [[0, 1, 2], [3, 4, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("mat", "rest", "match"),
    [
        (np.ones((0, 3)), {}, "no number"),
        (np.ones((3, 0)), {}, "no number"),
        (np.ones(3), {}, "matrix"),
        (np.ones((2, 2)) * 1j, {}, "not real"),
        (np.array([["a"]]), {}, "matrix"),
        (torch.tensor([[1.0, math.nan], [math.inf, 1.0]]), {}, "2 numbers that are not finite"),
        (np.full((2, 2), 1e300), {}, "4 numbers that are not finite"),
        (np.ones((2, 2)), {"metadata": ["a"]}, "1 labels for the 2 points"),
        (np.ones((2, 2)), {"metadata": []}, "0 labels"),
        (np.ones((2, 2)), {"metadata": [["a"], ["b"]], "metadata_header": ["x", "y"]}, "label 0 .* 1 columns"),
        (np.ones((2, 2)), {"metadata": ["ab", "cd"], "metadata_header": ["x", "y"]}, "label 0 = 'ab'"),
        (np.ones((2, 2)), {"label_img": np.ones((3, 1, 4, 4))}, "3 pictures for the 2 points"),
        (np.ones((2, 2)), {"label_img": np.ones((2, 1, 5, 4100))}, "8200 pixels"),
        (np.ones((2, 2)), {"tag": ""}, "tag ''"),
        (np.ones((2, 2)), {"tag": ".."}, "file name"),
        (np.ones((2, 2)), {"tag": "x" * 300}, "length"),
        (torch.zeros(2, 2, device="meta"), {}, "meta"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_embedding_that_cannot_be_shown_is_refused_and_nothing_is_written(writer, sink, mat, rest, match):
    with pytest.raises((InvalidValueError, TagError), match=match):
        writer.add_embedding(mat, **rest)
    assert sink.files == {}


def test_an_embedding_is_on_disk_after_a_flush(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_embedding(torch.eye(3), ["a", "b", "c"])
        writer.flush()
        names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
        assert [name for name in names if "tfevents" not in name] == [
            "00000/default/metadata.tsv",
            "00000/default/tensors.bytes",
            "projector_config.pbtxt",
        ]
