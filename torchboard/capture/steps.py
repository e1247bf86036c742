"""When an optimizer steps: the boundary of a training step, seen without a call from the user."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from torchboard.capture.modes import unseen
from torchboard.errors import InvalidValueError
from torchboard.graph.hooks import in_backward


class StepWatcher:
    """Reports the steps of every optimizer that holds a parameter of the model.

    Optimizers are found when they step, or named. What this leaves installed is one hook before and one after every
    optimizer step of the process: microseconds. Steps taken inside a backward pass or a compiled function are not
    boundaries and are not reported.

    Args:
        model: whose parameters to look for.
        before: called just before an optimizer steps, with it, and with whether it was given a closure: a function that
            computes the gradients within the step.
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
        before: Callable[[Optimizer, bool], None],
        after: Callable[[Optimizer, bool], None],
        optimizer: Optimizer | None,
    ) -> None:
        if optimizer is not None:
            _check_optimizer(optimizer, model)
        self.optimizers: list[weakref.ref[Optimizer]] = [] if optimizer is None else [weakref.ref(optimizer)]
        self._model = weakref.ref(model)
        reference = weakref.WeakMethod(self._report)
        self._handles = [
            register_optimizer_step_pre_hook(_hook(reference, before)),
            register_optimizer_step_post_hook(_hook(reference, after)),
        ]

    def live_optimizers(self) -> list[Optimizer]:
        """The optimizers seen so far that still exist."""
        return [optimizer for reference in self.optimizers if (optimizer := reference()) is not None]

    def hold_all(self) -> bool:
        """Whether every trainable parameter of the model is held by an optimizer seen so far."""
        held = {id(parameter) for optimizer in self.live_optimizers() for parameter in _parameters_of(optimizer)}
        model = self._model()
        return model is None or all(id(weight) in held for weight in model.parameters() if weight.requires_grad)

    def close(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _report(self, optimizer: Optimizer, closure: bool, action: Callable[[Optimizer, bool], None]) -> None:
        if not in_backward() and self._handles and self._is_ours(optimizer):
            with unseen():
                action(optimizer, closure)

    def _is_ours(self, optimizer: Optimizer) -> bool:
        if any(reference() is optimizer for reference in self.optimizers):
            return True
        model = self._model()
        if model is None:
            return False
        if _holds_any(optimizer, model):
            self.optimizers.append(weakref.ref(optimizer))
            return True
        return False


def _parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _holds_any(optimizer: Optimizer, model: nn.Module) -> bool:
    parameters = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) in parameters for parameter in _parameters_of(optimizer))


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


def _hook(report: weakref.WeakMethod, action: Callable[[Optimizer, bool], None]):
    """An optimizer hook that holds the watcher weakly and returns None: a value would replace the step's arguments."""
    action = weakref.WeakMethod(action)

    def hook(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if torch.compiler.is_compiling():
            return
        watcher, target = report(), action()
        if watcher is not None and target is not None:
            closure = kwargs["closure"] if "closure" in kwargs else next(iter(args[1:]), None)
            watcher(optimizer, closure is not None, target)

    return hook


class WeightsVersion:
    """Tells whether somebody has changed the model's weights in place, from the version counter that autograd keeps."""

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)
        self._last = self._version()

    def changed(self) -> bool:
        """Whether the first trainable parameter was written to since the last call; reads one integer."""
        before, self._last = self._last, self._version()
        return self._last != before

    def _version(self) -> tuple[int, int]:
        model = self._model()
        weight = _first_trainable(model) if model is not None else None
        return (id(weight), weight._version) if weight is not None else (0, 0)


def _first_trainable(module: nn.Module) -> Tensor | None:
    """The first of ``module.parameters()`` that takes a gradient, several times as fast: it is looked up in every step."""
    for parameter in module._parameters.values():
        if parameter is not None and parameter.requires_grad:
            return parameter
    children = (child for child in module._modules.values() if child is not None)
    return next((found for child in children if (found := _first_trainable(child)) is not None), None)


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
