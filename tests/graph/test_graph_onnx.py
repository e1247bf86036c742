"""ONNX files as graphs: names, operations, shapes, attributes and weights."""

from __future__ import annotations

import sys

import pytest

from torchboard import MemorySink, SummaryWriter
from torchboard.errors import InvalidValueError, TorchboardError
from torchboard.graph.onnx_model import onnx_graph
from torchboard.run import Run

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402


def saved(tmp_path, nodes, weights=(), scopes=None):
    """The path of a model with input ``x`` and output ``y``."""
    for node, modules in (scopes or {}).items():
        nodes[node].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=repr(modules))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(weights),
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), path)
    return path


def weight(name, *dims):
    return helper.make_tensor(name, TensorProto.FLOAT, dims, [0.0] * helper.np.prod(dims, dtype=int).item())


def test_a_model_is_nested_by_the_names_of_its_nodes(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["h"], "/fc/Gemm", alpha=2.0, transB=1),
        helper.make_node("Relu", ["h"], ["y"], "/act/Relu"),
    ]
    path = saved(tmp_path, nodes, [weight("fc.weight", 3, 4), weight("fc.bias", 3)])
    found = {node.name: node for node in onnx_graph(path).nodes}
    assert list(found) == ["x", "fc/weight", "fc/bias", "fc/Gemm", "act/Relu", "y"]
    assert found["x"].op == "Placeholder" and found["x"].output_shapes == ((-1, 4),)
    assert found["fc/weight"].op == "Parameter" and found["fc/weight"].output_shapes == ((3, 4),)
    gemm = found["fc/Gemm"]
    assert gemm.op == "Gemm" and gemm.inputs == ("x", "fc/weight", "fc/bias") and gemm.output_shapes == ((-1, 3),)
    assert dict(gemm.attributes) == {"alpha": "2.0", "transB": "1", "dtype": "float"}
    assert (found["y"].op, found["y"].inputs) == ("Output", ("act/Relu",))


def test_modules_that_the_exporter_noted_are_the_boxes(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["h"], "node_1"), helper.make_node("Split", ["h"], ["y", "z"], "node_2")]
    nodes.append(helper.make_node("Neg", ["z"], ["w"], "node_3"))
    scopes = {0: ["", "a", "a.b", "relu"], 1: ["", "a", "a.0", "split"], 2: ["", "neg"]}
    found = {node.name: node.inputs for node in onnx_graph(saved(tmp_path, nodes, scopes=scopes)).nodes}
    assert found == {
        "x": (),
        "a/b/Relu": ("x",),
        "a/0/Split": ("a/b/Relu",),
        "Neg": ("a/0/Split:1",),
        "y": ("a/0/Split",),
    }


def test_branches_are_boxes_of_their_own(tmp_path):
    out = [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    branches = {
        name: helper.make_graph([helper.make_node(op, ["x"], ["r"], op)], name, [], out)
        for name, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [helper.make_node("If", ["c"], ["y"], "choice", **branches)]
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    found = {node.name: node for node in onnx_graph(saved(tmp_path, nodes, [condition])).nodes}
    assert {"If", "choice/then_branch/Relu", "choice/else_branch/Neg"} <= set(found)
    assert found["choice/else_branch/Neg"].inputs == ("x",)
    assert dict(found["If"].attributes)["then_branch"] == "1 nodes"


def test_values_of_attributes_are_shown_in_a_few_letters(tmp_path):
    value = helper.make_tensor("v", TensorProto.INT64, [300], range(300))
    nodes = [
        helper.make_node("Constant", [], ["c"], "c", value=value),
        helper.make_node("Op", ["x", "c"], ["y"], "op", text="größe", many=list(range(1000))),
    ]
    found = {node.name: dict(node.attributes) for node in onnx_graph(saved(tmp_path, nodes)).nodes}
    assert found["Constant"]["value"] == "int64 of shape [300]"
    assert found["Op"]["text"] == "größe" and len(found["Op"]["many"]) == 256


def test_a_writer_logs_it_as_the_graph_of_the_run(tmp_path, capfd):
    sink = MemorySink()
    SummaryWriter.on_run(Run(sink), lambda: 5).add_onnx_graph(
        str(saved(tmp_path, [helper.make_node("Relu", ["x"], ["y"], "relu")]))
    )
    ((step, graph),) = sink.series("__run_graph__", "")
    assert step == 0 and [node.op for node in graph.nodes] == ["Placeholder", "Relu", "Output"]
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("a text")
    for name in ("empty.onnx", "text.onnx", "none.onnx"):
        with pytest.raises(InvalidValueError, match="ONNX file"):
            onnx_graph(tmp_path / name)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(TorchboardError, match="pip install onnx"):
        onnx_graph("model.onnx")
