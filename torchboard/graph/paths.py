"""Names for the Graphs dashboard: one path for each item, nested by scope and safe to draw.

TensorBoard nests boxes by the ``/`` in a name. So a path must be unique, must not be another's box, and must not hold a
``:``, which would be read as an output number. A box with many things in it takes long to lay out (a straight chain of
1000 takes five seconds, one of 2500 overflows the browser's stack) and is hard to read, so a full one is divided into
numbered parts, in order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from torchboard.graph.nodes import Scope

MAX_SIBLINGS = 200
"""How many things may lie in one box."""

_PART = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]")


@dataclass
class _Box:
    """A scope: what lies in it, in order of first appearance. An item is its position, a scope is a box."""

    name: str
    boxes: dict[str, _Box] = field(default_factory=dict)
    children: list[_Box | int] = field(default_factory=list)


def paths(items: Sequence[tuple[Scope, str]]) -> list[str]:
    """The path of every ``(scope, name)``, in order: unique, no path inside another, at most 200 siblings anywhere.

    A scope keeps its name; of several items with one name in a scope the later ones get ``_1``, ``_2``…, and so does an
    item that has the name of a scope beside it.
    """
    outermost = _Box("")
    for position, (scope, _) in enumerate(items):
        box = outermost
        for component in scope:
            if component not in box.boxes:
                box.boxes[component] = _Box(component)
                box.children.append(box.boxes[component])
            box = box.boxes[component]
        box.children.append(position)
    found = [""] * len(items)
    waiting = [("", outermost)]
    while waiting:
        prefix, box = waiting.pop()
        names = _names(box, items)
        for index, (child, name) in enumerate(zip(box.children, names)):
            path = prefix + _part(index, len(names)) + name
            if isinstance(child, _Box):
                waiting.append((path + "/", child))
            else:
                found[child] = path
    return found


def safe(name: str) -> str:
    """``name`` with every character that a path cannot hold replaced by ``_``."""
    return _UNSAFE.sub("_", name) or "_"


def _names(box: _Box, items: Sequence[tuple[Scope, str]]) -> list[str]:
    """A name of its own for every child of a box; boxes choose first."""
    names = [""] * len(box.children)
    counts: dict[str, int] = {}
    by_kind = sorted(enumerate(box.children), key=lambda pair: isinstance(pair[1], int))
    for index, child in by_kind:
        wanted = safe(items[child][1] if isinstance(child, int) else child.name)
        names[index] = _free(wanted, counts)
    return names


def _free(wanted: str, counts: dict[str, int]) -> str:
    """``wanted``, or ``wanted_k`` for the first k that is free."""
    name = wanted
    while name in counts:
        name = f"{wanted}_{counts[wanted]}"
        counts[wanted] += 1
    counts[name] = 1
    return name


def _part(index: int, total: int) -> str:
    """The part of a divided box that its ``index``-th child lies in."""
    return f"part_{index // _PART}/" if total > MAX_SIBLINGS else ""
