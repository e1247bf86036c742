"""The recordings of several models that are trained together, as one graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import nn

from torchboard.graph.module_names import class_name, join, module_names
from torchboard.graph.nodes import Graph, Node, Scope, Source


def joined(model: nn.Module, graphs: Mapping[str, Graph]) -> Graph:
    """One graph of recordings of ``model``'s children, each in a box named by its key; modules have ``model``'s names.

    Inputs and outputs have the key before their name. Nothing connects the children: each was recorded by itself.
    """
    name, nodes, calls = class_name(model), [], []
    for key, graph in graphs.items():
        known = _names(model, key)
        start = sum(node.cost.seconds for node in nodes)
        nodes += [_moved(node, (name, key), known, len(nodes), start) for node in graph.nodes]
        calls += [
            dataclasses.replace(call, scope=_inside((name, key), call.scope), module=known[call.module])
            for call in graph.calls
        ]
    notes = (f"{key}: {graph.note}" for key, graph in graphs.items() if graph.note)
    return Graph(name, tuple(nodes), tuple(calls), "; ".join(notes))


def _names(model: nn.Module, key: str) -> dict[str, str]:
    """Name in a child -> name in the model; one that both children hold is called as in the first."""
    names = module_names(model)
    return {name: names.get(module, join(key, name)) for module, name in module_names(model._modules[key]).items()}


def _moved(node: Node, box: Scope, known: Mapping[str, str], first: int, start: float) -> Node:
    return dataclasses.replace(
        node,
        id=first + node.id,
        name=f"{box[-1]}_{node.name}" if node.kind in ("input", "output") else node.name,
        scope=_inside(box, node.scope),
        module=None if node.module is None else known[node.module],
        inputs=tuple(Source(first + source.node, source.output) for source in node.inputs),
        cost=dataclasses.replace(node.cost, start=start + node.cost.start),
    )


def _inside(box: Scope, scope: Scope) -> Scope:
    """The scope with a box in place of the outermost one, which is the child's."""
    return (*box, *scope[1:]) if scope else ()
