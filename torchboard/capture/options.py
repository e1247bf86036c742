"""What to capture, and how often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass

from torch import nn

from torchboard.errors import InvalidValueError
from torchboard.schedule import Schedule, as_schedule, every, takes
from torchboard.sketch.sampling import BLOCK

Selector = str | type | Callable[[str, nn.Module], bool]
"""A glob over module names (``"layer1.*"``), a module type, or a function of a module's name and the module."""


@dataclass(frozen=True, kw_only=True)
class Capture:
    """What a monitor captures of a model.

    Attributes:
        activations: the outputs of the layers, as they put them out. The calls of a layer that is called several times, or
            that sits in several places, are pooled under its first name; what checkpointing computes again counts once.
        gradients: the gradients of the layers' outputs, and those of the parameters as the optimizer uses them: accumulated,
            reduced over ranks, unscaled and clipped. ``gradient_norm`` is the norm of the latter together, and
            ``gradient_norm_before_clipping`` that of what the backward pass left, where it is another one.
        parameters: the parameters, as they are at the end of an epoch.
        updates: by how much an optimizer's step changes each parameter: all elements of one with 65,536 or fewer, and at most
            so many, evenly spread, of a larger one; they are held during the step, 256 KiB of a float32 parameter at most.
            ``update_ratio/<parameter>`` is their root mean square over that of the parameter at the end of the epoch.
        dead_units: with the activations, which units of an activation layer never change in an epoch's captured steps; the
            layers to look at instead, in the forms of ``include``, or False for none. None under ``compiled="graph"``.
        every: how many steps lie between captured ones, or a schedule; the first step of each epoch is always captured. A
            number is one more behind a captured step in which one of several optimizers did not step. A step for which a
            schedule of your own raises is not, and that is warned of when the epoch ends.
        include: layers to capture: a glob, a type, a predicate or several of them; None for all. Parameters are those of the
            whole model all the same.
        exclude: layers to leave out, in the same forms; wins over ``include``.
        max_layers: at most this many layers, those nearest to the model's root, and a text, ``monitor/left_out/layers``, where
            that leaves some out; None for no bound.
        max_elements: how many elements are read of a layer's output, and of its gradient: evenly spread blocks of 256
            neighbours, from 256 elements on, such as 262,144; None for all. Counts are those of what was read, and the
            histogram's description says of how many. A share p of n elements is found with a standard error of
            sqrt(p (1 - p) / n), 0.1 % at most for 262,144, where neighbours are unlike, and a larger one where they are
            alike; extremes are the sample's. Dead units, and what stays compiled under ``compiled="graph"``, are read whole.
        compiled: what a captured step does with code under ``torch.compile``. ``"eager"`` runs that step eagerly, all
            compiled code of the process in it, and sees what an eager model shows: the step takes the time and the memory
            that it takes uncompiled, its last digits may differ from the compiled ones', and dropout draws what it draws
            uncompiled. Nothing is compiled again, and what was compiled stays as it is. ``"graph"`` keeps captured steps
            compiled, but for the first, and shows the same but for dead units: hooks stay on the layers, and each graph is
            compiled a second time, with the measuring in it. It needs torch 2.15 and a monitor that is made before the first
            compiled call. ``"skip"`` costs nothing and leaves such code alone: of a compiled layer there are parameters, their
            gradients and their updates, and of a compiled model no graph and no feature maps; compile the model itself before
            the monitor is made, or the first call is compiled twice; layers, one by one, at any time.
        max_overhead: the share of the training's time that the monitor may take of the host, such as 0.01: where it takes more,
            captured steps move apart, to twice the distance, four times and so on, and back. An epoch's first step is captured
            all the same, and what was captured is collected; what these two leave of the share, a quarter of it at least, is
            the other steps'. ``monitor/overhead`` then says, in epochs that write histograms, what share of the time
            since the last such figure went into hooks, collecting and the wait in ``log_epoch`` until all is written. An
            epoch's own wait comes after its figure and is in the next one; it does not move captured steps. Time on a device
            is not in it, nor what another thread writes meanwhile, nor the wait for other ranks. None for no bound and no
            figure.
        rank_timeout: in a distributed job, how many seconds ``log_epoch`` waits for a rank that does not call it; then it
            goes on without, with a warning, and waits for a second at most until that rank has come again.

    Raises:
        InvalidValueError: a field has another type or value than these.
    """

    activations: bool = True
    gradients: bool = True
    parameters: bool = True
    updates: bool = True
    dead_units: bool | Selector | Sequence[Selector] = True
    every: int | Schedule = 10
    include: Selector | Sequence[Selector] | None = None
    exclude: Selector | Sequence[Selector] | None = None
    max_layers: int | None = 1000
    max_elements: int | None = None
    compiled: str = "eager"
    max_overhead: float | None = None
    rank_timeout: float = 60.0

    def __post_init__(self) -> None:
        as_schedule(self.every)
        kinds = "activations", "gradients", "parameters", "updates"
        check_flags(**{kind: getattr(self, kind) for kind in kinds})
        gates = () if isinstance(self.dead_units, bool) else selectors(self.dead_units)
        for selector in (*selectors(self.include), *selectors(self.exclude), *gates):
            if not isinstance(selector, (str, type)) and (isinstance(selector, nn.Module) or not takes(selector, 2)):
                raise InvalidValueError(
                    f"layer selector {selector!r:.80}",
                    "layers are told by a glob, a type or a function of (name, module)",
                    "give 'layer1.*', nn.Conv2d or lambda name, module: …",
                )
        limit = self.max_layers
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise InvalidValueError(
                f"max_layers={self.max_layers!r}", "it counts layers", "give a whole number, or None for all"
            )
        most = self.max_elements
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < BLOCK):
            raise InvalidValueError(
                f"max_elements={most!r}",
                f"it counts the elements that are read of a tensor, in blocks of {BLOCK}",
                f"give a whole number from {BLOCK} on, such as 262144, or None for all of them",
            )
        overhead = self.max_overhead
        if overhead is not None and not (_is_number(overhead) and 0 < overhead <= 1):
            raise InvalidValueError(
                f"max_overhead={overhead!r}", "it is a share of the time", "give a number such as 0.01, or None"
            )
        if not _is_number(self.rank_timeout) or not 0 < self.rank_timeout < float("inf"):
            raise InvalidValueError(
                f"rank_timeout={self.rank_timeout!r}", "waiting must end", "give a number of seconds, such as 60"
            )
        if self.compiled not in ("eager", "graph", "skip"):
            raise InvalidValueError(
                f"compiled={self.compiled!r}",
                "there is no such way",
                "give 'eager' to run captured steps eagerly, 'graph' to keep them compiled, or 'skip' to leave layers out",
            )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def texts_of(capture: Capture, histogram_freq: int) -> dict[str, str]:
    """What is captured, and in which epochs, by name, as texts that are alike in two processes where the options are."""
    options = {field.name: getattr(capture, field.name) for field in fields(capture) if field.name != "rank_timeout"}
    return {name: _text(value) for name, value in ({"histogram_freq": histogram_freq} | options).items()}


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_text, value))})"
    if value is None or isinstance(value, (bool, int, float, str)) or is_dataclass(value):
        return repr(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def selectors(value: Selector | Sequence[Selector] | None) -> tuple[Selector, ...]:
    """One selector or several, as a tuple."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else (value,)


def frequency(name: str, value: object) -> Schedule:
    """A whole number as a schedule: every so many epochs or batches, 0 for never; refuses what ``check_frequency`` does."""
    return every(check_frequency(name, value))


def check_frequency(name: str, value: object) -> int:
    """How many epochs or batches lie between two, 0 for never, as it was given.

    Raises:
        InvalidValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidValueError(
            f"{name}={value!r}", "it is a frequency", "give a whole number such as 1, or 0 for never"
        )
    return value


def check_update_freq(value: object) -> int:
    """How many batches lie between two with scalars: of ``"epoch"`` 0, for none, and of ``"batch"`` 1.

    Raises:
        InvalidValueError: it is neither of these nor a frequency.
    """
    words = {"epoch": 0, "batch": 1}
    return check_frequency("update_freq", words.get(value, value) if isinstance(value, str) else value)


def check_flags(**flags: object) -> None:
    """Arguments that are True or False.

    Raises:
        InvalidValueError: one is neither.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidValueError(f"{name}={value!r:.80}", "it says yes or no", "give True or False")
