"""What a tape writes on while a pass runs: nodes that may still grow, functions and modules that have not ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torchboard.graph.nodes import Cost, Kind, Node, Scope, Source, TensorSpec

_MAX_ATEN = 16


@dataclass
class Draft:
    """A node that may still grow."""

    id: int
    kind: Kind
    name: str
    scope: Scope = ()
    module: str | None = None
    inputs: dict[Source, None] = field(default_factory=dict)
    outputs: tuple[TensorSpec, ...] = ()
    aten: dict[str, None] = field(default_factory=dict)
    attributes: tuple[tuple[str, str], ...] = ()
    cost: Cost | None = None

    def read(self, sources: Iterable[Source]) -> None:
        """Adds what the node reads; what it made itself is no input of it."""
        for source in sources:
            if source.node != self.id:
                self.inputs[source] = None

    def came_to(self, operator: str) -> None:
        """Adds an operator that the node came down to."""
        if len(self.aten) < _MAX_ATEN:
            self.aten[operator] = None

    def spent(self, cost: Cost) -> None:
        """Adds the cost of one operator."""
        was = self.cost
        if was is not None:
            seconds, spans = was.seconds + cost.seconds, was.spans + cost.spans
            cost = Cost(was.flops + cost.flops, was.nbytes + cost.nbytes, seconds, was.start, spans)
        self.cost = cost

    def finished(self, order: dict[int, int], scope: Scope) -> Node:
        """The node in its scope; ``order`` gives the ids that the drafts become."""
        return Node(
            id=order[self.id],
            kind=self.kind,
            name=self.name,
            scope=scope,
            module=self.module,
            inputs=tuple(Source(order[source.node], source.output) for source in self.inputs),
            outputs=self.outputs,
            aten=tuple(self.aten),
            attributes=self.attributes,
            cost=self.cost or Cost(),
        )


@dataclass
class Function:
    """A torch function that is running; it has a node once it has come down to an operator."""

    name: str
    attributes: tuple[tuple[str, str], ...] = ()
    draft: Draft | None = None


@dataclass(frozen=True)
class Running:
    """A module call that has not ended, and the function it interrupted."""

    module: str
    scope: Scope
    interrupted: Function | None
