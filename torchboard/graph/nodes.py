"""What one forward pass did, as frozen data: nodes that ran, the modules they ran in, and what each of them read.

Nothing in here holds a tensor or a module. Ids are positions: ``graph.nodes[i].id == i``, and a node reads only nodes
with smaller ids, so the order of the nodes is an order in which they can be run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torchboard.graph.spans import Span, seconds_of

Kind = Literal["op", "input", "parameter", "buffer", "constant", "output"]
Scope = tuple[str, ...]
"""Names of the boxes around a node, outermost first: ``("Net", "layer1", "0")``; empty outside the model."""

GRADIENTS = "gradients"
"""The outermost box around what a backward pass ran; in it lie the boxes of what ran forward."""


class Source(NamedTuple):
    """Where a tensor that a node reads came from: output ``output`` of node ``node``."""

    node: int
    output: int


@dataclass(frozen=True)
class TensorSpec:
    """What is known of a tensor once it is gone.

    Attributes:
        shape: sizes of its axes, -1 where one is a symbol; None for a tensor that has none (a jagged nested one).
        dtype: such as ``float32``.
        device: as torch writes it, such as ``cuda:0``.
    """

    shape: tuple[int, ...] | None
    dtype: str
    device: str


@dataclass(frozen=True)
class Cost:
    """What an operation cost in the recorded pass.

    Attributes:
        flops: floating point operations as ``torch.utils.flop_counter`` counts them: two for a multiplication and an
            addition, none for what is not a product of matrices, a convolution or attention.
        nbytes: bytes of the storages that it allocated for its results; none for a view or an in-place write.
        seconds: how long its operators ran on the host; 0 if they ran elsewhere or nothing was computed.
        start: the seconds that operators had run on the host when it began. What lies between operators is left out: the
            recorder's own work is there.
        spans: of its operators that ran on devices, how long each did there, which is known later.
    """

    flops: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    start: float = 0.0
    spans: tuple[Span, ...] = ()

    @property
    def device_seconds(self) -> float:
        """How long its operators ran on devices, as far as that is known by now."""
        return seconds_of(self.spans)


@dataclass(frozen=True)
class Node:
    """One thing that produced or consumed tensors.

    Attributes:
        id: its position in the graph.
        kind: ``op`` for what ran; ``constant`` for a tensor that came from nowhere the recorder saw.
        name: for an op the function as the user called it (``conv2d``, ``relu_``); else the name of the tensor.
        scope: the boxes around it.
        module: dotted name of the module that ran it or, for a parameter or buffer, that owns it; None outside.
        inputs: what it read, each source once.
        outputs: what it gave.
        aten: the operators it came down to, each once, in the order they first ran.
        attributes: its plain arguments, ``(name, text)``.
        cost: of an op.
    """

    id: int
    kind: Kind
    name: str
    scope: Scope = ()
    module: str | None = None
    inputs: tuple[Source, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    aten: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    cost: Cost = Cost()


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module.

    Attributes:
        scope: the box that its nodes sit in; a second call of the same module has one of its own.
        module: the module's dotted name; empty for the root.
        class_name: its class.
    """

    scope: Scope
    module: str
    class_name: str = ""


@dataclass(frozen=True)
class Graph:
    """One forward pass.

    Attributes:
        name: class name of the model.
        nodes: in the order in which they were met.
        calls: every call of a module, in the order in which they began; the first is the root's.
        note: what is to be known of it where it is not a whole pass; empty where it is.
    """

    name: str
    nodes: tuple[Node, ...]
    calls: tuple[ModuleCall, ...]
    note: str = ""

    @property
    def spans(self) -> Iterator[Span]:
        """The device times of all its nodes."""
        return (span for node in self.nodes for span in node.cost.spans)
