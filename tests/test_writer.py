"""The writer's methods, and that what they were given is what is read back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import nn

from torchboard import MemorySink, SummaryWriter
from torchboard.errors import ClosedError, InvalidValueError, TagError
from torchboard.run import Run


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


def test_the_signatures_are_those_of_the_peer():
    import inspect

    from torch.utils import tensorboard

    for name in (
        "add_scalar",
        "add_text",
        "add_image",
        "add_images",
        "add_figure",
        "add_histogram",
        "add_graph",
        "flush",
        "close",
        "get_logdir",
    ):
        theirs = inspect.signature(getattr(tensorboard.SummaryWriter, name)).parameters
        ours = inspect.signature(getattr(SummaryWriter, name)).parameters
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()], name
    ours, theirs = (inspect.signature(kind.__init__).parameters for kind in (SummaryWriter, tensorboard.SummaryWriter))
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]


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
    assert one(sink, "note")[1].markdown == "# Title"
    with pytest.raises(InvalidValueError, match="text"):
        writer.add_text("other", 5)


def test_one_tag_holds_one_kind(writer):
    writer.add_scalar("x", 1.0)
    with pytest.raises(TagError):
        writer.add_text("x", "y")


def test_a_writer_of_ones_own_makes_a_file_and_closes_once(tmp_path):
    with SummaryWriter(tmp_path / "run", filename_suffix=".mine") as writer:
        assert writer.get_logdir() == str(tmp_path / "run")
        writer.add_scalar("loss", 1.0, 0)
        writer.flush()
    writer.close()
    (file,) = (tmp_path / "run").iterdir()
    assert file.name.endswith(".mine")
    with pytest.raises(ClosedError):
        writer.add_scalar("loss", 1.0, 1)


def test_two_writers_on_one_directory_share_its_file(tmp_path):
    with SummaryWriter(tmp_path) as first, SummaryWriter(tmp_path) as second:
        first.add_scalar("a", 1.0, 0)
        second.add_scalar("b", 1.0, 0)
    assert len(list(tmp_path.iterdir())) == 1
