"""The operations of a recorded pass as TensorBoard's run graph, and what they cost as its profile."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torchboard.graph.labels import drawn_names
from torchboard.graph.nodes import Graph, Node, Source
from torchboard.values.graph import OpGraph, OpNode
from torchboard.values.graph_profile import GraphProfile, NodeStats

_OPS = {"input": "Placeholder", "parameter": "Parameter", "buffer": "Buffer", "constant": "Const", "output": "Output"}
"""What the info card calls a node that is not an operation. ``Const`` is drawn beside its reader and not as a node."""

_DEVICES = {"cuda": "GPU"}
_MAX_TEXT = 256


def op_graph(graph: Graph) -> OpGraph:
    """One node for each of the graph's that is worth drawing, named by its modules: ``Net/layer1/0/conv1/conv2d``.

    Names are unique, none is a box around others, every input exists, every edge has its shape, and no box holds more
    than 200 things. Attributes of an operation are its arguments and what it cost: ``flops``, the elements of the
    ``parameters`` it read, and ``activation_bytes``, the memory of its results.
    """
    names = drawn_names(graph)
    return OpGraph(tuple(_op_node(graph, graph.nodes[number], names) for number in names))


def graph_profile(graph: Graph) -> GraphProfile:
    """What the operations of ``op_graph(graph)`` cost.

    Times are those of operators alone, one after the other whatever they ran on, so that the time of a box is the sum of
    what is in it. Those on devices are in it as far as they have been read.
    """
    names = drawn_names(graph)
    stats: list[NodeStats] = []
    on_devices = 0.0
    for node in graph.nodes:
        if node.id in names and node.kind == "op" and node.outputs:
            stats += _stats(node, names[node.id], on_devices)
        on_devices += node.cost.device_seconds
    return GraphProfile(tuple(stats))


def _stats(node: Node, name: str, before: float) -> Iterator[NodeStats]:
    """What a node cost on each device, first on the one that its result is on; ``before`` it devices ran so long."""
    own, start = _device(node.outputs[0].device), before + node.cost.start
    times = {own: 0.0}
    if node.cost.seconds:
        times[_device("cpu")] = node.cost.seconds
    for span in node.cost.spans:
        times[_device(span.device)] = times.get(_device(span.device), 0.0) + (span.seconds or 0.0)
    for device, seconds in times.items():
        begin, end = round(start * 1e6), round((start + seconds) * 1e6)
        if seconds or device == own:
            duration = max(1, end - begin) if seconds else 0
            yield NodeStats(name, device, begin, duration, node.cost.nbytes if device == own else 0)
        start += seconds


def _op_node(graph: Graph, node: Node, names: dict[int, str]) -> OpNode:
    return OpNode(
        name=names[node.id],
        op=_OPS.get(node.kind, node.name),
        inputs=tuple(dict.fromkeys(_reference(graph, source, names) for source in node.inputs)),
        device=_device(node.outputs[0].device) if node.outputs else "",
        output_shapes=tuple(spec.shape for spec in node.outputs),
        attributes=_attributes(graph, node),
    )


def _reference(graph: Graph, source: Source, names: dict[int, str]) -> str:
    """``name``, or ``name:k`` for an output other than the first."""
    exists = 0 < source.output < len(graph.nodes[source.node].outputs)
    return f"{names[source.node]}:{source.output}" if exists else names[source.node]


def _attributes(graph: Graph, node: Node) -> tuple[tuple[str, str], ...]:
    """The call's arguments, the element types of its results, the operators it came down to and what it cost."""
    found = dict(node.attributes)
    if node.outputs:
        found["dtype"] = ", ".join(dict.fromkeys(spec.dtype for spec in node.outputs))
    if node.aten:
        found["aten"] = ", ".join(name.removeprefix("aten::") for name in node.aten)
    costs = {
        "flops": node.cost.flops,
        "parameters": _parameters(graph, node),
        "activation_bytes": node.cost.nbytes,
    }
    found.update((key, f"{number:,}") for key, number in costs.items() if number)
    return tuple((key, text[:_MAX_TEXT]) for key, text in found.items())


def _parameters(graph: Graph, node: Node) -> int:
    """Elements of the parameters that an operation reads."""
    read = {source.node for source in node.inputs if graph.nodes[source.node].kind == "parameter"}
    shapes = (graph.nodes[number].outputs[0].shape for number in read)
    return sum(math.prod(shape) for shape in shapes if shape is not None and -1 not in shape)


def _device(device: str) -> str:
    """``/device:GPU:0`` for ``cuda:0``; the form that TensorBoard's legend knows."""
    kind, _, index = device.partition(":")
    return f"/device:{_DEVICES.get(kind, kind.upper())}:{index or 0}"
