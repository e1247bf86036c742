"""Graphs: the Graphs dashboard, as operations that ran and as layers.

An ``OpGraph`` is the run's graph, one a run: a ``GraphDef`` in an event of its own. A ``ConceptualGraph`` is the model
as its author thinks of it, under a tag: the JSON of a Keras 3 functional model, of which TensorBoard reads names,
classes, types and edges. Both are drawn as nested boxes, one level for each ``/`` in a name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.value import BLOB_SEQUENCE, metadata, string_tensor

RUN_GRAPH_TAG = "__run_graph__"
"""The tag that TensorBoard's readers give to a run's graph."""

_SHAPES = "_output_shapes"
_PRODUCER = 22
_OUTPUT_SHAPE = tuple[int, ...] | None
_FUNCTIONAL = "Functional"


@dataclass(frozen=True)
class OpNode:
    """One operation of an ``OpGraph``.

    Attributes:
        name: where it is drawn, ``/`` between levels; unique in its graph and without ``:``.
        op: what it does. Any name with ``Const`` in it is drawn as a small circle beside what it feeds.
        inputs: names of the nodes it reads; ``name:k`` for an output other than the first, ``^name`` for mere order.
        device: such as ``/device:CPU:0``; empty if unknown.
        output_shapes: one an output, drawn on the edges; -1 for an unknown size, None for an unknown rank.
        attributes: what its info card lists, in the order of the keys. The browser is sent all of it: keep it small.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    device: str = ""
    output_shapes: tuple[_OUTPUT_SHAPE, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", tuple(sorted(self.attributes)))


@dataclass(frozen=True)
class OpGraph:
    """The graph of a run: the operations that ran, with what they read. A run shows its latest."""

    nodes: tuple[OpNode, ...]

    plugin: ClassVar[str] = "graphs"
    own_event: ClassVar[bool] = True
    """It takes the whole of an event: no summary can stand beside it."""

    @property
    def nbytes(self) -> int:
        return sum(_node_bytes(node) for node in self.nodes)

    def encode(self, tag: str, event: Any) -> None:
        """Makes it the event's graph. The file has no place for ``tag``: readers call it ``RUN_GRAPH_TAG``."""
        message = proto.GraphDef()
        self.fill(message)
        event.graph_def = message.SerializeToString(deterministic=True)

    def fill(self, message: Any) -> None:
        """Writes it into a ``GraphDef`` message."""
        message.versions.producer = _PRODUCER
        for node in self.nodes:
            _encode_node(node, message.node.add())

    @classmethod
    def decode(cls, graph_def: bytes) -> OpGraph:
        """The graph of a serialized ``GraphDef``. Attributes that are not text come as the text of their message."""
        return cls.of(proto.GraphDef.FromString(graph_def))

    @classmethod
    def of(cls, message: Any) -> OpGraph:
        """The graph of a ``GraphDef`` message."""
        return cls(tuple(_decode_node(node) for node in message.node))


@dataclass(frozen=True)
class ConceptualLayer:
    """One layer of a ``ConceptualGraph``.

    Attributes:
        name: unique in its graph, ``/`` between levels.
        class_name: what the info card shows as its class, in ASCII.
        dtype: the element type as TensorFlow names it, such as ``float32``; empty if unknown.
        inputs: names of the layers it reads.

    Raises:
        InvalidValueError: the class name is not ASCII, which TensorBoard refuses.
    """

    name: str
    class_name: str
    dtype: str = ""
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.class_name.isascii():
            raise InvalidValueError(
                f"class_name {self.class_name!r}", "TensorBoard reads ASCII only", "replace the other letters"
            )


@dataclass(frozen=True)
class ConceptualGraph:
    """A model as layers and the data that flows between them.

    Attributes:
        name: the model's, drawn as the outermost box.
        layers: each after those it reads.

    Raises:
        InvalidValueError: there is no layer, which TensorBoard cannot draw.
    """

    name: str
    layers: tuple[ConceptualLayer, ...]

    plugin: ClassVar[str] = "graph_keras_model"

    def __post_init__(self) -> None:
        if not self.layers:
            raise InvalidValueError(f"graph {self.name!r}", "a graph without layers cannot be drawn", "leave it out")

    @property
    def nbytes(self) -> int:
        return sum(120 + _length((layer.name, layer.class_name, *layer.inputs)) for layer in self.layers)

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as Keras 3 JSON in a string tensor ``[1]``: a flat list of layers, nested by their names."""
        read = {name for layer in self.layers for name in layer.inputs}
        config = {
            "name": self.name,
            "layers": [_encode_layer(layer) for layer in self.layers],
            "input_layers": [[layer.name, 0, 0] for layer in self.layers if not layer.inputs],
            "output_layers": [[layer.name, 0, 0] for layer in self.layers if layer.name not in read],
        }
        content = json.dumps({"class_name": _FUNCTIONAL, "config": config}, separators=(",", ":"))
        message = event.summary.value.add(tag=tag)
        message.metadata.CopyFrom(metadata(self.plugin, BLOB_SEQUENCE, b"1"))
        message.tensor.CopyFrom(string_tensor([content.encode("ascii")], (1,)))

    @classmethod
    def decode(cls, message: Any) -> ConceptualGraph:
        """The layers of a ``Summary.Value``. A model inside the model comes as one layer, its class name as ASCII."""
        config = json.loads(message.tensor.string_val[0])["config"]
        layers: list[ConceptualLayer] = []
        for layer in config["layers"]:
            layers.append(_decode_layer(layer, layers[-1].name if layers else None))
        return cls(config.get("name", ""), tuple(layers))


def _encode_node(node: OpNode, message: Any) -> None:
    message.name, message.op, message.device = node.name, node.op, node.device
    message.input.extend(node.inputs)
    for key, text in node.attributes:
        message.attr[key].s = text.encode("utf-8", "backslashreplace")
    for shape in node.output_shapes:
        entry = message.attr[_SHAPES].list.shape.add()
        entry.unknown_rank = shape is None
        for size in shape or ():
            entry.dim.add(size=size)


def _decode_node(message: Any) -> OpNode:
    shapes = message.attr[_SHAPES].list.shape if _SHAPES in message.attr else ()
    return OpNode(
        name=message.name,
        op=message.op,
        inputs=tuple(message.input),
        device=message.device,
        output_shapes=tuple(None if s.unknown_rank else tuple(d.size for d in s.dim) for s in shapes),
        attributes=tuple((key, _text(message.attr[key])) for key in message.attr if key != _SHAPES),
    )


def _text(attribute: Any) -> str:
    if attribute.WhichOneof("value") == "s":
        return attribute.s.decode("utf-8", "replace")
    return " ".join(str(attribute).split())


def _encode_layer(layer: ConceptualLayer) -> dict[str, Any]:
    """An empty ``inbound_nodes`` must be there: without it TensorBoard ties the layer to the one before."""
    config = {"name": layer.name} | ({"dtype": layer.dtype} if layer.dtype else {})
    tensors = [{"config": {"keras_history": [name, 0, 0]}} for name in layer.inputs]
    inbound = [{"args": tensors}] if tensors else []
    return {"class_name": layer.class_name, "config": config, "inbound_nodes": inbound}


def _decode_layer(layer: dict[str, Any], previous: str | None) -> ConceptualLayer:
    """One layer; a Sequential model leaves ``inbound_nodes`` out and means the layer before."""
    config = layer["config"]
    inbound = layer.get("inbound_nodes")
    dtype = config.get("dtype") or ""
    if inbound is None:
        inputs = [previous] if previous is not None else []
    else:
        inputs = list(_histories([node.get("args", []) for node in inbound if isinstance(node, dict)]))
    return ConceptualLayer(
        name=config["name"],
        class_name=str(layer.get("class_name") or "").encode("ascii", "replace").decode("ascii"),
        dtype=dtype if isinstance(dtype, str) else dtype.get("config", {}).get("name", ""),
        inputs=tuple(inputs),
    )


def _histories(arguments: Any) -> Iterable[str]:
    """The layers that Keras tensors in nested arguments come from."""
    if isinstance(arguments, list):
        for argument in arguments:
            yield from _histories(argument)
    elif isinstance(arguments, dict):
        history = arguments.get("config", {}).get("keras_history", ())
        if len(history) >= 3:
            yield history[0]


def _node_bytes(node: OpNode) -> int:
    texts = _length((node.name, node.op, node.device, *node.inputs)) + sum(_length(pair) for pair in node.attributes)
    return 100 + texts + 16 * sum(len(shape or ()) for shape in node.output_shapes)


def _length(texts: Iterable[str]) -> int:
    return sum(map(len, texts))
