"""Compacting, before and after: what TensorBoard's default loader serves to its pages."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import event, records, scalar, start, write
from serving import tensorboard, until

from torchboard import proto
from torchboard.cli import main
from torchboard.values import Histogram, Image, Scalar, Text

PAGES = ("scalars", "histograms", "images", "text", "distributions")
CURVES = {
    "plain": ("a", "b", "long", "described"),
    "said": ("loss", "stale"),
    "unsaid": ("loss", "stale"),
    "torn": ("loss",),
    "corrupt": ("loss",),
}


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    """TensorBoard on a log, and the names of the same runs before and after."""
    root = tmp_path_factory.mktemp("pages")
    make(root / "before")
    assert main(["compact", str(root / "before"), "--output", str(root / "after")]) == 0
    with tensorboard(root, "default", tmp_path_factory.mktemp("served") / "output.txt") as board:
        board.allowed += ["checksum", "CRC"]
        for half in ("before", "after"):
            board.await_points(f"{half}/plain", "long", 1499)
            board.await_points(f"{half}/torn", "loss", 4)
        yield board.below("before"), board.below("after")


def make(log):
    described = [event(step, "described", Scalar(step / 3, "about *it*")) for step in range(5)]
    long = [scalar(step, "long", np.sin(step), at=2000 + step / 100) for step in range(1500)]
    few = [scalar(step, tag, number / (step + 1)) for step in range(30) for number, tag in enumerate("ab")]
    first = [scalar(step, tag) for step in range(10) for tag in ("loss", "stale")]
    second = [scalar(step, value=2.0) for step in range(4, 12)]
    others = [
        event(3, "weights", Histogram(np.array([[0.0, 1.0, 2.0], [1.0, 2.5, 8.0]]))),
        event(4, "weights", Histogram(np.array([[0.0, 1.0, 5.0], [1.0, 2.5, 1.0]]))),
        event(1, "picture", Image(np.full((2, 3, 4, 3), 7, np.uint8))),
        event(1, "notes", Text("one *line*")),
        proto.Event(wall_time=3.0, graph_def=proto.GraphDef(node=[proto.NodeDef(name="x")]).SerializeToString()),
    ]
    write(log / "plain", [start(0), *few, *described])
    write(log / "plain", [*others, *long], "2")
    for name, messages in (("1", [start(0), *first]), ("2", [start(4), *second])):
        write(log / "said", messages, name)
        write(log / "unsaid", messages[1:], name)
    torn = write(log / "torn", [scalar(0), scalar(1), scalar(2)])
    torn.write_bytes(torn.read_bytes()[:-3])
    write(log / "torn", [scalar(3), scalar(4)], "2")
    corrupt = bytearray(records([scalar(0), scalar(1)]))
    corrupt[-1] ^= 1
    path = write(log / "corrupt", [])
    path.write_bytes(corrupt + records([scalar(2), scalar(3)], False))


@pytest.mark.parametrize("run", CURVES)
def test_every_page_lists_the_same_tags(boards, run):
    for page in PAGES:
        before, after = (board.tags(page, run) for board in boards)
        assert before == after, page


@pytest.mark.parametrize(("run", "tag"), [(run, tag) for run, tags in CURVES.items() for tag in tags])
def test_every_curve_has_the_same_points(boards, run, tag):
    before, after = (board.series("scalars", run, tag) for board in boards)
    if run == "corrupt":  # of a record with a bad checksum, what can be read of it is shown; it is not copied
        before = [point for point in before if point[1] != 1]
    assert [point[1:] for point in before] == [point[1:] for point in after]
    assert np.allclose([point[0] for point in before], [point[0] for point in after], rtol=0, atol=0.01)
    assert len(before) == {"long": 1000, "described": 5}.get(tag, len(before)) and before


def test_pictures_histograms_texts_and_graphs_are_the_same(boards):
    def pages(board):
        (picture,) = board.plugin("images", "images", run="plain", tag="picture", sample=1)
        return (
            board.series("histograms", "plain", "weights"),
            board.series("distributions", "plain", "weights"),
            board.fetch(f"plugin/images/individualImage?{picture['query']}"),
            board.plugin("text", "text", run="plain", tag="notes"),
            board.fetch("plugin/graphs/graph", run=board.full("plain")),
        )

    before, after = map(pages, boards)
    assert before == after and len(before[0]) == 2


def test_the_default_loader_reads_the_new_files_without_a_word(boards):
    until(lambda: boards[1].points("corrupt", "loss"))
    assert [words for words in boards[1].complaints() if "after" in words.splitlines()[0]] == []
