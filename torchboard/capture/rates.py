"""Learning rates, as the steps of an epoch used them: at its end a scheduler may have set the next epoch's already."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from operator import methodcaller
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from torchboard.capture.metrics import check_metric
from torchboard.capture.modes import unseen

rate_of = methodcaller("get", "lr")
"""What a parameter group has for its learning rate."""


class LearningRates:
    """The rates that optimizers stepped with last.

    Attributes:
        used: the ``id`` of an optimizer -> the rates of its groups in its last step of this epoch.
        are_tensors: whether one of them was a tensor, which a scheduler writes to: of these ``note`` keeps a copy.
    """

    def __init__(self) -> None:
        self.used: dict[int, list[Any]] = {}
        self.are_tensors = False

    def note(self, optimizer: Optimizer) -> None:
        """It is stepping."""
        rates = [*map(rate_of, optimizer.param_groups)]
        if any(isinstance(rate, Tensor) for rate in rates):
            self.are_tensors = True
            with unseen():
                rates = [rate.detach().clone() if isinstance(rate, Tensor) else rate for rate in rates]
        self.used[id(optimizer)] = rates

    def take(self, optimizers: list[Optimizer], inner: Collection[Optimizer]) -> dict[str, float | Tensor]:
        """``learning_rates`` of the epoch that ends; of an optimizer that took no step in it those that it has.

        Those of ``inner`` ones, which step within others' steps, are left out where the others have any.
        """
        used, self.used = self.used, {}
        return learning_rates([one for one in optimizers if one not in inner], used) or learning_rates(optimizers, used)


def learning_rates(optimizers: list[Optimizer], used: Mapping[int, list[Any]]) -> dict[str, float | Tensor]:
    """Tag suffix -> learning rate, as ``check_metric`` gives it: one for each parameter group and optimizer that has one.

    A rate that is not one real number, such as the None of an optimizer that sets its own, is left out. Never raises.

    A lone group of a lone optimizer has an empty suffix. Several optimizers are told apart by class (and number, where
    the class repeats), several groups by their ``name`` or number.

    Args:
        optimizers: whose.
        used: the ``id`` of one -> the rates that its groups had, or the first of them, instead of those they have.
    """
    rates: dict[str, float | Tensor | None] = {}
    for optimizer in optimizers:
        groups, values = optimizer.param_groups, used.get(id(optimizer), [])
        values = values + [*map(rate_of, groups[len(values) :])]
        head = "" if len(optimizers) == 1 else f"_{type(optimizer).__name__}"
        for number, (group, value) in enumerate(zip(groups, values)):
            tail = "" if len(groups) == 1 else f"_{_name(group, number)}"
            suffix, repeat = head + tail, 1
            while suffix in rates:
                repeat += 1
                suffix = f"{head}_{repeat}{tail}"
            rates[suffix] = _rate(value)
    return {suffix: rate for suffix, rate in rates.items() if rate is not None}


def _rate(value: object) -> float | Tensor | None:
    try:
        return check_metric("learning_rate", value)
    except Exception:  # whatever a user has put there
        return None


def _name(group: dict, number: int) -> str:
    """What a parameter group is called in a tag: its number, where its name is no text that a file can hold."""
    try:
        name = f"{group.get('name', number)}"
        name.encode()
    except Exception:
        return f"{number}"
    return name
