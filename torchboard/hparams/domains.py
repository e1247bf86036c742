"""Hyperparameters and metrics as one declares them, and the values that they may take."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torchboard.errors import InvalidValueError
from torchboard.values.hparams import Plain, plain, type_of


@dataclass(frozen=True, init=False)
class Discrete:
    """A domain of listed values, all booleans, all numbers or all texts; kept sorted, and each once.

    Raises:
        InvalidValueError: there is no value, the kinds are mixed, or one is not a boolean, number or text.
    """

    values: tuple[Plain, ...]

    def __init__(self, values: Iterable[Plain]) -> None:
        if isinstance(values, str):
            raise InvalidValueError(f"Discrete({values!r})", "a domain is a list of values", f"give [{values!r}]")
        listed = [plain("Discrete", value) for value in values]
        if len({type_of(value) for value in listed}) != 1:
            raise InvalidValueError(
                f"Discrete({listed!r})", "its values are not of one kind", "give one value or more, all of one kind"
            )
        object.__setattr__(self, "values", tuple(sorted(set(listed))))  # type: ignore[type-var]

    @property
    def type(self) -> str:
        """``"bool"``, ``"number"`` or ``"string"``."""
        return type_of(self.values[0])

    def __contains__(self, value: Plain) -> bool:
        return type_of(value) == self.type and value in self.values

    def sample_uniform(self, rng: random.Random) -> Plain:
        """One of the values, each as likely."""
        return rng.choice(self.values)


@dataclass(frozen=True)
class IntInterval:
    """A domain of all whole numbers from ``min_value`` to ``max_value``, both included.

    Raises:
        InvalidValueError: an end is not a whole number, or they are in the wrong order.
    """

    min_value: int
    max_value: int

    type: ClassVar[str] = "number"

    def __post_init__(self) -> None:
        for name in ("min_value", "max_value"):
            end = plain(f"IntInterval.{name}", getattr(self, name))
            if not _is_whole(end):
                raise InvalidValueError(f"{name}={end!r}", "it is not a whole number", "give an int, or a RealInterval")
            object.__setattr__(self, name, end)
        _check_order(self.min_value, self.max_value)

    def __contains__(self, value: Plain) -> bool:
        return _is_whole(value) and self.min_value <= value <= self.max_value  # type: ignore[operator]

    def sample_uniform(self, rng: random.Random) -> int:
        """One of the numbers, each as likely."""
        return rng.randint(self.min_value, self.max_value)


@dataclass(frozen=True)
class RealInterval:
    """A domain of all numbers from ``min_value`` to ``max_value``, both included.

    Raises:
        InvalidValueError: an end is not a number, or they are in the wrong order.
    """

    min_value: float
    max_value: float

    type: ClassVar[str] = "number"

    def __post_init__(self) -> None:
        for name in ("min_value", "max_value"):
            end = plain(f"RealInterval.{name}", getattr(self, name))
            if type_of(end) != "number":
                raise InvalidValueError(f"{name}={end!r}", "it is not a number", "give a float")
            object.__setattr__(self, name, float(end))
        _check_order(self.min_value, self.max_value)

    def __contains__(self, value: Plain) -> bool:
        return type_of(value) == "number" and self.min_value <= value <= self.max_value  # type: ignore[operator]

    def sample_uniform(self, rng: random.Random) -> float:
        """A number between the ends, uniform on the line."""
        return rng.uniform(self.min_value, self.max_value)


Domain = Discrete | IntInterval | RealInterval
"""The values that a hyperparameter may take."""


@dataclass(frozen=True)
class HParam:
    """One hyperparameter.

    Args:
        name: what it is called; one name is one column.
        domain: the values it may take: a ``Discrete``, ``IntInterval`` or ``RealInterval``; None for any.
        display_name: shown in place of the name.
        description: Markdown shown with it.

    Raises:
        InvalidValueError: the name is not a text, or the domain is none of the three.
    """

    name: str
    domain: Domain | None = None
    display_name: str | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        plain(self.name, "")
        if self.domain is not None and not isinstance(self.domain, (Discrete, IntInterval, RealInterval)):
            raise InvalidValueError(
                f"domain {self.domain!r} of {self.name!r}", "it is not a domain", "give Discrete([…]), say"
            )


@dataclass(frozen=True)
class Metric:
    """One metric that the table of trials shows.

    Args:
        tag: the tag of its scalars.
        group: the directory, below a trial's own, that they are written to, such as ``"validation"``; None for the trial's.
        display_name: shown in place of group and tag.
        description: Markdown shown with it.
        dataset_type: ``Metric.TRAINING`` or ``Metric.VALIDATION``, a label.

    Raises:
        InvalidValueError: the tag is not a text, or the data are neither.
    """

    tag: str
    group: str | None = None
    display_name: str | None = None
    description: str | None = None
    dataset_type: str | None = None

    TRAINING: ClassVar[str] = "training"
    VALIDATION: ClassVar[str] = "validation"

    def __post_init__(self) -> None:
        if not isinstance(self.tag, str) or not self.tag:
            raise InvalidValueError(f"metric tag {self.tag!r}", "a tag is a text", "give the tag of a scalar")
        if self.dataset_type not in (None, self.TRAINING, self.VALIDATION):
            raise InvalidValueError(
                f"dataset_type={self.dataset_type!r} of metric {self.tag!r}",
                "metrics are of training or of validation data",
                "give Metric.TRAINING, Metric.VALIDATION or None",
            )


def listed(hparams: Iterable[HParam]) -> list[HParam]:
    """The hyperparameters as a list.

    Raises:
        InvalidValueError: one is no ``HParam``, or a name comes twice.
    """
    found = list(hparams)
    for hparam in found:
        if not isinstance(hparam, HParam):
            raise InvalidValueError(f"hyperparameter {hparam!r}", "it is not an HParam", "give HParam(name, domain)")
    names = [hparam.name for hparam in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidValueError(f"hyperparameter {twice[0]!r}", "it is given twice", "give each once")
    return found


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_order(low: float, high: float) -> None:
    if low > high:
        raise InvalidValueError(
            f"an interval from {low!r} to {high!r}", "it holds no number", "give the lower end first"
        )
