"""When an optimizer steps: the boundary of a training step, seen without a call from the user."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from torchboard.capture.modes import unseen
from torchboard.errors import InvalidValueError
from torchboard.graph.hooks import graph_task


class StepWatcher:
    """Reports the steps of every optimizer that holds a parameter of the model.

    Optimizers are found when they step, or named. What this leaves installed is one hook before and one after every
    optimizer step of the process: microseconds, and fewer where steps are only counted. An optimizer that held nothing of the
    model when it was looked at is looked at again after ``look_again``, and when it was given another group of parameters.
    Steps taken inside a backward pass or a compiled function are not boundaries and are not reported.

    Args:
        model: whose parameters to look for.
        before: a bound method, whose object is held weakly; called just before an optimizer steps, with it, and with
            whether it was given a closure: a function that computes the gradients within the step.
        after: another one of that object, called likewise when it has stepped.
        counted: another one, called with the optimizer alone instead of these two while steps are only counted.
        optimizer: one that is known before it has stepped, as ``check_optimizer`` wants it.

    Attributes:
        optimizers: those seen so far, in the order seen.
        resting: the one whose steps are only counted now, if one's are.
    """

    def __init__(
        self,
        model: nn.Module,
        before: MethodType,
        after: MethodType,
        counted: MethodType,
        *,
        optimizer: Optimizer | None,
    ) -> None:
        self.optimizers: list[weakref.ref[Optimizer]] = [] if optimizer is None else [weakref.ref(optimizer)]
        self._others: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()  # how many groups it had
        self._model = weakref.ref(model)
        self.resting: weakref.ref[Optimizer] | None = None
        self._is_inside = False
        self._owner, self._before, self._after = weakref.ref(before.__self__), before.__func__, after.__func__
        hooks = _hooks(weakref.ref(self), self._owner, counted.__func__)
        self._handles = [register_optimizer_step_pre_hook(hooks[0]), register_optimizer_step_post_hook(hooks[1])]

    def rest(self) -> weakref.ref[Optimizer] | None:
        """While there is but one optimizer, its steps are only counted from now on, until another one steps or it does within
        itself, or until ``resting`` is None; gives it."""
        self.resting = self.optimizers[0] if len(self.optimizers) == 1 else None
        self._is_inside = False
        return self.resting

    def look_again(self) -> None:
        """Optimizers that held nothing of the model may hold something by now."""
        self._others.clear()

    def live_optimizers(self) -> list[Optimizer]:
        """The optimizers seen so far that still exist."""
        return [optimizer for reference in self.optimizers if (optimizer := reference()) is not None]

    def hold_all(self) -> bool:
        """Whether every trainable parameter of the model is held by an optimizer seen so far."""
        held = {id(parameter) for optimizer in self.live_optimizers() for parameter in parameters_of(optimizer)}
        model = self._model()
        return model is None or all(id(weight) in held for weight in model.parameters() if weight.requires_grad)

    def close(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.resting = None

    def hears(self, optimizer: Optimizer) -> bool:
        """Whether a step that this optimizer takes now is a boundary."""
        if not self._handles or graph_task() != -1:
            return False
        for reference in self.optimizers:
            if reference() is optimizer:
                return True
        return self._others.get(optimizer) != len(optimizer.param_groups) and self._is_found(optimizer)

    def _report(self, action: Callable[..., None], optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        """Calls ``before`` or ``after`` if this step is a boundary; steps are not only counted then."""
        target = self._owner()
        if target is None or torch.compiler.is_compiling() or not self.hears(optimizer):
            return
        self.resting = None
        closure = kwargs["closure"] if "closure" in kwargs else args[1] if len(args) > 1 else None
        with unseen():
            action(target, optimizer, closure is not None)

    def _is_found(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer that was not known before holds a parameter of the model."""
        model = self._model()
        if model is None:
            return False
        if not _holds_any(optimizer, model):
            self._others[optimizer] = len(optimizer.param_groups)
            return False
        self.optimizers = [weakref.ref(known) for known in (*self.live_optimizers(), optimizer)]
        return True


def _hooks(
    reference: weakref.ref[StepWatcher], owner: weakref.ref[object], counted: Callable[[Any, Optimizer], None]
) -> tuple[Callable[[Optimizer, tuple, dict], None], Callable[[Optimizer, tuple, dict], None]]:
    """What is called before and after a step; holds the watcher weakly. None is returned: a value would replace the arguments.

    They run in every step, with caches that the step has filled, where a function that is called takes as long as a dozen in a
    loop. So what is only counted calls as few as can be.
    """

    def before(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if is_dynamo_compiling():
            return
        watcher = reference()
        if watcher is None:
            return
        resting = watcher.resting
        if resting is not None and resting() is optimizer and not watcher._is_inside:
            watcher._is_inside = True
        else:
            watcher._report(watcher._before, optimizer, args, kwargs)

    def after(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if is_dynamo_compiling():
            return
        watcher, target = reference(), owner()
        if watcher is None or target is None:
            return
        resting = watcher.resting
        if resting is not None and resting() is optimizer and watcher._is_inside and graph_task() == -1:
            watcher._is_inside = False
            counted(target, optimizer)
        else:
            watcher._report(watcher._after, optimizer, args, kwargs)

    return before, after


def parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    """The parameters that an optimizer holds."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _holds_any(optimizer: Optimizer, model: nn.Module) -> bool:
    parameters = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) in parameters for parameter in parameters_of(optimizer))


def check_optimizer(optimizer: object, model: nn.Module) -> None:
    """Refuses what is no optimizer of the model.

    Raises:
        InvalidValueError: it is no optimizer, or holds no parameter of the model.
    """
    if not isinstance(optimizer, Optimizer):
        raise InvalidValueError(
            f"optimizer of type {type(optimizer).__name__}",
            "it is no torch.optim.Optimizer",
            "give one, or leave it out",
        )
    if not _holds_any(optimizer, model):
        raise InvalidValueError(
            f"an optimizer {type(optimizer).__name__}",
            f"it holds none of the parameters of {type(model).__name__}",
            "make it of model.parameters(), after whatever replaces them, or leave it out: it is found when it steps",
        )
