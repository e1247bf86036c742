"""The graph of a whole training step that the user's own code makes: forward passes, loss, backward pass, optimizers.

A ``StepRecorder`` puts hooks on the modules and waits. When a module is called with gradients on, a function mode and a
dispatch mode go on that thread, below all others that are on it, and stay until the step is said to be over; what happens
on that thread in between is written down by a ``StepTape``. Nothing else is changed, and every result is what it would
have been, bit for bit. The cost is about a hundred microseconds an operator, in that one step.

A pass that raises ends the recording, and the next step is recorded instead.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from torchboard.errors import InvalidValueError
from torchboard.graph import modes
from torchboard.graph.drafts import Function
from torchboard.graph.fused import FusedLayers
from torchboard.graph.hooks import GuardedHook, in_backward
from torchboard.graph.module_names import module_names, unwrapped
from torchboard.graph.nodes import Graph, Source
from torchboard.graph.step_tape import StepTape


class StepRecorder:
    """Records the graph of the model's next training step.

    Args:
        model: any module, wrapped or not, or one that holds several which are called by themselves.

    Attributes:
        graph: what was recorded; None until a step is over.
        error: what ended the recording before that; None as a rule.
    """

    def __init__(self, model: nn.Module) -> None:
        self.graph: Graph | None = None
        self.error: Exception | None = None
        self._model = model
        self._tape: StepTape | None = None
        self._modes: modes.Modes | None = None
        self._handles: list[RemovableHandle | FusedLayers] = []
        self._optimizer_handles: list[RemovableHandle] = []

    @property
    def waits(self) -> bool:
        """Whether the next step, or this one, is recorded."""
        return bool(self._handles)

    def attach(self) -> None:
        """Puts the hooks on; does nothing while they are on."""
        if self._handles:
            return
        root = unwrapped(self._model)
        if root._compiled_call_impl is not None:
            self.error = InvalidValueError(
                f"a {type(root).__name__} compiled in place",
                "its call takes the recorder's modes off when it ends",
                "compile it with torch.compile(model) to have the graph of a step",
            )
            return
        if self._model is not root:
            self._handles.append(self._model.register_forward_pre_hook(GuardedHook(self._starts, self._failed)))
        names = module_names(self._model)
        fused = FusedLayers(names)
        fused.put_on()
        self._handles.append(fused)
        for module, name in names.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            begins, ends = functools.partial(self._begins, name), functools.partial(self._ends, name)
            hook = GuardedHook(begins, self._failed)
            self._handles.append(module.register_forward_pre_hook(hook, prepend=bool(name), with_kwargs=True))
            self._handles.append(module.register_forward_hook(GuardedHook(ends, self._failed), always_call=True))
        if not self._optimizer_handles:
            before, after = (
                GuardedHook(self._optimizer_begins, self._failed),
                GuardedHook(self._optimizer_ends, self._failed),
            )
            self._optimizer_handles.append(register_optimizer_step_pre_hook(before))
            self._optimizer_handles.append(register_optimizer_step_post_hook(after))

    def detach(self) -> None:
        """Takes the hooks off the modules; a recording that runs is given up."""
        self._give_up()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def close(self) -> None:
        """Takes all hooks off. Not to be called within an optimizer's step, which goes through its hooks."""
        self.detach()
        for handle in self._optimizer_handles:
            handle.remove()
        self._optimizer_handles.clear()

    def end(self) -> None:
        """The step is over. Within an optimizer's hooks, where no modes are seen, they are left to our own hook."""
        tape, self._tape = self._tape, None
        if tape is not None:
            self.graph = self._guarded(tape.graph)
            self.detach()

    # hooks

    def _starts(self, module: nn.Module, args: Any) -> None:
        """The step begins, unless it has. Called outside of wrappers, as compiled ones put back what was on before them."""
        if self._tape is None and self.error is None and torch.is_grad_enabled() and not in_backward():
            self._leave()
            self._tape = StepTape(unwrapped(self._model), module_names(self._model))
            self._modes = modes.enter_under(self, self._tape.device_clock)

    def _begins(self, name: str, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        if in_backward() or self.error is not None or kwargs is None:  # a hook in front of this one has taken it off
            return
        if self._tape is not None and self._tape.depth and module is unwrapped(self._model):
            self._give_up()
        self._starts(module, args)
        if self._is_listening():
            if not self._tape.depth:
                self._tape.give(module, args, kwargs)
            self._tape.enter(module, name)

    def _ends(self, name: str, module: nn.Module, args: Any, result: Any) -> None:
        if not self._is_listening() or in_backward():
            return
        self._tape.leave(name)
        if not self._tape.depth and result is None and sys.exc_info()[1] is not None:
            self._give_up()

    def _optimizer_begins(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._tape is None:
            self._leave()
        elif self._is_listening():
            weights = (weight for group in optimizer.param_groups for weight in group["params"])
            self._tape.begin_optimizer(type(optimizer).__name__, next(weights, None))

    def _optimizer_ends(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._tape is None:
            self._leave()
        elif self._is_listening():
            self._tape.end_optimizer()

    # what the modes report

    def function_begins(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Function | None:
        return None if self._tape is None else self._guarded(self._tape.begin, function, args, kwargs)

    def function_ends(self, token: Function | None, result: Any) -> None:
        if token is not None and self._tape is not None:
            self._guarded(self._tape.end, token, result)

    def operator_begins(self, given: list[torch.Tensor]) -> tuple[Source, ...] | None:
        if self._tape is None or self._tape.is_full:
            return None
        return self._guarded(self._tape.sources, given)

    def operator_ends(self, token: tuple[Source, ...] | None, call: modes.OperatorCall) -> None:
        if token is not None and self._tape is not None:
            self._guarded(self._tape.ran, call, token)

    # how it is done

    def _is_listening(self) -> bool:
        return self._tape is not None and self._modes is not None and modes.is_on(self._modes)

    def _give_up(self) -> None:
        self._tape = None
        self._leave()

    def _leave(self) -> None:
        """Takes the modes off this thread; where they are not on it now, it is tried again later."""
        if self._modes is not None and modes.is_on(self._modes):
            modes.leave(self._modes)
            self._modes = None

    def _failed(self, error: Exception) -> None:
        """An error of ours: the recording is over, and the step goes on."""
        self.error, self._tape = error, None

    def _guarded(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except Exception as error:
            self._failed(error)
            return None
