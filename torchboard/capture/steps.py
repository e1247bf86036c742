"""When an optimizer steps: the boundary of a training step, seen without a call from the user."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import MethodType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from torchboard.capture.modes import any_on, unseen
from torchboard.errors import InvalidValueError
from torchboard.graph.hooks import graph_task


class StepWatcher:
    """Reports the steps of every optimizer that holds a parameter of the model.

    Optimizers are found when they step, or named. What this leaves installed is one hook before and one after every
    optimizer step of the process: microseconds. An optimizer that held nothing of the model when it was looked at is looked
    at again after ``look_again``, and when it was given another group of parameters. Steps taken inside a backward pass or a
    compiled function are not boundaries and are not reported.

    Args:
        model: whose parameters to look for.
        before: a bound method, whose object is held weakly; called just before an optimizer steps, with it, and with
            whether it was given a closure: a function that computes the gradients within the step.
        after: called likewise when it has stepped.
        optimizer: one that is known before it has stepped.

    Raises:
        InvalidValueError: ``optimizer`` holds no parameter of the model.

    Attributes:
        optimizers: those seen so far, in the order seen.
    """

    def __init__(
        self,
        model: nn.Module,
        before: MethodType,
        after: MethodType,
        optimizer: Optimizer | None,
    ) -> None:
        if optimizer is not None:
            _check_optimizer(optimizer, model)
        self.optimizers: list[weakref.ref[Optimizer]] = [] if optimizer is None else [weakref.ref(optimizer)]
        self._others: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()  # how many groups it had
        self._model = weakref.ref(model)
        self._handles = [
            register_optimizer_step_pre_hook(_hook(weakref.ref(self), before)),
            register_optimizer_step_post_hook(_hook(weakref.ref(self), after)),
        ]

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

    def hears(self, optimizer: Optimizer) -> bool:
        """Whether a step that this optimizer takes now is a boundary."""
        if not self._handles or graph_task() != -1:
            return False
        for reference in self.optimizers:
            if reference() is optimizer:
                return True
        return self._others.get(optimizer) != len(optimizer.param_groups) and self._is_found(optimizer)

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


def parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    """The parameters that an optimizer holds."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _holds_any(optimizer: Optimizer, model: nn.Module) -> bool:
    parameters = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) in parameters for parameter in parameters_of(optimizer))


def _check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
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


def _hook(reference: weakref.ref[StepWatcher], action: MethodType) -> Callable[[Optimizer, tuple, dict], None]:
    """An optimizer hook that holds the watcher weakly and returns None: a value would replace the step's arguments.

    It runs in every step, with caches that the step has filled, so that each function on the way counts.
    """
    owner, function = weakref.ref(action.__self__), action.__func__

    def hook(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if torch.compiler.is_compiling():
            return
        watcher, target = reference(), owner()
        if watcher is None or target is None or not watcher.hears(optimizer):
            return
        closure = kwargs["closure"] if "closure" in kwargs else args[1] if len(args) > 1 else None
        if any_on():
            with unseen():
                function(target, optimizer, closure is not None)
        else:
            function(target, optimizer, closure is not None)

    return hook


class WeightsVersion:
    """Tells of steps that nobody reports, by the version counters that autograd keeps of weights that are written to.

    The counter of one weight is looked at, the first trainable one: a microsecond. Those of all are, 0.1 us each, where no steps
    are reported, or in captured ones alone, as of a compiled optimizer: it may hold other weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._owner: weakref.ref[nn.Module] | None = None
        self._key = ""
        self._version = (0, 0)
        self._all: list[weakref.ref[Tensor]] = []
        self._total: int | None = None
        self.report(captured=True)
        self.changed()

    def look_again(self) -> None:
        """Another weight may be the first one by now."""
        self._owner = None

    def report(self, captured: bool) -> None:
        """A step has ended, a captured one or not; what is written until ``changed`` is asked belongs to it."""
        self._reported, self._captured = True, captured

    def changed(self) -> bool:
        """Whether weights were written to since the last call, and no step was reported since."""
        reported, self._reported = self._reported, False
        owner = self._owner() if self._owner is not None else None
        weight = owner._parameters[self._key] if owner is not None and self._key in owner._parameters else None
        if weight is None or not weight.requires_grad:
            weight = self._look()
        before, self._version = self._version, (0, 0) if weight is None else (id(weight), weight._version)
        written = self._version != before
        if self._captured if reported else self._total is not None:
            known, total = self._all, self._total
            self._total = self._sum()
            written = written or known is self._all and self._total != total
        else:
            self._total = None
        return written and not reported

    def _sum(self) -> int:
        weights = [reference() for reference in self._all]
        model = self._model()
        if model is not None and (not weights or any(weight is None for weight in weights)):
            weights = [weight for weight in model.parameters() if _is_counted(weight)]
            self._all = [weakref.ref(weight) for weight in weights]
        return sum(weight._version for weight in weights if weight is not None)

    def _look(self) -> Tensor | None:
        """The first trainable parameter; its place is kept."""
        model = self._model()
        for module in model.modules() if model is not None else ():
            for key, weight in module._parameters.items():
                if weight is not None and _is_counted(weight):
                    self._owner, self._key = weakref.ref(module), key
                    return weight
        return None


def _is_counted(weight: Tensor) -> bool:
    """Whether it is trainable and what is written to it is counted, which is not so of one made in ``inference_mode``."""
    try:
        return weight.requires_grad and weight._version >= 0
    except RuntimeError:
        return False


def learning_rates(optimizers: list[Optimizer]) -> dict[str, object]:
    """Tag suffix -> learning rate, as a number or a tensor: one for each parameter group and optimizer.

    A lone group of a lone optimizer has an empty suffix. Several optimizers are told apart by class (and number, where
    the class repeats), several groups by their ``name`` or number.
    """
    rates: dict[str, object] = {}
    for optimizer in optimizers:
        head = "" if len(optimizers) == 1 else f"_{type(optimizer).__name__}"
        for number, group in enumerate(optimizer.param_groups):
            tail = "" if len(optimizer.param_groups) == 1 else f"_{group.get('name', number)}"
            suffix, repeat = head + tail, 1
            while suffix in rates:
                repeat += 1
                suffix = f"{head}_{repeat}{tail}"
            if "lr" in group:
                rates[suffix] = group["lr"]
    return rates
