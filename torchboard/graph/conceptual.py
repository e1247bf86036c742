"""The modules of a recorded pass as TensorBoard's conceptual graph: what the model's author sees, not what ran.

Every call of a module that called no other is one layer. What a module did itself between its children, such as the
addition of a residual block, is a layer by the name of the function. Edges are the data that flowed.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from torchboard.graph.labels import call_labels
from torchboard.graph.module_names import class_name, module_names
from torchboard.graph.nodes import Graph, Node, Scope
from torchboard.graph.paths import paths, safe
from torchboard.values.graph import ConceptualGraph, ConceptualLayer

_DTYPES = frozenset(
    {"float16", "float32", "float64", "bfloat16", "complex64", "complex128", "bool"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Element types that TensorFlow has too, by the same names; TensorBoard warns about any other."""

_MAX_TEXT = 120


def conceptual_graph(model: nn.Module, graph: Graph) -> ConceptualGraph:
    """The layers of ``model`` as ``graph``, a recording of it, saw them called.

    A call that ran nothing (an ``Identity``, a ``Dropout`` in eval mode) has no data flow to show and is left out. So
    is what does not depend on an input or a layer (a mask, positions) or leads nowhere (a counter).

    Raises:
        InvalidValueError: nothing was recorded that could be a layer.
    """
    leaves = _leaf_calls(graph)
    groups = _groups(graph, leaves)
    members = [[graph.nodes[node] for node in group] for group in groups]
    owner = {node.id: position for position, group in enumerate(members) for node in group}
    labels = call_labels(graph)
    names = paths([_place(group[0], leaves, labels) for group in members])
    modules = {name: module for module, name in module_names(model).items()}
    layers = tuple(
        ConceptualLayer(
            name=names[position],
            class_name=_class(group[0], leaves, modules),
            dtype=_dtype(group),
            inputs=tuple(names[other] for other in _read(group, owner) if other != position),
        )
        for position, group in enumerate(members)
    )
    return ConceptualGraph(safe(graph.name), layers)


def _leaf_calls(graph: Graph) -> dict[Scope, str]:
    """Scope -> module of the calls that called no other module. The model itself is a box, even without children."""
    around = {call.scope[:depth] for call in graph.calls for depth in range(len(call.scope))}
    return {call.scope: call.module for call in graph.calls if call.scope not in around and call.module}


def _groups(graph: Graph, leaves: dict[Scope, str]) -> list[list[int]]:
    """Ids of the nodes of every layer, in the order in which the layers began."""
    wanted = _ahead(graph, leaves) & _behind(graph, leaves)
    groups: dict[object, list[int]] = {}
    for node in graph.nodes:
        if _is_layer(node, leaves):
            groups.setdefault(node.scope, []).append(node.id)
        elif node.kind == "input" or (node.kind == "op" and node.id in wanted):
            groups[node.id] = [node.id]
    return list(groups.values())


def _is_layer(node: Node, leaves: dict[Scope, str]) -> bool:
    return node.kind == "op" and node.scope in leaves


def _ahead(graph: Graph, leaves: dict[Scope, str]) -> set[int]:
    """The nodes that depend on an input or on a layer."""
    found: set[int] = set()
    for node in graph.nodes:
        if node.kind == "input" or _is_layer(node, leaves) or any(source.node in found for source in node.inputs):
            found.add(node.id)
    return found


def _behind(graph: Graph, leaves: dict[Scope, str]) -> set[int]:
    """The nodes that an output or a layer depends on."""
    found: set[int] = set()
    for node in reversed(graph.nodes):
        if node.id in found or node.kind == "output" or _is_layer(node, leaves):
            found.update((node.id, *(source.node for source in node.inputs)))
    return found


def _read(group: list[Node], owner: dict[int, int]) -> Iterable[int]:
    """The layers that a layer reads, each once."""
    return dict.fromkeys(owner[source.node] for node in group for source in node.inputs if source.node in owner)


def _place(first: Node, leaves: dict[Scope, str], labels: dict[Scope, str]) -> tuple[Scope, str]:
    """Where a layer is drawn inside the model's box, and under which name."""
    if _is_layer(first, leaves):
        return first.scope[1:-1], labels.get(first.scope, first.scope[-1])
    return first.scope[1:], first.name


def _class(first: Node, leaves: dict[Scope, str], modules: dict[str, nn.Module]) -> str:
    if first.kind == "input":
        return "InputLayer"
    module = modules.get(leaves[first.scope]) if _is_layer(first, leaves) else None
    return _ascii(first.name) if module is None else _description(module)


def _description(module: nn.Module) -> str:
    """Class and main arguments as the module prints itself: ``Conv2d(1, 16, kernel_size=(3, 3), stride=(1, 1))``."""
    try:
        arguments = module.extra_repr()
    except Exception:  # the user's own code, and only a label
        arguments = ""
    return _ascii(f"{class_name(module)}({arguments})" if arguments else class_name(module))


def _ascii(text: str) -> str:
    flat = " ".join(text.split()).encode("ascii", "replace").decode("ascii")
    return flat if len(flat) <= _MAX_TEXT else flat[: _MAX_TEXT - 3] + "..."


def _dtype(group: list[Node]) -> str:
    """The element type of what the layer gave last."""
    given = [spec.dtype for node in group for spec in node.outputs[:1]]
    return given[-1] if given and given[-1] in _DTYPES else ""
