"""Dead units over the batches of all ranks: a unit is dead where it is on every rank, at one and the same value.

Each rank sends two numbers a unit. Ranks that compute on one batch together, as in tensor parallelism, may have different
units of a layer: those of all of them lie side by side, in the order of the ranks. A ``DTensor`` says which units it holds. Of
an ordinary tensor the weight of the layer whose units these are says how many there are, and whether it is cut; where that is
not what ranks have, and they have not all the same, there is nothing of the layer but a text that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from torchboard.capture.left_out import left_out
from torchboard.capture.pictures.dead_units import DeadUnitSnapshot, Seen, features_of, tag_of_call
from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.parts import size_along
from torchboard.capture.ranks.posts import exchanged, packed, read_each, unpacked
from torchboard.capture.snapshot import HostCopy
from torchboard.graph.module_names import module_names
from torchboard.values import Pending

CHANNEL = "units"
_UNCLEAR = "ranks have parts that do not tell what they are parts of, or a part is missing"


def with_units(pending: Sequence[Pending], ranks: Ranks, model: nn.Module, together: tuple[int, ...]) -> list[Pending]:
    """The same, on rank 0 with what the units of all ranks' models did.

    Every rank calls it at the same ends of epochs, whatever it has seen; ``together`` are those that compute on one batch with
    this one.
    """

    def send(mine: DeadUnitSnapshot) -> bytes:
        return packed(_rows(mine, ranks.rank, model, together), mine.copy.wait())

    def merge(mine: DeadUnitSnapshot | None, posts: Mapping[int, bytes]) -> list[Pending]:
        units = _Units()
        if mine is not None:
            units.add(_rows(mine, ranks.rank, model, together), mine.copy.wait())
        read_each(posts, ranks, lambda _, post: units.add(*unpacked(post)))
        return units.whole()

    return exchanged(pending, DeadUnitSnapshot, ranks, CHANNEL, send, merge)


class _Row(NamedTuple):
    """Whose units' ranges these are.

    Attributes:
        tag: on the rank that sends.
        name, after, count, units: as in ``Seen``.
        place: which of the units; ranks with the same ones have the same here.
        values: told by what values these are the ranges of, so that none count twice.
    """

    tag: str
    name: str
    after: str
    count: int
    units: int
    place: tuple[int, ...]
    values: str


_KINDS = str, str, str, int, int, lambda place: tuple(map(int, place)), str
"""What makes the fields of a row of what another rank has sent."""


def _rows(mine: DeadUnitSnapshot, rank: int, model: nn.Module, together: tuple[int, ...]) -> list[_Row]:
    modules = {name: module for module, name in module_names(model).items()} if len(together) > 1 else {}
    rows = []
    for tag, seen, ends in zip(mine.tags, mine.facts, mine.copy.wait()):
        units, place, values = seen.units, seen.place, f"rank {rank}"
        if place is None:
            place = ()
            if len(together) > 1:
                values = f"{together[0]} {blake2b(ends.tobytes(), digest_size=16).hexdigest()}"
                features, is_cut = _features(modules.get(seen.after or seen.name), model)
                if features != units:
                    units, place = features if is_cut else units, (together.index(rank),)
        rows.append(_Row(tag, seen.name, seen.after, seen.count if seen.counts else 0, units, place, values))
    return rows


def _features(layer: nn.Module | None, model: nn.Module) -> tuple[int, bool]:
    """How many units a layer makes, by its weight, and whether ranks make different ones; 0 where it has none."""
    found = None if layer is None else features_of(layer)
    return (0, False) if found is None else size_along(*found, model)


class _Layer:
    """The ends of the ranges of a layer's units, and how many values each had."""

    def __init__(self, tag: str, row: _Row) -> None:
        self._row = row
        self._ends: dict[tuple[int, ...], np.ndarray] = {}
        self._counts: dict[tuple[int, ...], int] = {}
        self._met: set[tuple[tuple[int, ...], str]] = set()
        self.tag = tag

    def widen(self, row: _Row, ends: np.ndarray) -> None:
        place = (*row.place, ends.shape[1])
        known = self._ends.get(place, ends)
        self._ends[place] = np.stack((np.minimum(known[0], ends[0]), np.maximum(known[1], ends[1])))
        if (place, row.values) not in self._met:
            self._met.add((place, row.values))
            self._counts[place] = self._counts.get(place, 0) + row.count

    def whole(self) -> tuple[np.ndarray, Seen] | None:
        """The ranges of all units, and what was seen of them; None where parts are missing or do not tell what of."""
        places, units = sorted(self._ends), self._row.units
        parts = [self._ends[place] for place in places]
        if sum(part.shape[1] for part in parts) == units:
            ends = np.concatenate(parts, axis=1)
        elif all(np.array_equal(part, parts[0], equal_nan=True) for part in parts) and parts[0].shape[1] == units:
            ends = parts[0]
        else:
            return None
        count = max(self._counts.get(place, 0) for place in places)
        return ends, Seen(self._row.name, self._row.after, count, units)


class _Units:
    """The units of all ranks' layers; one that ran behind different layers, or had different numbers of units, as several."""

    def __init__(self) -> None:
        self._layers: dict[tuple[str, str, int], _Layer] = {}

    def add(self, rows: Iterable[Sequence[object]], ranges: Sequence[np.ndarray]) -> None:
        """All of a rank's layers, or none where it raises."""
        rows = [_Row(*(kind(field) for kind, field in zip(_KINDS, row, strict=True))) for row in rows]
        if len(rows) != len(ranges) or not all(ends.ndim == 2 and len(ends) == 2 for ends in ranges):
            raise ValueError(f"{len(rows)} layers have ranges of shapes {[ends.shape for ends in ranges]}")
        for row, ends in zip(rows, ranges):
            key = row.name, row.after, row.units
            if key not in self._layers:
                self._layers[key] = _Layer(self._free_tag(row), row)
            self._layers[key].widen(row, ends)

    def _free_tag(self, row: _Row) -> str:
        """The tag that the rank gave, or the first one that no other units have."""
        taken = {layer.tag for layer in self._layers.values()}
        tag, number = row.tag, 1
        while tag in taken:
            number += 1
            tag = tag_of_call(row.name, number)
        return tag

    def whole(self) -> list[Pending]:
        """What there is to be written."""
        found = {layer.tag: layer.whole() for layer in self._layers.values()}
        whole = {tag: both for tag, both in found.items() if both is not None}
        lost = ", ".join(f"`{tag}`" for tag in found if tag not in whole)
        pending: list[Pending] = []
        if whole:
            copy = HostCopy([torch.from_numpy(np.ascontiguousarray(ends)) for ends, _ in whole.values()])
            pending.append(DeadUnitSnapshot(tuple(whole), copy, tuple(seen for _, seen in whole.values())))
        if lost:
            pending += left_out("dead_units", f"of {lost} {_UNCLEAR}")
        return pending
