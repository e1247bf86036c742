"""A graph that no browser could draw, made smaller: what ran inside a module becomes one node of it.

The boxes are kept down to the depth that leaves few enough nodes, and few enough boxes that look alike: TensorBoard
compares each of those with all others. Operations that ran one after the other in one such box become one, so that what
is read still stands before what reads it, and costs add up.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable

from torchboard.graph.nodes import Cost, Graph, Node, Scope, Source

MAX_DRAWN = 20_000
"""How many nodes are drawn one by one. TensorBoard opens 10,000 in a second and 50,000 in four."""

MAX_COMPARED = 300_000
"""How many pairs of boxes that look alike and hold boxes themselves there may be. A browser compares so many in 2 s."""


def drawable(graph: Graph, limit: int = MAX_DRAWN) -> Graph:
    """``graph`` itself if it has at most ``limit`` nodes, else the deepest collapse of it that has.

    So it is with pairs of boxes and ``MAX_COMPARED``. Parameters, buffers and constants of a collapsed graph are left
    out; its note says what was done.
    """
    if len(graph.nodes) <= limit and _compared(graph.nodes) <= MAX_COMPARED:
        return graph
    kept = [node for node in graph.nodes if node.kind in ("input", "op", "output")]
    depth = max(len(node.scope) for node in kept)
    groups = _groups(kept, depth)
    while depth > 0 and (len(groups) > limit or _compared(_heads(groups, depth)) > MAX_COMPARED):
        depth -= 1
        groups = _groups(kept, depth)
    note = f"{len(graph.nodes):,} nodes are too many to draw: they are collapsed to modules down to level {depth}"
    owner = {node.id: position for position, group in enumerate(groups) for node in group}
    single = {group[0].id for group in groups if len(group) == 1}
    nodes = []
    for position, group in enumerate(groups):
        read = (source for node in group for source in node.inputs if source.node in owner)
        inputs = dict.fromkeys(Source(owner[s.node], s.output if s.node in single else 0) for s in read)
        nodes.append(_node(position, group, depth, tuple(source for source in inputs if source.node != position)))
    return Graph(graph.name, tuple(nodes), graph.calls, "; ".join(filter(None, (graph.note, note))))


def _compared(nodes: Iterable[Node]) -> int:
    """How many pairs of boxes have the same operations in them, in all; those without boxes in them cost nothing."""
    content: dict[Scope, Counter[str]] = {}
    for node in nodes:
        for depth in range(1, len(node.scope) + 1):
            content.setdefault(node.scope[:depth], Counter())[node.name if node.kind == "op" else node.kind] += 1
    around = {scope[:-1] for scope in content}
    alike = Counter(frozenset(content[scope].items()) for scope in content if scope in around)
    return sum(count * (count - 1) // 2 for count in alike.values())


def _heads(groups: list[list[Node]], depth: int) -> Iterable[Node]:
    """Nodes that stand for groups."""
    return (_node(0, group, depth, ()) for group in groups)


def _groups(nodes: list[Node], depth: int) -> list[list[Node]]:
    """Runs of operations in one box of that depth; anything else by itself."""

    def key(node: Node) -> tuple[Scope, int]:
        return node.scope[:depth], -1 if node.kind == "op" else node.id

    return [list(group) for _, group in itertools.groupby(nodes, key)]


def _node(position: int, group: list[Node], depth: int, inputs: tuple[Source, ...]) -> Node:
    """One node for a group, named after the box that it stands for; one that is alone keeps what it was."""
    first, last = group[0], group[-1]
    if len(group) == 1:
        return dataclasses.replace(first, id=position, inputs=inputs, scope=first.scope[:depth])
    is_box = len(first.scope) >= depth > 0
    return Node(
        id=position,
        kind="op",
        name=first.scope[depth - 1] if is_box else "operations",
        scope=first.scope[: depth - 1] if is_box else first.scope,
        module=first.module,
        inputs=inputs,
        outputs=last.outputs[:1],
        attributes=(("operations", f"{len(group):,}"),),
        cost=Cost(
            flops=sum(node.cost.flops for node in group),
            nbytes=sum(node.cost.nbytes for node in group),
            seconds=sum(node.cost.seconds for node in group),
            start=first.cost.start,
            spans=tuple(span for node in group for span in node.cost.spans),
        ),
    )
