"""What to capture, and how often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from torchboard.errors import InvalidValueError
from torchboard.schedule import Schedule, as_schedule, every

Selector = str | type | Callable[[str, nn.Module], bool]
"""A glob over module names (``"layer1.*"``), a module type, or a function of a module's name and the module."""


@dataclass(frozen=True, kw_only=True)
class Capture:
    """What a monitor captures of a model.

    Attributes:
        activations: the outputs of the layers.
        gradients: the gradients of the parameters, and of the layers' outputs.
        parameters: the parameters, as they are at the end of an epoch.
        updates: by how much an optimizer step changes each parameter. Holds a copy of the parameters during that step.
        every: how many steps lie between captured ones, or a schedule; the first step of each epoch is always captured.
        include: layers to capture: a glob, a type, a predicate or several of them; None for all.
        exclude: layers to leave out, in the same forms; wins over ``include``.
        max_layers: at most this many layers, the first ones in the model's order; None for no bound.
        compiled: what a captured step does with code under ``torch.compile``. ``"eager"`` runs that step eagerly, all
            compiled code of the process in it, and sees what an eager model shows: the step takes the time and the memory
            that it takes uncompiled, its last digits may differ from the compiled ones', and dropout draws what it draws
            uncompiled. Nothing is compiled again, and what was compiled stays as it is. ``"skip"`` costs nothing and leaves
            such code alone: of a compiled layer there are parameters, their gradients and their updates, and of a compiled
            model no graph and no feature maps; compile before the monitor is made, or the first call is compiled twice.
        max_overhead: the share of the training's time that captured steps may take of the host, such as 0.01: where they
            take more, captured steps move apart, to twice the distance, four times and so on, and back. An epoch's first
            step is captured all the same. ``monitor/overhead`` then says each epoch what share hooks and collecting took;
            time on a device is not in it, nor is writing, which is another thread's. None for no bound and no figure.

    Raises:
        InvalidValueError: a field has another type or value than these.
    """

    activations: bool = True
    gradients: bool = True
    parameters: bool = True
    updates: bool = True
    every: int | Schedule = 10
    include: Selector | Sequence[Selector] | None = None
    exclude: Selector | Sequence[Selector] | None = None
    max_layers: int | None = None
    compiled: str = "eager"
    max_overhead: float | None = None

    def __post_init__(self) -> None:
        as_schedule(self.every)
        for selector in (*selectors(self.include), *selectors(self.exclude)):
            if not isinstance(selector, (str, type)) and not callable(selector):
                raise InvalidValueError(
                    f"layer selector {selector!r}",
                    "layers are told by a glob, a type or a function of (name, module)",
                    "give 'layer1.*', nn.Conv2d or lambda name, module: …",
                )
        if self.max_layers is not None and (not isinstance(self.max_layers, int) or self.max_layers < 0):
            raise InvalidValueError(
                f"max_layers={self.max_layers!r}", "it counts layers", "give a whole number, or None for all"
            )
        overhead = self.max_overhead
        if overhead is not None and not (isinstance(overhead, (int, float)) and 0 < overhead <= 1):
            raise InvalidValueError(
                f"max_overhead={overhead!r}", "it is a share of the time", "give a number such as 0.01, or None"
            )
        if self.compiled not in ("eager", "skip"):
            wrong = "captured steps cannot stay compiled" if self.compiled == "graph" else "there is no such way"
            raise InvalidValueError(
                f"compiled={self.compiled!r}", wrong, "give 'eager' to run them eagerly, or 'skip' to leave layers out"
            )


def selectors(value: Selector | Sequence[Selector] | None) -> tuple[Selector, ...]:
    """One selector or several, as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else (value,)


def frequency(name: str, value: object) -> Schedule:
    """A whole number as a schedule: every so many epochs or batches, 0 for never.

    Raises:
        InvalidValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidValueError(
            f"{name}={value!r}", "it is a frequency", "give a whole number such as 1, or 0 for never"
        )
    return every(value)
