"""Writes a whole training step down: forward passes, what the user computes between them, backward pass and optimizers.

Forward passes are written as by a ``Tape``. In the backward pass the operators of one autograd node are one node, in the
box ``gradients`` and in it in the boxes of the operation whose gradient it computes: autograd numbers its nodes in the
order of the forward pass, and the tape notes the number at every operator. A step of an optimizer is one node that reads
gradients and parameters.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from torchboard.graph.drafts import Draft, Function
from torchboard.graph.hooks import graph_task, in_backward
from torchboard.graph.modes import OperatorCall
from torchboard.graph.nodes import GRADIENTS, Scope, Source
from torchboard.graph.tape import Tape
from torchboard.graph.tensors import schema_of, spec_of, tensors_in, written_arguments

_MAX_OUTPUTS = 64
_RENAMES = frozenset({"aten::detach", "aten::alias", "aten::view"})


class StepTape(Tape):
    """The record of one training step.

    Args:
        root: the model, without wrappers.
        names: the dotted names of its modules.
    """

    def __init__(self, root: nn.Module, names: dict[nn.Module, str]) -> None:
        super().__init__(root, names)
        self._optimizer: Draft | None = None
        self._optimizer_task = -1
        self._numbers: list[int] = []
        self._places: list[tuple[Scope, str | None]] = []
        self._gradients: dict[tuple[int, object], Draft] = {}
        self._last: tuple[Scope, str | None] = ((), None)

    def begin_optimizer(self, name: str, weight: torch.Tensor | None) -> None:
        """An optimizer begins its step; ``weight`` is one that it holds."""
        self._optimizer = self._add("op", name)
        self._optimizer.outputs = () if weight is None else (spec_of(weight),)
        self._optimizer_task = graph_task()

    def end_optimizer(self) -> None:
        """The optimizer has stepped."""
        self._optimizer = None

    def begin(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Function | None:
        return None if self._is_later() else super().begin(function, args, kwargs)

    def sources(self, given: Iterable[torch.Tensor]) -> tuple[Source, ...]:
        """In the backward pass and in an optimizer, tensors that nothing recorded has made are left out."""
        if self._is_later():
            return tuple(dict.fromkeys(found for tensor in given for found in self._producers.of(tensor)))
        number = torch._C._autograd._get_sequence_nr()
        if not self._numbers or number > self._numbers[-1]:
            self._numbers.append(number)
            self._places.append(self._here())
        return super().sources(given)

    def ran(self, call: OperatorCall, sources: tuple[Source, ...]) -> None:
        if not self._is_later():
            super().ran(call, sources)
            return
        schema, made = schema_of(call.operator), tensors_in(call.result)
        name = schema.name
        if name.startswith("profiler::") or self.is_full:
            return
        if name in _RENAMES:
            for tensor in made if len(sources) == 1 else ():
                self._producers.made(tensor, sources[0])
            return
        cost = self._cost(call, made)
        draft = self._optimizer
        if draft is None or graph_task() != self._optimizer_task:
            draft = self._gradient(name)
        draft.read(sources)
        draft.came_to(name)
        draft.spent(cost)
        first = len(draft.outputs)
        if draft is not self._optimizer and first < _MAX_OUTPUTS:
            draft.outputs += tuple(map(spec_of, made))
        for tensor in written_arguments(call.operator, call.args, call.kwargs) if schema.writes else ():
            self._producers.wrote(tensor, Source(draft.id, 0))
        for index, tensor in enumerate(made, first):
            self._producers.made(tensor, Source(draft.id, index if index < len(draft.outputs) else 0))

    def _is_later(self) -> bool:
        """Whether this is no forward pass. One may run within an optimizer's step: in its closure."""
        return in_backward() or (self._optimizer is not None and not self.depth)

    def _gradient(self, operator: str) -> Draft:
        """The node of what autograd computes now; what the engine itself does, such as adding gradients, is one by itself."""
        node = torch._C._current_autograd_node()
        if node is None:
            return self._add("op", operator.rpartition("::")[2], (GRADIENTS, *self._last[0]), self._last[1])
        weight = getattr(node, "variable", None)
        key = (graph_task(), node._sequence_nr() if weight is None else id(weight))
        draft = self._gradients.get(key)
        if draft is None:
            self._last = self._place(node, weight)
            draft = self._add("op", node.name().rpartition("::")[2], (GRADIENTS, *self._last[0]), self._last[1])
            self._gradients[key] = draft
        return draft

    def _place(self, node: Any, weight: torch.Tensor | None) -> tuple[Scope, str | None]:
        """Scope and module of the operation whose gradient a node computes: the first with a greater number.

        Autograd numbers a node before its operation reaches the dispatcher. Of what was not recorded, as in recomputed
        passes, the gradients lie where those before them do.
        """
        if weight is not None:
            known = [self._drafts[source.node] for source in self._producers.of(weight)]
            owner = next((draft for draft in known if draft.kind == "parameter"), None)
            return self._last if owner is None else (self._scope_of(owner), owner.module)
        position = bisect.bisect_right(self._numbers, node._sequence_nr())
        return self._places[position] if position < len(self._places) else self._last
