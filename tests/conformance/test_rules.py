"""What TensorBoard's two readers make of small logs at the edges of the format."""

from __future__ import annotations

import html
import io
import math
import re

import numpy as np
import PIL.Image
import pytest
import torch
from serving import Board, until
from test_pages import check_buckets
from torch import nn

from torchboard import Monitor, SummaryWriter
from torchboard.errors import TorchboardWarning
from torchboard.run import open_run
from torchboard.values import Histogram, Image, Scalar

RESTARTED = ["Purging", "more than one graph event"]
"""What TensorBoard's Python reader says of a run that starts again, as it should."""

END = "end"
"""A tag that a test writes last; once it is there, all that stands before it has been read."""


def loaded(board: Board, run: str = ".") -> Board:
    """The board, once the last point of a run is shown."""
    until(lambda: board.points(run, END))
    return board


def shown_picture(board: Board, tag: str, sample: int) -> np.ndarray:
    (entry,) = board.plugin("images", "images", run=".", tag=tag, sample=sample)
    media_type, body = board.fetch(f"plugin/images/individualImage?{entry['query']}")
    assert media_type == "image/png"
    return np.asarray(PIL.Image.open(io.BytesIO(body)))


def test_numbers_that_are_not_finite_are_points_of_the_curve(show, tmp_path):
    values = [1.0, math.nan, math.inf, -math.inf, 1e39, 2.0]
    with SummaryWriter(tmp_path / "log") as writer:
        for step, value in enumerate(values):
            writer.add_scalar("loss", value, step)
            writer.add_scalar("from_tensor", torch.tensor(value), step)
    board = show(tmp_path / "log")
    for tag in ("loss", "from_tensor"):
        steps, shown = zip(*board.await_points(".", tag, last=5))
        assert steps == tuple(range(6))
        np.testing.assert_array_equal(shown, [1.0, math.nan, math.inf, -math.inf, math.inf, 2.0])


def test_every_kind_of_number_is_shown(show, tmp_path):
    numbers = [
        3,
        True,
        np.float64(0.5),
        np.int8(-7),
        torch.tensor(2.5, dtype=torch.bfloat16),
        torch.tensor([[4]]),
        np.array([0.25]),
    ]
    with SummaryWriter(tmp_path / "log") as writer:
        for step, number in enumerate(numbers):
            writer.add_scalar("number", number, step)
    assert show(tmp_path / "log").await_points(".", "number", last=6) == list(enumerate([3, 1, 0.5, -7, 2.5, 4, 0.25]))


def test_a_dict_of_metrics_is_shown_as_a_call_for_each_is(show, tmp_path):
    metrics = [{f"metric/{number}": number / 7 + step for number in range(100)} for step in range(3)]
    with SummaryWriter(tmp_path / "log") as writer, SummaryWriter(tmp_path / "log" / "one_by_one") as other:
        for step, row in enumerate(metrics):
            writer.log(row, step, walltime=1.7e9 + step)
            for tag, number in row.items():
                other.add_scalar(tag, number, step, walltime=1.7e9 + step)
        writer.add_scalar(END, 0.0)
        other.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    loaded(board, "one_by_one")
    assert board.tags("scalars", ".").keys() == board.tags("scalars", "one_by_one").keys()
    for tag in metrics[0]:
        series = board.series("scalars", ".", tag)
        assert len(series) == 3 and series == board.series("scalars", "one_by_one", tag)


def test_steps_may_be_negative_huge_or_far_apart(show, tmp_path):
    steps = [-5, 0, 1, 10**6, 2**53]
    with SummaryWriter(tmp_path / "log") as writer:
        for step in steps:
            writer.add_scalar("loss", 1.0, step)
    assert show(tmp_path / "log").await_points(".", "loss", last=2**53) == [(step, 1.0) for step in steps]


def test_a_wall_time_given_is_the_one_shown(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_scalar("loss", 1.0, 0, walltime=1234567890.5)
        writer.add_text("note", "words", 0, walltime=1234567891.25)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    assert board.series("scalars", ".", "loss") == [[1234567890.5, 0, 1.0]]
    assert board.plugin("text", "text", run=".", tag="note/text_summary")[0]["wall_time"] == 1234567891.25


def test_descriptions_are_shown_as_markdown(show, tmp_path):
    values = {
        "scalars": Scalar(1.0, "**what** it is"),
        "histograms": Histogram(np.array([[0.0, 1.0, 3.0]]), "**what** it is"),
        "images": Image(np.zeros((1, 4, 4, 3), np.uint8), "**what** it is"),
    }
    run = open_run(tmp_path / "log")
    run.write(0, tuple((f"mine/{plugin}", value) for plugin, value in values.items()))
    run.write(1, ((END, Scalar(0.0)),))
    run.close()
    board = loaded(show(tmp_path / "log"))
    for plugin in values:
        assert "<strong>what</strong> it is" in board.tags(plugin, ".")[f"mine/{plugin}"]["description"]


def test_a_tag_may_be_any_text(show, tmp_path):
    tags = ["Verlust/größe 損失", "a tag, with: spaces & ?=#%/+", "/leading//double/", "x" * 300, "*(a|b)[c]\\d"]
    with SummaryWriter(tmp_path / "log") as writer:
        for tag in tags:
            writer.add_scalar(tag, 2.0, 3)
            writer.add_histogram(tag + " h", torch.arange(10.0), 3)
            writer.add_text(tag + " t", "größe 損失", 3)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    for tag in tags:
        assert board.points(".", tag) == [(3, 2.0)]
        assert board.series("histograms", ".", tag + " h")[0][1] == 3
        assert "größe 損失" in board.plugin("text", "text", run=".", tag=tag + " t/text_summary")[0]["text"]


def test_a_run_may_have_any_name(show, tmp_path):
    names = ["größe 損失", "lr=0.1, [a]*", "deep/er/still"]
    for name in names:
        with SummaryWriter(tmp_path / "log" / name) as writer:
            writer.add_scalar("loss", 1.0, 0)
    board = show(tmp_path / "log")
    for name in names:
        assert board.await_points(name, "loss", last=0) == [(0, 1.0)]
    assert {board.full(name) for name in names} <= set(board.get("runs"))


def monitored(log_dir, losses, scale):
    """A monitored training of as many epochs as losses; the weight is what tells one run from another."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=scale)
    with Monitor(model, log_dir) as monitor:
        for loss in losses:
            optimizer.zero_grad()
            model(torch.rand(2, 1, 8, 8)).sum().backward()
            optimizer.step()
            monitor.log_epoch(loss=loss, val_loss=2 * loss)


def test_a_second_run_in_the_same_directory_hides_the_first(show, tmp_path):
    monitored(tmp_path / "log", [9.0, 8.0, 7.0, 6.0, 5.0], scale=0.5)
    with pytest.warns(TorchboardWarning, match="holds a run"):
        monitored(tmp_path / "log", [1.0, 2.0, 3.0], scale=0.25)
    board = show(tmp_path / "log")
    board.allowed += RESTARTED
    for run, last in (("train", 3.0), ("validation", 6.0)):
        assert board.await_points(run, "epoch_loss", 2, last) == [(0, last / 3), (1, last * 2 / 3), (2, last)]
    assert {value for _, value in board.points("train", "epoch_learning_rate")} == {0.25}
    for tag in ("parameters/0/weight", "activations/2"):
        assert [step for _, step, _ in board.await_histograms("train", tag, last=2)] == [0, 1, 2]
    until(
        lambda: board.plugin("images", "images", run="train", tag="feature_maps/0", sample=0),
        lambda maps: [entry["step"] for entry in maps] == [0, 1, 2],
    )
    assert len(board.plugin("text", "text", run="train", tag="run/facts")) == 1
    assert board.plugin("graphs", "info")[board.full("train")]["run_graph"]


def test_a_resumed_run_goes_on_where_it_was_told_to(show, tmp_path):
    for start, end, value in ((0, 6, 0.0), (3, 8, 1.0)):
        with SummaryWriter(tmp_path / "log", purge_step=start or None) as writer:
            for step in range(start, end):
                writer.add_scalar("loss", value, step)
                writer.add_histogram("weight", torch.randn(100) + value, step)
    board = show(tmp_path / "log")
    board.allowed += RESTARTED
    assert board.await_points(".", "loss", last=7) == [
        (0, 0.0),
        (1, 0.0),
        (2, 0.0),
        *((step, 1.0) for step in range(3, 8)),
    ]
    assert [step for _, step, _ in board.await_histograms(".", "weight", last=7)] == list(range(8))


def test_a_run_goes_on_after_a_process_died_in_the_middle_of_a_record(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        for step in range(3):
            writer.add_scalar("loss", 0.0, step)
    (torn,) = (tmp_path / "log").iterdir()
    torn.write_bytes(torn.read_bytes()[:-5])
    with SummaryWriter(tmp_path / "log", purge_step=2) as writer:
        for step in range(2, 5):
            writer.add_scalar("loss", 1.0, step)
    assert show(tmp_path / "log").await_points(".", "loss", last=4) == [
        (0, 0.0),
        (1, 0.0),
        (2, 1.0),
        (3, 1.0),
        (4, 1.0),
    ]


EDGES = {
    "constant": torch.full((100,), 3.0),
    "negative constant": torch.full((100,), -10.0),
    "one element": torch.tensor([0.125]),
    "scalar": torch.tensor(7.0),
    "all zeros": torch.zeros(50),
    "two values": torch.tensor([1.0, 2.0]),
    "1e30": torch.randn(100) * 1e30,
    "huge range": torch.cat([torch.logspace(-37, 38, 500), -torch.logspace(-37, 38, 500)]),
    "denormal": torch.linspace(1e-42, 1e-40, 100),
    "bfloat16": torch.linspace(-3, 5, 1000, dtype=torch.bfloat16),
    "float16": torch.tensor([-65504.0, 0.0, 65504.0], dtype=torch.float16),
    "float64": torch.linspace(-1e300, 1e300, 100, dtype=torch.float64),
    "narrow": 1000 + torch.linspace(0, 1e-3, 100, dtype=torch.float64),
    "spike": torch.cat([torch.zeros(10_000), torch.randn(100)]),
    "booleans": torch.arange(10) % 2 == 0,
    "integers": torch.arange(-100, 100),
    "with nan": torch.tensor([1.0, math.nan, 2.0]),
    "with infinities": torch.tensor([1.0, math.inf, -math.inf, -2.0]),
    "array": np.linspace(0, 1, 10),
}


def test_any_data_make_histograms_that_can_be_drawn(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        for step in range(2):
            for tag, values in EDGES.items():
                writer.add_histogram(tag, values, step)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    for tag, values in EDGES.items():
        finite = np.asarray(torch.as_tensor(values).double().reshape(-1))
        finite = finite[np.isfinite(finite)]
        series = board.series("histograms", ".", tag)
        assert [step for _, step, _ in series] == [0, 1], tag
        for _, _, buckets in series:
            check_buckets(buckets)
            assert sum(count for _, _, count in buckets) == pytest.approx(len(finite), rel=1e-12), tag
            assert buckets[0][0] <= finite.min() and finite.max() <= buckets[-1][1], tag
        for _, _, quantiles in board.series("distributions", ".", tag):
            values_at = [value for _, value in quantiles]
            assert values_at == sorted(values_at) and all(map(math.isfinite, values_at)), tag
    assert board.points(".", "nonfinite/with nan") == [(0, 1.0), (1, 1.0)]
    assert board.points(".", "nonfinite/with infinities") == [(0, 2.0), (1, 2.0)]


def test_data_without_a_finite_element_never_break_a_page(show, tmp_path):
    nothing = {"all nan": torch.full((10,), math.nan), "no element": torch.empty(0)}
    with SummaryWriter(tmp_path / "log") as writer:
        for tag, values in nothing.items():
            for step, drawn in enumerate((torch.randn(100), values, torch.randn(100))):
                writer.add_histogram(f"now and then {tag}", drawn, step)
            writer.add_histogram(f"ever {tag}", values, 0)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    for tag in board.tags("histograms", "."):
        series = board.series("histograms", ".", tag)
        assert all(np.isfinite(buckets).all() for _, _, buckets in series)
        assert [step for _, step, buckets in series if buckets] == ([0, 2] if tag.startswith("now and then") else [])
        for _, _, quantiles in board.series("distributions", ".", tag):
            assert all(math.isfinite(value) for _, value in quantiles)
    assert board.points(".", "nonfinite/ever all nan") == [(0, 10.0)]


def test_several_pictures_under_one_tag_are_paged_and_exact(show, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 4), np.uint8)
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_images("colour", pixels[..., :3], dataformats="NHWC")
        writer.add_images("alpha", pixels, dataformats="NHWC")
        writer.add_images("grey", torch.from_numpy(pixels[..., :1]), dataformats="NHWC")
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    expected = {"colour": pixels[..., :3], "alpha": pixels, "grey": pixels[..., 0]}
    assert {tag: info["samples"] for tag, info in board.tags("images", ".").items()} == dict.fromkeys(expected, 3)
    for tag, pictures in expected.items():
        for sample in range(3):
            np.testing.assert_array_equal(shown_picture(board, tag, sample), pictures[sample])


def test_text_is_drawn_as_markdown_and_cannot_inject_a_script(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_text("note", "# Title\n\n| a | b |\n| --- | --- |\n| 1 | `x` |\n\n<script>alert(1)</script>", 4)
        writer.add_scalar(END, 0.0)
    (note,) = loaded(show(tmp_path / "log")).plugin("text", "text", run=".", tag="note/text_summary")
    assert note["step"] == 4
    assert (
        "<h1>Title</h1>" in note["text"] and "<td><code>x</code></td>" in note["text"] and "<script" not in note["text"]
    )


def test_the_facts_of_a_run_are_shown_letter_by_letter(show, tmp_path, monkeypatch):
    arguments = ["__main__.py", "--tag=*bold*_1_", "<b>", "a|b", "`x`", "[y](z)"]
    monkeypatch.setattr("sys.argv", arguments)
    with Monitor(nn.Linear(2, 1), tmp_path / "log") as monitor:
        monitor.log_epoch(loss=1.0)
    board = show(tmp_path / "log")
    (facts,) = until(lambda: board.plugin("text", "text", run="train", tag="run/facts"))
    seen = html.unescape(re.sub("<.*?>", "", facts["text"]))
    assert " ".join(arguments) in seen


def test_a_graph_added_by_hand_is_shown_as_operations_and_layers(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_graph(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.rand(2, 3))
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    info = board.plugin("graphs", "info")[board.full(".")]
    assert info["run_graph"] and info["tags"]["model"]["conceptual_graph"]
    for query, words in (({}, b"Sequential/0_Linear"), ({"tag": "model", "conceptual": "true"}, b"Sequential/0")):
        assert words in board.fetch("plugin/graphs/graph", run=board.full("."), **query)[1]


def test_two_writers_on_one_directory_lose_nothing(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as first, SummaryWriter(tmp_path / "log") as second:
        for step in range(4):
            first.add_scalar("first", 1.0, step)
            second.add_scalar("second", 2.0, step)
            (first, second)[step % 2].add_scalar("shared", step, step)
    board = show(tmp_path / "log")
    assert board.await_points(".", "shared", last=3) == [(step, step) for step in range(4)]
    assert board.points(".", "first") == [(step, 1.0) for step in range(4)]
    assert board.points(".", "second") == [(step, 2.0) for step in range(4)]


def test_points_and_runs_that_come_later_appear_in_a_live_tensorboard(board):
    with Monitor(nn.Linear(2, 1), board.log_dir / board.above) as monitor:
        for epoch in range(3):
            monitor.log_epoch(loss=epoch, **({"val_loss": 5.0} if epoch == 2 else {}))
            assert board.await_points("train", "epoch_loss", last=epoch) == [(step, step) for step in range(epoch + 1)]
            series = board.await_histograms("train", "parameters/weight", last=epoch)
            assert [step for _, step, _ in series] == list(range(epoch + 1))
        assert board.await_points("validation", "epoch_loss", last=2) == [(2, 5.0)]
