"""An ONNX file as TensorBoard's run graph: what it computes, with the shapes and numbers that it names.

Nodes are nested by the modules that the exporter noted, in their names or their metadata; weights lie beside the first
node that reads them. Only the file's structure is read: weights in files of their own are not loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torchboard.errors import InvalidValueError, TorchboardError
from torchboard.graph.nodes import Scope
from torchboard.graph.paths import paths
from torchboard.values.graph import OpGraph, OpNode

_MAX_TEXT = 256
_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules around a node, the root's name first and the node's own last."""


@dataclass(frozen=True)
class _Tensor:
    """What the file says of a value."""

    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class _Item:
    """One thing to be drawn, and the names of the values it reads and gives."""

    scope: Scope
    name: str
    op: str
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...] = ()


def onnx_graph(path: Any) -> OpGraph:
    """The graph of an ONNX file: a path, or an open file.

    Raises:
        TorchboardError: the package ``onnx`` is not installed.
        InvalidValueError: there is no such file, it is no ONNX model, or it has no node.
    """
    onnx = _onnx()
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        wrong = f"it cannot be read as an ONNX model ({type(error).__name__}: {error})"
        raise InvalidValueError(
            f"ONNX file {path!r:.200}", wrong, "give the path of a file that was exported"
        ) from error
    tensors = _tensors(onnx, model)
    items = list(_items(onnx, model.graph))
    if not items:
        raise InvalidValueError(f"ONNX file {path!r:.200}", "its graph has no node", "export a model")
    names = paths([(item.scope, item.name) for item in items])
    places = {
        value: f"{name}:{slot}" if slot else name
        for item, name in zip(items, names)
        for slot, value in enumerate(item.gives)
        if value
    }
    return OpGraph(tuple(_node(item, name, places, tensors) for item, name in zip(items, names)))


def _onnx() -> Any:
    try:
        import onnx
        import onnx.shape_inference
    except Exception as error:
        raise TorchboardError(
            "an ONNX graph",
            f"the package onnx cannot be imported ({error})",
            "run 'pip install onnx', or use add_graph",
        ) from error
    return onnx


def _node(item: _Item, name: str, places: dict[str, str], tensors: dict[str, _Tensor]) -> OpNode:
    known = [tensors[value] for value in item.gives if value in tensors]
    attributes = dict(item.attributes)
    if known:
        attributes["dtype"] = ", ".join(dict.fromkeys(tensor.dtype for tensor in known))
    return OpNode(
        name=name,
        op=item.op,
        inputs=tuple(dict.fromkeys(places[value] for value in item.reads if value in places)),
        output_shapes=tuple(tensors[value].shape if value in tensors else None for value in item.gives),
        attributes=tuple((key, text[:_MAX_TEXT]) for key, text in attributes.items()),
    )


def _items(onnx: Any, graph: Any) -> Iterator[_Item]:
    """Inputs, weights, operations and outputs."""
    weights = {weight.name for weight in graph.initializer}
    operations = list(_operations(onnx, graph, ()))
    readers: dict[str, Scope] = {}
    for item in operations:
        for value in item.reads:
            readers.setdefault(value, item.scope)
    for value in graph.input:
        if value.name not in weights:
            yield _Item((), value.name, "Placeholder", (), (value.name,))
    for weight in graph.initializer:
        yield _Item(readers.get(weight.name, ()), weight.name.split(".")[-1], "Parameter", (), (weight.name,))
    yield from operations
    for value in graph.output:
        yield _Item((), value.name, "Output", (value.name,), ())


def _operations(onnx: Any, graph: Any, around: Scope) -> Iterator[_Item]:
    """The nodes of a graph, and those in the branches and bodies that they hold, in a box of their own."""
    for node in graph.node:
        scope = around + _scope(node)
        bodies = [attribute for attribute in node.attribute if attribute.HasField("g")]
        attributes = tuple((attribute.name, _text(onnx, attribute)) for attribute in node.attribute)
        yield _Item(scope, node.op_type, node.op_type, tuple(node.input), tuple(node.output), attributes)
        for body in bodies:
            yield from _operations(onnx, body.g, (*scope, node.name or node.op_type, body.name))


def _scope(node: Any) -> Scope:
    """The modules around a node: of the dotted names that exporters write, what each adds to the one before."""
    noted = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPES)
    try:
        modules = ast.literal_eval(noted or "")[1:-1]
    except (ValueError, SyntaxError, TypeError):
        modules = node.name.strip("/").split("/")[:-1]
    before = ["", *modules]
    return tuple(name.removeprefix(f"{outer}.") for outer, name in zip(before, modules) if name)


def _tensors(onnx: Any, model: Any) -> dict[str, _Tensor]:
    """Name -> what is known of each value; what the file leaves out is inferred where that can be done."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:
        graph = model.graph
    found = {
        value.name: _Tensor(_dtype(onnx, value.type.tensor_type.elem_type), _shape(value.type.tensor_type))
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return found | {
        weight.name: _Tensor(_dtype(onnx, weight.data_type), tuple(weight.dims)) for weight in graph.initializer
    }


def _shape(kind: Any) -> tuple[int, ...] | None:
    if not kind.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)


def _dtype(onnx: Any, number: int) -> str:
    return onnx.TensorProto.DataType.Name(number).lower()


def _text(onnx: Any, attribute: Any) -> str:
    """An attribute's value in a few letters."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if attribute.HasField("t"):
        return f"{_dtype(onnx, value.data_type)} of shape {list(value.dims)}"
    if attribute.HasField("g"):
        return f"{len(value.node)} nodes"
    return ", ".join(map(str, value)) if isinstance(value, Iterable) else f"{value}"
