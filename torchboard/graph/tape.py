"""Writes a forward pass down while it runs: told what begins, runs and ends, gives the ``Graph``.

Operators are grouped under the torch function that the user called: ``linear`` is one node whatever it comes down to.
An operator outside any function (in an autograd function, in TorchScript) is a node of its own. The tape looks at
tensors only for their identity, place in memory, shape, type and device; it launches nothing and keeps none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from torchboard.graph.device_clock import DeviceClock
from torchboard.graph.drafts import Draft, Function, Running
from torchboard.graph.flops import flops_of
from torchboard.graph.modes import OperatorCall
from torchboard.graph.module_names import class_name
from torchboard.graph.nodes import Cost, Graph, Kind, ModuleCall, Scope, Source
from torchboard.graph.producers import Producers, view_of
from torchboard.graph.tensors import (
    call_arguments,
    function_name,
    named_arguments,
    named_tensors,
    plain_arguments,
    schema_of,
    spec_of,
    tensors_in,
    written_arguments,
)

MAX_NODES = 200_000
"""How many nodes are written down; what runs after them is not."""

_TRANSPARENT = frozenset({"aten::detach", "aten::alias", "aten::lift_fresh", "aten::view"})
"""Unless the user asks for one, these only make another tensor object for the same view: autograd does that often."""
_CAST = "aten::_to_copy"
_INDEXING = ("getitem", "setitem")
_RESHAPING = frozenset(
    {"aten::view", "aten::_unsafe_view", "aten::reshape", "aten::expand", "aten::t", "aten::transpose", "aten::permute"}
    | {"aten::unsqueeze", "aten::squeeze", "aten::slice", "aten::select", "aten::clone", "aten::empty", _CAST}
)
"""What functions do around their work; their arguments are not what the function was called with."""


class Tape:
    """The record of one pass.

    Args:
        root: the model, without wrappers.
        names: the dotted names of its modules.

    Attributes:
        device_clock: times the operators of this pass that run on devices.
    """

    def __init__(self, root: nn.Module, names: dict[nn.Module, str]) -> None:
        self.device_clock = DeviceClock()
        self._name = class_name(root)
        self._module_names = frozenset(names.values())
        self._drafts: list[Draft] = []
        self._producers = Producers()
        self._running: list[Running] = []
        self._function: Function | None = None
        self._calls: list[ModuleCall] = []
        self._scopes: dict[Scope, int] = {}
        self._homes: dict[str, Scope] = {}
        self._seconds = 0.0
        for module, name in names.items():
            self._own(module, name, self._producers.knows)

    # modules

    @property
    def depth(self) -> int:
        """How many modules are running."""
        return len(self._running)

    def enter(self, module: nn.Module, name: str) -> None:
        """A call of the module begins; parameters that were put in for this call are taken as its own."""
        scope = self._call_scope(name)
        self._homes.setdefault(name, scope)
        self._calls.append(ModuleCall(scope, name, class_name(module)))
        self._running.append(Running(name, scope, self._function))
        self._function = None
        self._own(module, name, lambda tensor: self._producers.knows(tensor) or self._producers.of(tensor))

    def leave(self, name: str) -> None:
        """A call of the module ends, and with it every call inside it that never said so."""
        for position in range(len(self._running) - 1, -1, -1):
            if self._running[position].module == name:
                self._function = self._running[position].interrupted
                if self._function is not None:
                    self._function.draft = None  # what follows reads what ran in between
                del self._running[position:]
                return

    def give(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The model's inputs; a tensor that is given twice is one, by its first name."""
        for name, tensor in named_arguments(module, args, kwargs):
            if not self._producers.knows(tensor):
                self._leaf("input", name, tensor)

    def take(self, result: Any) -> None:
        """The model's outputs."""
        for name, tensor in named_tensors(result, "output"):
            sources = self.sources((tensor,))
            draft = self._add("output", name)
            draft.outputs = (spec_of(tensor),)
            draft.read(sources)

    # functions and operators

    def begin(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Function | None:
        """A torch function begins; None if another one is already running."""
        if self._function is not None:
            return None
        self._function = Function(function_name(function), call_arguments(function, args, kwargs))
        return self._function

    def end(self, function: Function, result: Any) -> None:
        """The function is over; what it returned comes from its node, if it has one."""
        self._function = None
        tensors = tensors_in(result)
        if function.draft is not None and tensors:
            function.draft.outputs = tuple(map(spec_of, tensors))
            for index, tensor in enumerate(tensors):
                source = Source(function.draft.id, index)
                if not self._producers.knows(tensor, source):
                    self._producers.made(tensor, source)

    def sources(self, given: Iterable[torch.Tensor]) -> tuple[Source, ...]:
        """What the tensors come from, each source once. To be asked before the operator runs."""
        found: dict[Source, None] = {}
        for tensor in given:
            known = self._producers.of(tensor)
            found.update(dict.fromkeys(known or (self._leaf("constant", "constant", tensor, *self._here()),)))
        return tuple(found)

    def ran(self, call: OperatorCall, sources: tuple[Source, ...]) -> None:
        """An operator ran on tensors that came from ``sources``."""
        schema, made = schema_of(call.operator), tensors_in(call.result)
        name = schema.name
        if name.startswith("profiler::") or self.is_full:
            return
        if self._only_renames(name, call, sources):
            if name == _CAST and self._function is not None:
                self._draft_of(name).spent(self._cost(call, made))
            for tensor in made if len(sources) == 1 else ():
                self._producers.made(tensor, sources[0])
            return
        cost = self._cost(call, made)
        draft = self._draft_of(name)
        draft.read(self._seen_through(made, call) if schema.gives_views else sources)
        draft.came_to(name)
        draft.spent(cost)
        if not draft.attributes and (name not in _RESHAPING or name == f"aten::{draft.name}"):
            draft.attributes = plain_arguments(call.operator, call.args, call.kwargs)
        draft.outputs = tuple(map(spec_of, made)) or draft.outputs
        for tensor in written_arguments(call.operator, call.args, call.kwargs) if schema.writes else ():
            self._producers.wrote(tensor, Source(draft.id, 0))
        for index, tensor in enumerate(made):
            self._producers.made(tensor, Source(draft.id, index if self._function is None else 0))

    # the result

    def graph(self) -> Graph:
        """All of it: what is read stands before what reads it, parameters just before their first reader."""
        order: dict[int, int] = {draft.id: 0 for draft in self._drafts if draft.kind == "input"}
        read = {source.node for draft in self._drafts for source in draft.inputs}
        for draft in self._drafts:
            if draft.kind in ("op", "output") and (draft.id in read or not _is_nothing(draft)):
                order.update((source.node, 0) for source in draft.inputs if source.node not in order)
                order[draft.id] = 0
        order = {old: new for new, old in enumerate(order)}
        nodes = tuple(draft.finished(order, self._scope_of(draft)) for draft in (self._drafts[old] for old in order))
        notes = f"only the first {MAX_NODES:,} nodes were recorded" if self.is_full else "", self.device_clock.note
        return Graph(self._name, nodes, tuple(self._calls), "; ".join(filter(None, notes)))

    @property
    def is_full(self) -> bool:
        """Whether operators that run from now on are left out."""
        return len(self._drafts) >= MAX_NODES

    # how it is done

    def _add(self, kind: Kind, name: str, scope: Scope = (), module: str | None = None) -> Draft:
        draft = Draft(len(self._drafts), kind, name, scope, module)
        self._drafts.append(draft)
        return draft

    def _leaf(
        self, kind: Kind, name: str, tensor: torch.Tensor, scope: Scope = (), module: str | None = None
    ) -> Source:
        """A node that nothing feeds, for a tensor that was there before."""
        draft = self._add(kind, name, scope, module)
        draft.outputs = (spec_of(tensor),)
        source = Source(draft.id, 0)
        self._producers.made(tensor, source)
        return source

    def _own(self, module: nn.Module, name: str, known: Callable[[torch.Tensor], object]) -> None:
        """Takes the module's parameters and buffers as sources, unless they are known already or were computed."""
        kinds: tuple[tuple[Kind, Mapping[str, torch.Tensor | None]], ...]
        kinds = (("parameter", module._parameters), ("buffer", module._buffers))
        for kind, tensors in kinds:
            for key, tensor in tensors.items():
                if tensor is not None and not known(tensor):
                    self._leaf(kind, key, tensor, module=name)

    def _cost(self, call: OperatorCall, made: list[torch.Tensor]) -> Cost:
        """What an operator cost; to be asked before the tensors that it made are known."""
        on_host = all([tensor.is_cpu for tensor in made]) and all([tensor.is_cpu for tensor in call.given])
        seconds, start = call.seconds if on_host else 0.0, self._seconds
        self._seconds += seconds
        spans = () if call.span is None else (call.span,)
        return Cost(flops_of(call), self._producers.allocated(made), seconds, start, spans)

    def _draft_of(self, operator: str) -> Draft:
        """The node that an operator running now belongs to."""
        function = self._function
        if function is None:
            return self._add("op", operator.rpartition("::")[2], *self._here())
        if function.draft is None:
            function.draft = self._add("op", function.name, *self._here())
            function.draft.attributes = function.attributes
        return function.draft

    def _seen_through(self, views: list[torch.Tensor], call: OperatorCall) -> Iterable[Source]:
        """What the views that an operator made look at: a slice of a buffer reads what was written there alone."""
        return dict.fromkeys(source for view in views for source in self._producers.of(call.given[0], through=view))

    def _only_renames(self, name: str, call: OperatorCall, sources: tuple[Source, ...]) -> bool:
        """Whether the result counts as what went in: another tensor object, or a parameter that autocast converts."""
        function = self._function
        if name == "aten::slice" and function is not None and function.name in _INDEXING:
            if view_of(call.given[0]) is None:
                return False  # else it is the ``:`` of ``x[:, 0]``
        elif len(sources) != 1:
            return False
        elif function is not None and name == _CAST:
            return self._drafts[sources[0].node].kind == "parameter" and function.name not in ("to", "type")
        elif name not in _TRANSPARENT or (function is not None and function.name != "view_as"):
            return False
        return [view_of(tensor) for tensor in tensors_in(call.result)] == [view_of(call.given[0])]

    def _scope_of(self, draft: Draft) -> Scope:
        """The boxes around a node: around a parameter or buffer, those of the module that owns it."""
        return self._home(draft.module or "") if draft.kind in ("parameter", "buffer") else draft.scope

    def _here(self) -> tuple[Scope, str | None]:
        """Scope and module of what runs now."""
        return (self._running[-1].scope, self._running[-1].module) if self._running else ((), None)

    def _call_scope(self, name: str) -> Scope:
        """A scope of its own for a call of the module that begins now."""
        parts = tuple(name.split(".")) if name else ()
        if self._running:
            caller = self._running[-1]
            inside = not caller.module or name.startswith(caller.module + ".")
            below = parts[len(caller.module.split(".")) if caller.module else 0 :] if inside else parts
            scope = caller.scope + (below or parts[-1:] or (self._name,))
        else:
            scope = (self._name, *parts)
        return self._fresh(scope, name)

    def _fresh(self, scope: Scope, name: str) -> Scope:
        """``scope`` itself the first time, then ``scope_1``, ``scope_2``…, but never the name of another module."""
        count = self._scopes.get(scope, 0)
        self._scopes[scope] = count + 1
        if count == 0:
            return scope
        candidate = (*scope[:-1], f"{scope[-1]}_{count}")
        if candidate in self._scopes or f"{name}_{count}" in self._module_names:
            return self._fresh(scope, name)
        self._scopes[candidate] = 1
        return candidate

    def _home(self, name: str) -> Scope:
        """The scope of the module's first call; if it was never called, its place in the scope of the one around it."""
        if name in self._homes:
            return self._homes[name]
        outer, _, last = name.rpartition(".")
        return (*self._home(outer), last) if name else (self._name,)


def _is_nothing(draft: Draft) -> bool:
    """Whether an op read nothing and gave tensors without elements; checkpointing makes such tensors."""
    return (
        draft.kind == "op"
        and not draft.inputs
        and bool(draft.outputs)
        and all(spec.shape is not None and 0 in spec.shape for spec in draft.outputs)
    )
