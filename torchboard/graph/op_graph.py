"""The operations of a recorded pass as TensorBoard's run graph."""

from __future__ import annotations

from torchboard.graph.nodes import Graph, Node, Source
from torchboard.graph.paths import paths
from torchboard.values.graph import OpGraph, OpNode

_OPS = {"input": "Placeholder", "parameter": "Parameter", "buffer": "Buffer", "constant": "Const", "output": "Output"}
"""What the info card calls a node that is not an operation. ``Const`` is drawn beside its reader and not as a node."""

_DEVICES = {"cuda": "GPU"}
_MAX_TEXT = 256


def op_graph(graph: Graph) -> OpGraph:
    """One node for each of the graph's, named by its modules: ``Net/layer1/0/conv1/conv2d``.

    Names are unique, none is a box around others, every input exists, every edge has its shape, and no box holds more
    than 1000 things.
    """
    names = paths([(node.scope, node.name) for node in graph.nodes])
    return OpGraph(tuple(_op_node(graph, node, names) for node in graph.nodes))


def _op_node(graph: Graph, node: Node, names: list[str]) -> OpNode:
    return OpNode(
        name=names[node.id],
        op=_OPS.get(node.kind, node.name),
        inputs=tuple(dict.fromkeys(_reference(graph, source, names) for source in node.inputs)),
        device=_device(node.outputs[0].device) if node.outputs else "",
        output_shapes=tuple(spec.shape for spec in node.outputs),
        attributes=_attributes(node),
    )


def _reference(graph: Graph, source: Source, names: list[str]) -> str:
    """``name``, or ``name:k`` for an output other than the first."""
    exists = 0 < source.output < len(graph.nodes[source.node].outputs)
    return f"{names[source.node]}:{source.output}" if exists else names[source.node]


def _attributes(node: Node) -> tuple[tuple[str, str], ...]:
    """The call's arguments, the element types of its results and the operators it came down to."""
    found = dict(node.attributes)
    if node.outputs:
        found["dtype"] = ", ".join(dict.fromkeys(spec.dtype for spec in node.outputs))
    if node.aten:
        found["aten"] = ", ".join(name.removeprefix("aten::") for name in node.aten)
    return tuple((key, text[:_MAX_TEXT]) for key, text in found.items())


def _device(device: str) -> str:
    """``/device:GPU:0`` for ``cuda:0``; the form that TensorBoard's legend knows."""
    kind, _, index = device.partition(":")
    return f"/device:{_DEVICES.get(kind, kind.upper())}:{index or 0}"
