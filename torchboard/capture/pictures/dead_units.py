"""Units that an epoch's captured steps never saw change: a ReLU that is always silent, a sigmoid that is always saturated.

A unit is a channel of a convolution's output, or of a batch, instance or group norm's, on axis 1, or a feature of a linear
layer's, an embedding's and the like, on the last axis. An activation has its units on the axis of the last of these layers that
put out as many axes: a linear layer that makes a factor for each channel does not move the channels. If that axis does not
have the layer's number of units and the other one does, it is the other one (tokens of patches); if neither has, the last layer's
number, whatever its axes, decides. Without a layer to go by, units lie on axis 1 of four axes and more and on the last one of
fewer; of three on that of the layer that stands before the activation in the model. A unit counts as dead where all its values
of the epoch's captured training steps were one and the same. That costs the least and the greatest value of each unit, two
reductions an output, or one pass by compiled code in the host's memory, kept on the device and read when the epoch ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from torchboard.capture.figures import Figures
from torchboard.capture.left_out import left_out
from torchboard.capture.options import Capture, selectors
from torchboard.capture.pictures.views import CONVOLUTIONS
from torchboard.capture.ranks.parts import part_of, place_along
from torchboard.capture.select import matches, tag_path
from torchboard.capture.snapshot import HostCopy, Snapshot
from torchboard.capture.tensors import observable
from torchboard.drawing.frame import framed, numbered
from torchboard.sketch.host_compiled import widen_
from torchboard.values import Image, Scalar, Value
from torchboard.values.image import grid

ACTIVATIONS = (
    nn.ReLU,
    nn.Hardtanh,  # and ReLU6
    nn.Threshold,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Sigmoid,
    nn.Tanh,
)
"""Layers that are looked at by default: those that can be constant over a range of what comes in."""
_CHANNELS_FIRST = (
    *CONVOLUTIONS,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
_FEATURES_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.RNNBase)
_MAX_DRAWN, _MAX_NAMED = 1 << 14, 10
_WIDTH, _CELLS = 320, (2, 20)
_DESCRIPTION = "The share of units that had one and the same value in all captured steps of the epoch."
_IN_GRAPH = (
    "captured steps that stay compiled (`Capture(compiled='graph')`) do not show which units change; "
    "`compiled='eager'` does"
)
_DEAD, _ALIVE = (40, 40, 40), (198, 219, 239)


class Seen(NamedTuple):
    """What was seen of the units of a layer.

    Attributes:
        name: the layer's.
        after: the layer that ran before it, whose units these are; "" where these are its own, or none ran.
        count: how many values each unit had.
        units: how many units there are, of a ``DTensor`` in all its parts.
        place: which part of these a rank has, of a ``DTensor``; None of any other tensor.
        counts: False for a rank whose part another rank has too.
    """

    name: str
    after: str
    count: int
    units: int
    place: tuple[int, ...] | None = None
    counts: bool = True


class DeadUnits:
    """Keeps the range of every unit of the chosen layers over the captured steps of an epoch.

    A layer that is called several times has a range for each layer that runs before it; the second has ``.2`` behind its
    tag, the third ``.3``, and the picture says which is which.

    Args:
        options: whether, and of which layers.
        model: whose layers these are.
    """

    def __init__(self, options: Capture, model: nn.Module) -> None:
        chosen = options.dead_units if options.activations else False
        self.wanted = chosen is not False
        self._stays_compiled, self._is_missed = options.compiled == "graph", False
        given = ACTIVATIONS if chosen is True else selectors(chosen or None)
        self._types = tuple(selector for selector in given if isinstance(selector, type))
        self._roles: dict[type, tuple[bool, bool, bool]] = {}
        self._others = tuple(selector for selector in given if not isinstance(selector, type))
        self._ranges: dict[tuple[str, str, int, torch.device], _Range] = {}
        self._model = model
        self._standing: dict[str, bool] = {}
        self.begin()

    def begin(self) -> None:
        """A captured step begins: what ran in another one is not before it."""
        self._after = ""
        self._last: tuple[bool, int] | None = None
        self._alike: dict[int, tuple[bool, int]] = {}

    def observe(self, name: str, module: nn.Module, output: Any) -> None:
        """A layer has run; launches two to four small operations where it is one of those, and never waits."""
        role = self._roles.get(type(module))
        if role is None:
            kinds = self._types, _CHANNELS_FIRST, _FEATURES_LAST
            role = self._roles[type(module)] = tuple(issubclass(type(module), kind) for kind in kinds)
        is_meant, is_first, is_last = role
        is_meant = is_meant or self._others and self._is_named(name, module)
        is_known = is_first or is_last
        if is_meant and self._stays_compiled:
            self._is_missed = True
        elif is_meant and isinstance(output, Tensor):
            self._fold(name, module, output, is_first if is_known else None)
        if is_known:
            self._after = name
            if isinstance(output, tuple) and output:
                output = output[0]
            if isinstance(output, Tensor) and not output.is_nested and output.ndim:
                shape = output.shape
                self._last = self._alike[len(shape)] = is_first, shape[_unit_axis(len(shape), is_first)]

    def collect(self) -> list[DeadUnitSnapshot | Figures]:
        """The ranges since the last call, on their way to the host; they begin anew.

        Where captured steps stay compiled there is a text instead, once, if one of those layers has run.
        """
        if self._is_missed:
            self.wanted = self._is_missed = False
            return left_out("dead_units", _IN_GRAPH)
        seen = {tag_: range_ for tag_, range_ in self._tagged() if range_.count > 1}
        copy = HostCopy([torch.stack((range_.low, range_.high)) for range_ in seen.values()]) if seen else None
        facts = tuple(range_.seen._replace(count=range_.count) for range_ in seen.values())
        for range_ in self._ranges.values():
            range_.count = 0
        return [DeadUnitSnapshot(tuple(seen), copy, facts)] if copy else []

    def _is_named(self, name: str, module: nn.Module) -> bool:
        return any(matches(selector, name, module) for selector in self._others)

    def _fold(self, name: str, module: nn.Module, output: Tensor, is_first: bool | None) -> None:
        local = observable(output)
        if local is None or not local.ndim or not local.is_floating_point() or not local.numel():
            return
        after = ""
        if is_first is None:
            after = self._after
            is_first = self._is_first(name, module, output.shape if output.ndim == local.ndim else local.shape)
        axis = _unit_axis(local.ndim, is_first)
        key = name, after, local.shape[axis], local.device
        range_ = self._ranges.get(key)
        if range_ is None:
            range_ = self._ranges[key] = _Range(_first_seen(name, after, output, local.shape[axis], axis))
        range_.widen(local, axis)

    def _is_first(self, name: str, module: nn.Module, shape: torch.Size) -> bool:
        """Whether an output of this shape has its units on axis 1, or on the last one; see the module."""
        axes = len(shape)
        alike = self._alike.get(axes)
        for layer in (alike, self._last):
            if layer is not None:
                is_first, units = layer
                if shape[_unit_axis(axes, is_first)] == units:
                    return is_first
                if shape[_unit_axis(axes, not is_first)] == units:
                    return not is_first
        if alike is not None:
            return alike[0]
        return axes > 3 or axes == 3 and self._stands_behind_channels(name, module)

    def _stands_behind_channels(self, name: str, module: nn.Module) -> bool:
        """Whether the layer that stands before this one in the model, or else first behind it, has channels on axis 1."""
        found = self._standing.get(name)
        if found is None:
            is_behind = False
            for other in self._model.modules():
                is_behind = is_behind or other is module
                if is_behind and found is not None:
                    break
                if isinstance(other, _CHANNELS_FIRST + _FEATURES_LAST):
                    found = isinstance(other, _CHANNELS_FIRST)
            self._standing[name] = found = bool(found)
        return found

    def _tagged(self) -> Iterable[tuple[str, _Range]]:
        """Each range with its tag but for the kind, in the order in which they were first seen."""
        calls: dict[str, int] = {}
        for (name, *_), range_ in self._ranges.items():
            calls[name] = calls.get(name, 0) + 1
            yield tag_of_call(name, calls[name]), range_


class _Range:
    """The least and the greatest value of each unit, and how many values it had."""

    low: Tensor
    high: Tensor

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.count = 0

    def widen(self, output: Tensor, axis: int) -> None:
        shape = output.shape
        if not self.count:
            self.low, self.high = (_all(shape[axis], value, output) for value in (torch.inf, -torch.inf))
        if not widen_(self.low, self.high, output, math.prod(shape[axis + 1 :])):
            low, high = _ends(output.detach(), [place for place in range(len(shape)) if place != axis])
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.count += output.numel() // shape[axis]


def _first_seen(name: str, after: str, output: Tensor, units: int, axis: int) -> Seen:
    place = place_along(output, axis)
    if place is None:
        return Seen(name, after, 0, units)
    return Seen(name, after, 0, output.shape[axis], place, part_of(output).counts)


def _all(units: int, value: float, like: Tensor) -> Tensor:
    return torch.full((units,), value, dtype=like.dtype, device=like.device)


def _ends(output: Tensor, axes: list[int]) -> tuple[Tensor, Tensor]:
    """The least and the greatest along these axes; on a CPU examples first, which is up to ten times as fast on small maps."""
    if not axes:
        return output, output
    if not output.is_cpu or len(axes) == 1:
        return output.amin(axes), output.amax(axes)
    rest = [place - 1 for place in axes[1:]]
    return output.amin(0).amin(rest), output.amax(0).amax(rest)


@dataclass(frozen=True)
class DeadUnitSnapshot(Snapshot):
    """The share of dead units of each layer, ``units_dead/<layer>``, and a map of them where there are any.

    Attributes:
        facts: what was seen of each tag's units.
    """

    facts: tuple[Seen, ...]

    @property
    def plugins(self) -> dict[str, str]:
        scalars = {f"units_dead/{name}": Scalar.plugin for name in self.tags}
        return scalars | {f"units_dead_map/{name}": Image.plugin for name in self.tags}

    def settle(self) -> Iterable[tuple[str, Value]]:
        for name, seen, (low, high) in zip(self.tags, self.facts, self.copy.wait()):
            dead = low == high
            yield f"units_dead/{name}", Scalar(float(dead.mean()), _DESCRIPTION)
            if dead.any():
                heading = _heading(dead, seen.after, seen.count)
                yield f"units_dead_map/{name}", Image(unit_map(dead, heading)[None], " ".join(heading))


def tag_of_call(name: str, number: int) -> str:
    """The tag, but for the kind, of a layer's range, the first, second and so on of those that it has."""
    return tag_path(name) + (f".{number}" if number > 1 else "")


def features_of(module: nn.Module) -> tuple[Tensor, int] | None:
    """The weight of a layer that makes units, and its axis that has one place for each; None without a weight."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    second = isinstance(module, (nn.Embedding, nn.modules.conv._ConvTransposeNd))
    return weight, 1 if second else 0


def unit_map(dead: np.ndarray, heading: list[str]) -> np.ndarray:
    """A square for each unit, bool[units], row by row, the dead ones dark: a picture uint8[H, W, 3]."""
    drawn = dead[:_MAX_DRAWN]
    columns = next(count for count in (16, 32, 64, 128) if count == 128 or count * count >= len(drawn))
    side = max(_CELLS[0], min(_CELLS[1], _WIDTH // columns))
    colors = np.where(drawn[:, None], np.uint8(_DEAD), np.uint8(_ALIVE))
    squares = grid(colors[:, None, None].repeat(side, 1).repeat(side, 2), columns=columns, gap=1)
    rows = numbered(-(-len(drawn) // columns), side + 1, step=columns)
    return framed(squares, heading, None, rows, numbered(min(columns, len(drawn)), side + 1, apart=36, sign="+"))


def _heading(dead: np.ndarray, after: str, count: int) -> list[str]:
    places = np.flatnonzero(dead)
    named = ", ".join(map(str, places[:_MAX_NAMED])) + (", …" if len(places) > _MAX_NAMED else "")
    lines = [f"{len(places)} of {len(dead)} units dead (dark), {count:,} values each", named]
    if len(dead) > _MAX_DRAWN:
        lines.append(f"the first {_MAX_DRAWN:,} are drawn")
    return lines + ([f"called after {after}"] if after else [])


def _unit_axis(ndim: int, is_first: bool) -> int:
    """The axis of the units, among so many: axis 1 or the last."""
    return 1 if is_first and ndim > 1 else ndim - 1
