"""Code written for ``torch.utils.tensorboard`` leaves the same runs, tags, steps and values where only the import changes.

Each case makes the same calls on PyTorch's writer and on ours and compares what TensorBoard's accumulator has afterwards.
Where the peer is wrong, a test below says what each of the two does; ``docs/differences.md`` names those tests.
"""

from __future__ import annotations

import inspect
import math
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accumulated import Curve, accumulated
from google.protobuf import text_format
from matplotlib import pyplot
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import nn
from torch.utils import tensorboard as peer
from torch.utils.tensorboard import summary as peer_summary

import torchboard
from torchboard import proto
from torchboard.errors import InvalidValueError, TagError, TorchboardWarning
from torchboard.eventfile.scanning import scan
from torchboard.values import OpGraph

Calls = Callable[[Any], object]
Logged = dict[tuple[str, str], Curve]

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=1000)
PICTURE = torch.rand(3, 12, 9, generator=torch.Generator().manual_seed(0))
TONE = torch.sin(torch.arange(500.0) / 9)
LABELS, SCORES = RANDOM.integers(0, 2, 300), RANDOM.random(300).astype(np.float32)
COUNTS, EDGES = np.histogram(NORMAL, 20)
CORNERS = torch.rand(1, 6, 3, generator=torch.Generator().manual_seed(1))
CHARTS = {"losses": {"all": ["Multiline", ["loss/.*"]], "band": ["Margin", ["mean", "low", "high"]]}}


def both(tmp_path: Path, calls: Calls, **options: Any) -> tuple[Logged, Logged]:
    """What the peer and what we leave after the same calls."""
    for name, kind in (("theirs", peer.SummaryWriter), ("ours", torchboard.SummaryWriter)):
        with kind(str(tmp_path / name), **options) as writer:
            calls(writer)
    return accumulated(tmp_path / "theirs"), accumulated(tmp_path / "ours")


def each_step(method: str, *values: Any, **options: Any) -> Calls:
    """Calls of one method under one tag, at steps 0, 1…"""

    def calls(writer: Any) -> None:
        for step, value in enumerate(values):
            arguments = value if isinstance(value, tuple) else (value,)
            getattr(writer, method)("group/tag", *arguments, global_step=step, **options)

    return calls


CASES: dict[str, Calls] = {
    "scalars of Python": each_step(
        "add_scalar", 0.5, 1, True, 1e-30, -0.0, math.nan, math.inf, -math.inf, 1e300, 16777217
    ),
    "scalars of NumPy": each_step(
        "add_scalar", np.float64(0.1), np.float16(0.1), np.int8(3), np.array([2.5]), np.bool_(1)
    ),
    "scalars of torch": each_step(
        "add_scalar", torch.tensor(0.1), torch.tensor([2.0], dtype=torch.float64), torch.tensor(7), torch.tensor(True)
    ),
    "scalars that require grad": each_step("add_scalar", torch.tensor(0.5, requires_grad=True)),
    "scalars of positional arguments": lambda w: w.add_scalar("tag", 0.5, 3, 1234567890.25),
    "scalars of keywords": lambda w: w.add_scalar(tag="tag", scalar_value=0.5, global_step=3, walltime=12.5),
    "scalars of the new style": each_step("add_scalar", 0.25, 0.5, new_style=True),
    "scalars without a step": lambda w: w.add_scalar("tag", 1.0),
    "scalars at large and negative steps": lambda w: [
        w.add_scalar("tag", 1.0, step) for step in (-5, 0, 2**40, 2**63 - 1)
    ],
    "scalars at steps of NumPy and torch": lambda w: [
        w.add_scalar("tag", 1.0, step) for step in (np.int64(1), np.array(2), torch.tensor(3), np.float32(4), 5.0)
    ],
    "tags of all sorts": lambda w: [
        w.add_scalar(tag, 1.0, 0)
        for tag in ("a b", "a_b", "/a", "a//b", "../a", "loss é 損", "a\nb", "%d", "x" * 5000, "a:0")
    ],
    "scalars of one chart": lambda w: [
        w.add_scalars("loss/all", {"train": 0.5, "a/b": torch.tensor(2.0), "c d": np.float32(1)}, step)
        for step in range(3)
    ],
    "scalars of one chart at a time": lambda w: w.add_scalars("loss", {"train": 0.5}, 4, 12.25),
    "texts": each_step("add_text", "# Title\n\n| a |\n|---|\n| b |", "", "größe 損失 <b>", "x" * 10000),
    "texts of keywords": lambda w: w.add_text(tag="tag", text_string="text", global_step=1, walltime=12.5),
    "a text and a scalar of one name": lambda w: (w.add_scalar("tag", 1.0, 0), w.add_text("tag", "text", 0)),
    "pictures": each_step("add_image", PICTURE, PICTURE.numpy(), (PICTURE * 255).byte()),
    "pictures out of range": each_step(
        "add_image", torch.tensor([-1.0, -0.5, 0, 0.5, 1, 2]).reshape(1, 2, 3).repeat(3, 1, 1)
    ),
    "pictures with the channels last": each_step("add_image", PICTURE.permute(1, 2, 0), dataformats="HWC"),
    "pictures of one channel": each_step("add_image", PICTURE[0], dataformats="HW"),
    "pictures on their side": each_step("add_image", PICTURE[0], dataformats="WH"),
    "pictures with an alpha channel": each_step("add_image", torch.cat([PICTURE, PICTURE[:1]])),
    "one picture of a batch": each_step(
        "add_images", PICTURE[None], PICTURE[None].permute(0, 2, 3, 1).permute(0, 3, 1, 2)
    ),
    "figures": lambda w: w.add_figure("figure", _figure(), 2, True, 12.5),
    "pr curves": each_step("add_pr_curve", (LABELS, SCORES), (torch.tensor(LABELS), torch.tensor(SCORES))),
    "pr curves with weights": each_step("add_pr_curve", (LABELS, SCORES), num_thresholds=31, weights=SCORES),
    "pr curves as counted": lambda w: w.add_pr_curve_raw("curve", *np.arange(60.0).reshape(6, 10) / 60, 3, 10),
    "sound": each_step("add_audio", TONE, TONE[None], TONE.numpy() * 0.25, sample_rate=8000),
    "meshes": each_step(
        "add_mesh",
        CORNERS,
        CORNERS + 1,
        faces=torch.tensor([[[0, 1, 2]]]),
        colors=torch.full((1, 6, 3), 9),
        config_dict={"a": 1},
    ),
    "point clouds": each_step("add_mesh", CORNERS),
    "custom scalars": lambda w: w.add_custom_scalars(CHARTS),
    "custom scalars of several curves": lambda w: w.add_custom_scalars_multilinechart(["a", "b"], "category", "title"),
    "custom scalars with a margin": lambda w: w.add_custom_scalars_marginchart(["a", "b", "c"]),
    "trials": lambda w: [
        w.add_hparams({"lr": 0.1 * n, "name": "x", "n": n}, {"acc": n, "b/c": torch.tensor(0.5)}, run_name=f"t{n}")
        for n in range(2)
    ],
    "trials with hyperparameters of None": lambda w: w.add_hparams(
        {"lr": 0.1, "schedule": None}, {"acc": 1.0}, None, "a"
    ),
    "trials at a step": lambda w: w.add_hparams({"lr": 0.1}, {"acc": 1.0}, run_name="a", global_step=7),
    "tensors": each_step(
        "add_tensor", torch.arange(6.0).reshape(2, 3), torch.tensor(5), torch.ones(2, dtype=torch.complex64)
    ),
    "messages built by hand": lambda w: [
        w.file_writer.add_summary(message, 3)
        for message in (
            *peer_summary.hparams({"lr": 0.1}, {"acc": 0.5}),
            peer_summary.scalar("a", 0.5),
            peer_summary.scalar("b", 0.5, new_style=True),
            peer_summary.text("c", "text"),
            peer_summary.image("d", PICTURE.numpy(), dataformats="CHW"),
            peer_summary.custom_scalars(CHARTS),
        )
    ],
    "a writer inside the writer": lambda w: w._get_file_writer().add_summary(peer_summary.scalar("a", 0.5), 1, 12.5),
    "writing after close": lambda w: (
        w.add_scalar("a", 1.0, 0),
        w.close(),
        w.add_scalar("a", 2.0, 1),
        w.add_text("b", "c"),
    ),
}


def _figure() -> Any:
    figure, axes = pyplot.subplots(figsize=(1, 1), dpi=30)
    axes.plot([0, 1])
    return figure


@pytest.mark.parametrize("name", CASES)
def test_the_same_calls_leave_the_same_log(tmp_path, name):
    theirs, ours = both(tmp_path, CASES[name])
    assert theirs and set(ours) == set(theirs) - _OWN_EXPERIMENTS
    for key, curve in ours.items():
        expected = theirs[key]
        assert (curve.plugin, curve.steps) == (expected.plugin, expected.steps), key
        for value, other in zip(curve.values, expected.values):
            assert same(curve.plugin, value, other), (key, value, other)
        assert all(abs(a - b) < 60 for a, b in zip(curve.times, expected.times)), key


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"tensors"}))
def test_the_values_take_no_more_bytes_than_the_peers(tmp_path, name):
    both(tmp_path, CASES[name])
    theirs, ours = (_value_bytes(tmp_path / side) for side in ("theirs", "ours"))
    assert 0 < ours <= theirs


def _value_bytes(log_dir: Path) -> int:
    """Of all values of all runs, without the events around them."""
    events = (proto.Event.FromString(record.data) for path in log_dir.rglob("*tfevents*") for record in scan(path))
    return sum(value.ByteSize() for event in events for value in event.summary.value)


_OWN_EXPERIMENTS = {(run, "_hparams_/experiment") for run in ("t0", "t1", "a")}
"""See test_an_experiment_is_declared_only_where_domains_are."""


def same(plugin: str, ours: Any, theirs: Any) -> bool:
    """Whether two values show the same."""
    if plugin == "images":
        return len(ours) == len(theirs) and all(_same_picture(a, b) for a, b in zip(ours, theirs))
    if plugin == "audio":
        return all(a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(ours, theirs))
    if plugin == "text":
        return ours.reshape(-1).tolist() == theirs.reshape(-1).tolist()
    if plugin == "custom_scalars":
        return Layout.FromString(ours.item()) == Layout.FromString(theirs.item())
    if plugin == "hparams":
        return _without_times(ours) == _without_times(theirs)
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=1e-6, atol=1e-7, equal_nan=True)


def _same_picture(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Pixels; the peer makes three channels of a grey picture."""
    if ours.ndim == 2 and theirs.ndim == 3:
        ours = np.repeat(ours[:, :, None], 3, axis=2)
    return ours.shape == theirs.shape and np.array_equal(ours, theirs)


def _without_times(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    for part, time in (("session_start_info", "start_time_secs"), ("session_end_info", "end_time_secs")):
        if copy.HasField(part):
            getattr(copy, part).ClearField(time)
    return copy


def test_a_comparison_fails_where_one_of_ours_deviates(tmp_path):
    theirs, ours = both(tmp_path, lambda w: w.add_scalar("a", 0.5 if isinstance(w, peer.SummaryWriter) else 0.25, 0))
    (curve,), (other,) = ours.values(), theirs.values()
    assert not same("scalars", curve.values[0], other.values[0])


def test_every_method_and_parameter_of_the_peer_exists():
    names = [name for name, _ in inspect.getmembers(peer.SummaryWriter, inspect.isfunction)]
    public = [name for name in names if not name.startswith("_")] + [
        "__init__",
        "__enter__",
        "__exit__",
        "_get_file_writer",
    ]
    assert "add_onnx_graph" in public and len(public) > 25
    for name in public:
        theirs = inspect.signature(getattr(peer.SummaryWriter, name)).parameters
        ours = inspect.signature(getattr(torchboard.SummaryWriter, name)).parameters
        if name == "__exit__":
            continue
        shared = list(ours.values())[: len(theirs)]
        assert [(p.name, p.default) for p in shared] == [(p.name, p.default) for p in theirs.values()], name
        assert all(p.default is not p.empty for p in list(ours.values())[len(theirs) :]), name
    for name, _ in inspect.getmembers(peer.FileWriter, inspect.isfunction):
        if not name.startswith("_"):
            theirs = inspect.signature(getattr(peer.FileWriter, name)).parameters
            ours = inspect.signature(getattr(torchboard.file_writer.FileWriter, name)).parameters
            assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()], name


def test_every_attribute_of_the_peer_exists(tmp_path):
    theirs, ours = (kind(str(tmp_path / "log")) for kind in (peer.SummaryWriter, torchboard.SummaryWriter))
    assert [name for name in vars(theirs) if not hasattr(ours, name)] == []
    for name in ("purge_step", "max_queue", "flush_secs", "filename_suffix"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.log_dir == theirs.log_dir == ours.get_logdir() == ours.file_writer.get_logdir()
    assert list(ours.all_writers) == list(theirs.all_writers)
    np.testing.assert_allclose(ours.default_bins, theirs.default_bins)
    for writer in (theirs, ours):
        writer.file_writer.flush()
        [each.flush() for each in writer.all_writers.values()]
        writer.close()


def test_histograms_have_the_same_mass_and_extremes(tmp_path):
    def calls(w: Any) -> None:
        w.add_histogram("weights", NORMAL, 0)
        w.add_histogram("weights", torch.tensor(NORMAL).float(), 1, "auto", 12.5)
        w.add_histogram("weights", torch.arange(10), 2, max_bins=16)

    theirs, ours = both(tmp_path, calls)
    assert set(ours) == set(theirs)
    curve, expected = ours[".", "weights"], theirs[".", "weights"]
    assert (curve.plugin, curve.steps, curve.times[1]) == (expected.plugin, expected.steps, 12.5)
    for buckets, other in zip(curve.values, expected.values):
        assert buckets[:, 2].sum() == other[:, 2].sum()
        np.testing.assert_allclose((buckets[0, 0], buckets[-1, 1]), (other[0, 0], other[-1, 1]), rtol=1e-6)
        middle = np.interp(0.0, buckets[:, 1], np.cumsum(buckets[:, 2]))
        assert abs(middle - np.interp(0.0, other[:, 1], np.cumsum(other[:, 2]))) <= 0.05 * buckets[:, 2].sum()


def test_histograms_with_buckets_of_ones_own_are_kept_as_they_are(tmp_path):
    def calls(w: Any) -> None:
        w.add_histogram_raw(
            "h", NORMAL.min(), NORMAL.max(), 1000, NORMAL.sum(), NORMAL @ NORMAL, EDGES[1:], COUNTS, 1, 12.5
        )
        w.add_histogram_raw("h", 0.5, 2, 3, 1, 1, [0, 1, 2, 3], [0, 2, 1, 0], global_step=2)
        w.add_histogram_raw("h", 0, 0, 0, 0, 0, [0, 1], [0, 0], global_step=3)

    theirs, ours = both(tmp_path, calls)
    curve, expected = ours[".", "h"], theirs[".", "h"]
    assert (curve.plugin, curve.steps, curve.times[0]) == (expected.plugin, expected.steps, 12.5)
    for buckets, other in zip(curve.values, expected.values):
        np.testing.assert_allclose(buckets, other, rtol=1e-5)


def test_pictures_with_boxes_have_the_same_size_and_red_where_the_boxes_are(tmp_path):
    boxes = torch.tensor([[2.0, 3.0, 30.0, 20.0], [5.0, 5.0, 100.0, 100.0]])

    def calls(w: Any) -> None:
        for step, labels in enumerate((None, ["cat", "dog"])):
            w.add_image_with_boxes("boxes", torch.zeros(3, 40, 50), boxes, step, None, 2, "CHW", labels)

    theirs, ours = both(tmp_path, calls)
    curve, expected = ours[".", "boxes"], theirs[".", "boxes"]
    assert (curve.plugin, curve.steps) == (expected.plugin, expected.steps)
    for step in range(2):
        (picture,), (other,) = curve.values[step], expected.values[step]
        assert picture.shape == other.shape == (80, 100, 3)
        for pixels in (picture, other):
            assert pixels[4:40, 4:6, 0].mean() > 100 and pixels[..., 1:].max() < 60
    assert (curve.values[0][0] != curve.values[1][0]).any()


def test_embeddings_are_the_same_files(tmp_path):
    def calls(w: Any) -> None:
        w.add_embedding(torch.eye(4), ["a", "b", "c", "d"], torch.rand(4, 3, 5, 5), 3, "the/tag")
        w.add_embedding(np.ones((2, 3)), [["a", 1], ["b", 2]], metadata_header=["x", "y"])

    both(tmp_path, calls)
    configs = {}
    for name in ("theirs", "ours"):
        text = (tmp_path / name / "projector_config.pbtxt").read_text()
        configs[name] = text_format.Parse(text, ProjectorConfig()).embeddings
    assert [info.tensor_name for info in configs["ours"]] == [info.tensor_name for info in configs["theirs"]]
    for ours, theirs in zip(configs["ours"], configs["theirs"]):
        tables = [_points(tmp_path / n / c.tensor_path) for n, c in (("ours", ours), ("theirs", theirs))]
        np.testing.assert_allclose(*(np.reshape(table, ours.tensor_shape) for table in tables))
        labels = [(tmp_path / n / c.metadata_path).read_text() for n, c in (("ours", ours), ("theirs", theirs))]
        assert labels[0] == labels[1]
        assert list(ours.sprite.single_image_dim) == list(theirs.sprite.single_image_dim)


def _points(path: Path) -> np.ndarray:
    """A table of numbers, in one of the two forms that the projector reads."""
    try:
        return np.loadtxt(path, encoding="utf-8")
    except UnicodeDecodeError:
        return np.fromfile(path, "<f4")


def test_the_graph_of_a_model_is_the_run_graph(tmp_path):
    def calls(w: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            w.add_graph(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(1, 2))

    theirs, ours = both(tmp_path, calls)
    assert {key: curve.steps for key, curve in ours.items() if curve.plugin == "graphs"} == {
        key: curve.steps for key, curve in theirs.items() if curve.plugin == "graphs"
    }


def test_a_log_that_starts_again_is_purged_from_that_step(tmp_path):
    for kind, name in ((peer.SummaryWriter, "theirs"), (torchboard.SummaryWriter, "ours")):
        for purge_step in (0, 3):
            with kind(str(tmp_path / name), purge_step=purge_step) as writer:
                for step in range(purge_step, 5):
                    writer.add_scalar("a", purge_step, step)
    theirs, ours = accumulated(tmp_path / "theirs"), accumulated(tmp_path / "ours")
    assert ours[".", "a"].steps == theirs[".", "a"].steps == (0, 1, 2, 3, 4)
    assert ours[".", "a"].values == theirs[".", "a"].values == (0, 0, 0, 3, 3)


def test_names_and_suffixes_are_the_peers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in (peer.SummaryWriter, torchboard.SummaryWriter):
        with kind(comment="_mine", filename_suffix=".x") as writer:
            writer.add_scalar("a", 1.0, 0)
    directories = [path.name for path in (tmp_path / "runs").iterdir()]
    assert len(directories) == 2 and {name.partition("_mine")[2] for name in directories} <= {"", "-2"}
    names = [path.name for path in tmp_path.rglob("*tfevents*")]
    assert len(names) == 2 and all(name.endswith(".x") for name in names)


# Where the peer is wrong, or where we part from it: what each of the two does. docs/differences.md has a line for each.


def test_bfloat16_is_not_rounded_to_float16(tmp_path):
    small = torch.tensor(3.14e-8).bfloat16()

    def calls(w: Any) -> None:
        w.add_scalar("x", small, 0)
        w.add_histogram("h", torch.stack([small, torch.tensor(1e5).bfloat16()]), 0)

    with np.errstate(all="ignore"):
        theirs, ours = both(tmp_path, calls)
    assert ours[".", "x"].values == (np.float32(small.item()),) and theirs[".", "x"].values != (
        np.float32(small.item()),
    )
    assert ours[".", "h"].values[0][-1, 1] == pytest.approx(1e5, rel=0.01)
    assert theirs[".", "h"].values[0][-1, 1] == math.inf


def test_a_tensor_without_values_is_refused_and_not_made_up(tmp_path):
    meta = torch.tensor(0.5, device="meta")
    with peer.SummaryWriter(str(tmp_path / "theirs")) as writer:
        writer.add_scalar("x", meta, 0)
    assert (".", "x") in accumulated(tmp_path / "theirs")
    with torchboard.SummaryWriter(tmp_path / "ours") as writer, pytest.raises(InvalidValueError, match="no value"):
        writer.add_scalar("x", meta, 0)


def test_numbers_of_the_new_style_are_seen_by_the_default_loader(tmp_path):
    theirs, ours = both(tmp_path, each_step("add_scalar", 0.1, new_style=True, double_precision=True))
    assert theirs[".", "group/tag"].values[0].dtype == np.float64
    assert ours[".", "group/tag"].values[0].dtype == np.float32


def test_histograms_count_what_is_not_finite_and_what_is_large(tmp_path):
    values = np.array([1.0, 2.0, math.nan, math.inf, 1e30])
    with np.errstate(all="ignore"):
        theirs, ours = both(tmp_path, lambda w: w.add_histogram("h", values, 0))
    assert np.isnan(theirs[".", "h"].values[0][:, :2]).any() and theirs[".", "h"].values[0][:, 2].sum() == 2
    buckets = ours[".", "h"].values[0]
    assert np.isfinite(buckets).all() and buckets[:, 2].sum() == 3 and buckets[-1, 1] == 1e30
    assert ours[".", "nonfinite/h"].values == (2,)


def test_histograms_have_tens_of_buckets_and_not_hundreds(tmp_path):
    theirs, ours = both(tmp_path, lambda w: w.add_histogram("h", NORMAL, 0))
    assert len(theirs[".", "h"].values[0]) > 300 and len(ours[".", "h"].values[0]) <= 64


def test_histograms_of_nothing_do_not_stop_the_training(tmp_path):
    values = torch.full((3,), math.nan)
    with peer.SummaryWriter(str(tmp_path / "theirs")) as writer, pytest.raises(ValueError, match="bug report"):
        writer.add_histogram("h", values, 0)
    with torchboard.SummaryWriter(tmp_path / "ours") as writer:
        writer.add_histogram("h", values, 0)
        writer.add_histogram("empty", torch.zeros(0), 0)
    assert accumulated(tmp_path / "ours")[".", "nonfinite/h"].values == (3,)


def test_complex_numbers_are_refused_and_not_halved(tmp_path):
    with peer.SummaryWriter(str(tmp_path / "theirs")) as writer, pytest.warns(match="imaginary"):
        writer.add_histogram("h", torch.tensor([1 + 5j]), 0)
    with torchboard.SummaryWriter(tmp_path / "ours") as writer, pytest.raises(InvalidValueError, match="real"):
        writer.add_histogram("h", torch.tensor([1 + 5j]), 0)


def test_whole_numbers_are_levels_of_a_picture_whatever_their_width(tmp_path):
    levels = torch.tensor([0, 1, 128, 255]).reshape(1, 2, 2).repeat(3, 1, 1)
    theirs, ours = both(tmp_path, each_step("add_image", levels))
    assert np.unique(theirs[".", "group/tag"].values[0][0]).tolist() == [0, 255]
    assert np.unique(ours[".", "group/tag"].values[0][0]).tolist() == [0, 1, 128, 255]


def test_several_pictures_are_pages_and_not_one_sheet(tmp_path):
    theirs, ours = both(tmp_path, each_step("add_images", torch.stack([PICTURE] * 5)))
    assert len(theirs[".", "group/tag"].values[0]) == 1
    assert len(ours[".", "group/tag"].values[0]) == 5


def test_a_text_is_a_block_and_not_a_table_of_one_cell(tmp_path):
    theirs, ours = both(tmp_path, each_step("add_text", "text"))
    assert theirs[".", "group/tag/text_summary"].values[0].shape == (1,)
    assert ours[".", "group/tag/text_summary"].values[0].shape == ()


def test_texts_may_be_tables(tmp_path):
    with torchboard.SummaryWriter(tmp_path) as writer:
        writer.add_text("t", [["a", "b"], ["c", "d"]], 0)
    (table,) = accumulated(tmp_path)[".", "t/text_summary"].values
    assert table.tolist() == [[b"a", b"b"], [b"c", b"d"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.plugins.text.text_plugin import text_array_to_html
    html = text_array_to_html(table, enable_markdown=True)
    assert html.count("<tr>") == 2 and html.count("<td>") == 4
    with peer.SummaryWriter(str(tmp_path / "theirs")) as writer, pytest.raises(AttributeError):
        writer.add_text("t", ["a"], 0)


def test_sound_may_have_several_channels_and_is_clipped_in_silence(tmp_path, capfd):
    loud = torch.tensor([2.0, math.nan, -0.5])
    with torchboard.SummaryWriter(tmp_path / "ours") as writer:
        writer.add_audio("x", loud, 0)
        writer.add_audio("stereo", torch.zeros(2, 9), 0)
    assert capfd.readouterr().out == ""
    ours = accumulated(tmp_path / "ours")
    assert ours[".", "x"].values[0][0].reshape(-1).tolist() == [32767, 0, -16384]
    assert ours[".", "stereo"].values[0][0].shape == (9, 2)
    with peer.SummaryWriter(str(tmp_path / "theirs")) as writer, np.errstate(all="ignore"):
        writer.add_audio("x", torch.tensor([2.0, 0.5]), 0)
        assert "auto clipped" in capfd.readouterr().out
        with pytest.raises(AssertionError, match="1 dimensional"):
            writer.add_audio("stereo", torch.zeros(2, 9), 0)


def test_videos_need_no_moviepy(tmp_path, capfd):
    theirs, ours = both(tmp_path, lambda w: w.add_video("v", torch.rand(1, 4, 3, 8, 8), 0))
    assert ours[".", "v"].plugin == "images"
    assert theirs == {} or (".", "v") in theirs


def test_an_experiment_is_declared_only_where_domains_are(tmp_path):
    theirs, ours = both(tmp_path, lambda w: w.add_hparams({"lr": 0.1}, {"acc": 1.0}, run_name="a"))
    assert ("a", "_hparams_/experiment") in theirs and ("a", "_hparams_/experiment") not in ours
    with torchboard.SummaryWriter(tmp_path / "declared") as writer:
        writer.add_hparams({"lr": 0.1}, {"acc": 1.0}, {"lr": [0.1, 0.2]}, run_name="a")
    assert ("a", "_hparams_/experiment") in accumulated(tmp_path / "declared")


def test_a_boolean_stays_one_in_a_trial(tmp_path):
    theirs, ours = both(tmp_path, lambda w: w.add_hparams({"nesterov": True}, {"acc": 1.0}, run_name="a"))
    start = ("a", "_hparams_/session_start_info")
    kinds = [log[start].values[0].session_start_info.hparams["nesterov"].WhichOneof("kind") for log in (theirs, ours)]
    assert kinds == ["number_value", "bool_value"]


def test_a_trial_with_a_metric_that_is_no_number_is_refused_and_leaves_nothing(tmp_path):
    with torchboard.SummaryWriter(tmp_path / "ours") as writer:
        for hparams, metrics in (({"lr": {"at": 1}}, {"acc": 1.0}), ({"lr": 0.1}, {"acc": "high"})):
            with pytest.raises(InvalidValueError):
                writer.add_hparams(hparams, metrics, run_name="a")
    assert not (tmp_path / "ours" / "a").exists()
    with peer.SummaryWriter(str(tmp_path / "theirs")) as writer, pytest.raises(NotImplementedError):
        writer.add_hparams({"lr": 0.1}, {"acc": [1]}, run_name="a")
    assert list((tmp_path / "theirs" / "a").iterdir())


def test_a_trial_stays_below_the_log_directory(tmp_path):
    with torchboard.SummaryWriter(tmp_path / "a" / "ours") as writer, pytest.raises(TagError):
        writer.add_hparams({"lr": 0.1}, {"acc": 1.0}, run_name="../../escaped")
    assert not (tmp_path / "escaped").exists()
    with peer.SummaryWriter(str(tmp_path / "a" / "theirs")) as writer:
        writer.add_hparams({"lr": 0.1}, {"acc": 1.0}, run_name="../../escaped")
    assert (tmp_path / "escaped").exists()


def test_layouts_of_custom_scalars_add_up(tmp_path):
    def calls(w: Any) -> None:
        w.add_custom_scalars_multilinechart(["a"], title="first")
        w.add_custom_scalars_multilinechart(["b"], title="second")

    logs = both(tmp_path, calls)
    curves = [log[".", "custom_scalars__config__"] for log in logs]
    shown = [Layout.FromString(curve.values[-1].item()).category[0].chart for curve in curves]
    assert [[chart.title for chart in charts] for charts in shown] == [["second"], ["first", "second"]]
    assert [curve.steps for curve in curves] == [(0, 0), (0, 1)]


def test_a_curve_may_have_more_than_127_thresholds(tmp_path):
    theirs, ours = both(tmp_path, each_step("add_pr_curve", (LABELS, SCORES), num_thresholds=300))
    assert [log[".", "group/tag"].values[0].shape[1] for log in (theirs, ours)] == [127, 300]


def test_predictions_that_are_no_probabilities_are_refused(tmp_path):
    with peer.SummaryWriter(str(tmp_path / "theirs")) as writer:
        writer.add_pr_curve("x", np.array([1, 0]), np.array([0.5, 0.5]) + 0.7, 0)
    with torchboard.SummaryWriter(tmp_path / "ours") as writer, pytest.raises(InvalidValueError, match="sigmoid"):
        writer.add_pr_curve("x", np.array([1, 0]), np.array([0.5, 0.5]) + 0.7, 0)


def test_labels_of_points_are_one_line_each(tmp_path):
    labels = ["a\tb", "c\nd"]
    both(tmp_path, lambda w: w.add_embedding(np.eye(2), labels))
    lines = [(tmp_path / n / "00000/default/metadata.tsv").read_text().splitlines() for n in ("theirs", "ours")]
    assert lines[0] == ["a\tb", "c", "d"] and lines[1] == ["a b", "c d"]


def test_a_step_is_a_whole_number(tmp_path):
    with peer.SummaryWriter(str(tmp_path / "theirs")) as writer:
        writer.add_scalar("x", 1.0, 1.7)
    assert accumulated(tmp_path / "theirs")[".", "x"].steps == (1,)
    with torchboard.SummaryWriter(tmp_path / "ours") as writer, pytest.raises(InvalidValueError, match="whole"):
        writer.add_scalar("x", 1.0, 1.7)


def test_a_step_that_does_not_go_up_is_warned_of(tmp_path):
    with torchboard.SummaryWriter(tmp_path / "ours") as writer, pytest.warns(TorchboardWarning, match="step 3 to 3"):
        writer.add_scalar("x", 1.0, 3)
        writer.add_scalar("x", 2.0, 3)
    assert accumulated(tmp_path / "ours")[".", "x"].steps == (3, 3)


def test_a_tag_holds_one_kind_of_value(tmp_path):
    with torchboard.SummaryWriter(tmp_path / "ours") as writer:
        writer.add_scalar("x", 1.0, 0)
        with pytest.raises(TagError, match="already holds scalars"):
            writer.add_image("x", PICTURE, 0)
    assert accumulated(tmp_path / "ours")[".", "x"].plugin == "scalars"


@pytest.mark.parametrize("tag", ["", None, "a\ud800"])
def test_a_tag_is_a_text_with_something_in_it(tmp_path, tag):
    with torchboard.SummaryWriter(tmp_path / "ours") as writer, pytest.raises(TagError):
        writer.add_scalar(tag, 1.0, 0)


def test_a_graph_leaves_frozen_layers_frozen(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[1].eval()
    with torchboard.SummaryWriter(tmp_path / "ours") as writer:
        writer.add_graph(model, torch.ones(2, 2))
    assert not model[1].training
    with peer.SummaryWriter(str(tmp_path / "theirs")) as writer, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer.add_graph(model, torch.ones(2, 2))
    assert model[1].training


def test_a_graph_may_take_and_give_anything(tmp_path):
    class Net(nn.Module):
        def forward(self, x: torch.Tensor, scale: int) -> dict[str, Any]:
            return {"y": x * scale, "n": None}

    with torchboard.SummaryWriter(tmp_path / "ours") as writer:
        writer.add_graph(Net(), {"x": torch.ones(1, 2), "scale": 3})
    assert (".", "__run_graph__") in accumulated(tmp_path / "ours")
    with peer.SummaryWriter(str(tmp_path / "theirs")) as writer, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception):  # noqa: B017
            writer.add_graph(Net(), (torch.ones(1, 2), 3))


def test_a_graph_comes_with_the_layers_of_the_model(tmp_path):
    def calls(w: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            w.add_graph(nn.Linear(2, 3), torch.ones(1, 2))

    theirs, ours = both(tmp_path, calls)
    assert set(theirs) <= set(ours) and set(ours) - set(theirs) == {(".", "model"), (".", "run/layers")}


def test_an_onnx_graph_shows_its_weights_and_prints_nothing(tmp_path, capfd):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    weight = helper.make_tensor("fc.weight", TensorProto.FLOAT, [4, 4], [0.0] * 16)
    nodes = [helper.make_node("MatMul", ["x", "fc.weight"], ["y"], "/fc/MatMul")]
    path = str(tmp_path / "model.onnx")
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])), path)
    shown, said = {}, {}
    for name, kind in (("theirs", peer.SummaryWriter), ("ours", torchboard.SummaryWriter)):
        with kind(str(tmp_path / name)) as writer:
            writer.add_onnx_graph(path)
        said[name] = capfd.readouterr().out
        ((data,),) = accumulated(tmp_path / name)[".", "__run_graph__"].values
        shown[name] = [(node.name, node.op) for node in OpGraph.decode(data).nodes]
    assert said == {"theirs": "x\ny\ny\n", "ours": ""}
    assert shown["theirs"] == [("x", "Variable"), ("y", "Variable"), ("y", "MatMul")]
    assert shown["ours"] == [("x", "Placeholder"), ("fc/weight", "Parameter"), ("fc/MatMul", "MatMul"), ("y", "Output")]


def test_curves_of_one_chart_need_no_thread_of_their_own(tmp_path):
    counts = {}
    for name, kind in (("theirs", peer.SummaryWriter), ("ours", torchboard.SummaryWriter)):
        with kind(str(tmp_path / name)) as writer:
            writer.add_scalar("first", 1.0, 0)
            before = set(threading.enumerate())
            writer.add_scalars("loss", {str(number): 1.0 for number in range(5)}, 0)
            counts[name] = len(set(threading.enumerate()) - before)
    assert counts == {"theirs": 5, "ours": 0}


def test_a_relative_directory_is_told_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with peer.SummaryWriter("theirs") as theirs, torchboard.SummaryWriter("ours") as ours:
        assert (theirs.log_dir, ours.log_dir) == ("theirs", str(tmp_path / "ours"))


def test_the_tests_that_the_documentation_names_exist():
    root = Path(__file__).parents[2]
    named = set(re.findall(r"`(test_\w+)`", (root / "docs" / "differences.md").read_text()))
    defined = {
        name
        for path in (root / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert len(named) > 30 and named <= defined, named - defined
