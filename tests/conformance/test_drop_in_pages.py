"""What TensorBoard's two readers draw of the values that come to a writer in somebody else's form."""

from __future__ import annotations

import numpy as np
import pytest
from test_rules import END, loaded
from torch.utils.tensorboard import summary as peer_summary

from torchboard import SummaryWriter


def test_texts_in_lists_are_drawn_as_tables(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_text("rows", [["**a**", "b"], ["c", "d"]], 1)
        writer.add_text("column", np.array(["a", "b", "c"]), 1)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    (rows,) = board.plugin("text", "text", run=".", tag="rows/text_summary")
    assert rows["text"].count("<tr>") == 2 and rows["text"].count("<td>") == 4 and "<strong>a</strong>" in rows["text"]
    (column,) = board.plugin("text", "text", run=".", tag="column/text_summary")
    assert column["text"].count("<tr>") == 3 and column["text"].count("<td>") == 3


def test_histograms_that_were_counted_elsewhere_are_drawn_as_they_are(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_histogram_raw("h", 0.25, 2.0, 5, 7.5, 12.0, [0, 1, 2.5, 9], [0, 2, 3, 0], 4)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    assert board.series("histograms", ".", "h")[0][1:] == [4, [[0.25, 1.0, 2.0], [1.0, 2.0, 3.0]]]
    ((_, _, quantiles),) = board.series("distributions", ".", "h")
    assert (quantiles[0][1], quantiles[-1][1]) == (0.25, 2.0)


def test_messages_built_by_hand_are_shown(show, tmp_path):
    with SummaryWriter(tmp_path / "log" / "trial") as writer:
        for message in peer_summary.hparams({"lr": 0.5}, {"acc": 0.25}):
            writer.file_writer.add_summary(message)
        writer.file_writer.add_summary(peer_summary.scalar("acc", 0.25), 3)
        writer.file_writer.add_summary(peer_summary.text("note", "*words*"), 3)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"), "trial")
    assert board.points("trial", "acc") == [(3, 0.25)]
    (note,) = board.plugin("text", "text", run="trial", tag="note/text_summary")
    assert "<em>words</em>" in note["text"]
    assert {"acc", END} <= set(board.tags("scalars", "trial"))


def test_an_onnx_file_is_drawn_as_the_graph_of_the_run(show, tmp_path):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    weight = helper.make_tensor("fc.weight", TensorProto.FLOAT, [4, 4], [0.0] * 16)
    node = helper.make_node("MatMul", ["x", "fc.weight"], ["y"], "/fc/MatMul")
    onnx.save(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight])), tmp_path / "model.onnx")
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_onnx_graph(tmp_path / "model.onnx")
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    _, body = board.fetch("plugin/graphs/graph", run=board.full("."))
    text = body.decode()
    assert [name in text for name in ('name: "fc/weight"', 'name: "fc/MatMul"', 'input: "fc/weight"')] == [True] * 3
