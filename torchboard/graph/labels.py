"""Where every node of a recorded graph is drawn, so that a person finds it: boxes as modules, and no more than needed.

A box is a call of a module and has its name; one that called no other and has only a number gets its class with it,
``0_Conv2d``. A box with nothing but one operation in it is drawn as that operation, under its own name, and a named one
with nothing but one box in it together with that one, ``encoder.layer``. What neither depends on an input or a parameter nor
leads to anything that does, such as the counter of a ``BatchNorm``, is not drawn; nor is the box of a model that was
never called, a mere holder of others.
"""

from __future__ import annotations

from torchboard.graph.nodes import GRADIENTS, Graph, Node, Scope
from torchboard.graph.paths import paths

Item = tuple[Scope, str]


def drawn_names(graph: Graph) -> dict[int, str]:
    """Id -> path of every node that is drawn, in the order of the graph."""
    drawn = _drawn(graph)
    labels = call_labels(graph)
    holder = graph.name if graph.calls and all(call.module for call in graph.calls) else None
    items = _folded([(_relabelled(node.scope, labels, holder), node) for node in drawn])
    return dict(zip((node.id for node in drawn), paths(items)))


def call_labels(graph: Graph) -> dict[Scope, str]:
    """Scope -> what its box is called, where that is not its last component: calls of numbered modules without children."""
    around = {call.scope[:depth] for call in graph.calls for depth in range(len(call.scope))}
    return {
        call.scope: f"{call.scope[-1]}_{call.class_name}"
        for call in graph.calls
        if call.class_name and call.scope not in around and call.module.rpartition(".")[2].isdigit()
    }


def _drawn(graph: Graph) -> list[Node]:
    """The nodes that have to do with an input, a parameter or an output; all, if none has."""
    ahead: set[int] = set()
    for node in graph.nodes:
        if node.kind in ("input", "parameter") or any(source.node in ahead for source in node.inputs):
            ahead.add(node.id)
    wanted = set(ahead)
    for node in reversed(graph.nodes):
        if node.id in wanted or node.kind == "output" or node.cost.flops:
            wanted.update((node.id, *(source.node for source in node.inputs)))
    drawn = [node for node in graph.nodes if node.id in wanted]
    return drawn if any(node.kind == "op" for node in drawn) else list(graph.nodes)


def _relabelled(scope: Scope, labels: dict[Scope, str], holder: str | None) -> Scope:
    """The scope with the label of its call; that of a gradient is labelled like the scope that it belongs to."""
    if scope[:1] == (GRADIENTS,):
        return (GRADIENTS, *_relabelled(scope[1:], labels, holder))
    label = labels.get(scope)
    labelled = scope if label is None else (*scope[:-1], label)
    return labelled[1:] if labelled[:1] == (holder,) else labelled


def _folded(places: list[tuple[Scope, Node]]) -> list[Item]:
    """Scope and name of every node, without boxes that hold one thing only; those of the models stay."""
    content = _content(places)
    shorter: dict[Scope, Item] = {}
    return [_place(scope, node, content, shorter) for scope, node in places]


def _content(places: list[tuple[Scope, Node]]) -> dict[Scope, set[Scope | int]]:
    """Scope -> the boxes and nodes that lie in it."""
    content: dict[Scope, set[Scope | int]] = {}
    for scope, node in places:
        inner: Scope | int = node.id
        for depth in range(len(scope), -1, -1):
            inside = content.setdefault(scope[:depth], set())
            if inner in inside:
                break
            inside.add(inner)
            inner = scope[:depth]
    return content


def _place(scope: Scope, node: Node, content: dict[Scope, set[Scope | int]], shorter: dict[Scope, Item]) -> Item:
    """Where a node is drawn: in its box, or instead of it if it is alone there and an operation."""
    if scope not in shorter:
        shorter[scope] = _shorter(scope, content)
    around, last = shorter[scope]
    if len(scope) > _models(scope) and node.kind == "op" and len(content[scope]) == 1:
        return around, last
    return (*around, last) if scope else (), _label(node)


def _shorter(scope: Scope, content: dict[Scope, set[Scope | int]]) -> Item:
    """The box with those that hold nothing but it taken into its name, and what lies around it."""
    components: list[str] = []
    joins = False
    for depth, component in enumerate(scope, 1):
        if joins:
            components[-1] += "." + component
        else:
            components.append(component)
        only = next(iter(content[scope[:depth]])) if len(content[scope[:depth]]) == 1 else None
        joins = depth > _models(scope) and isinstance(only, tuple) and not component.isdigit()
    return tuple(components[:-1]), components[-1] if components else ""


def _models(scope: Scope) -> int:
    """How deep the box of the model lies."""
    return 2 if scope[:1] == (GRADIENTS,) else 1


def _label(node: Node) -> str:
    """``logits`` for the output of that name; numbered ones keep what they are called."""
    named = node.name.removeprefix("output_")
    return named if node.kind == "output" and not named[:1].isdigit() else node.name
