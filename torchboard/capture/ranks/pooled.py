"""The sketches of all ranks, merged to those of the whole job.

What each rank observed of its part of the batch is added up; of a tensor that several ranks hold alike one counts; shards
make the whole. Counts, extremes, zeros, NaN and infinities are exact, and norms and means are to rounding. Where ranks saw a
tensor from different pivots, an element may lie in the histogram beside where it is, by at most one bin, as ``sketch.merging``
says; of equal pivots, as activations and gradients nearly always have, bins are exact too. Ranks need not have the same tags.

The cost: the training thread waits for the copy of its rows to the host, about 32 KiB each, and sends the bins that hold
something, some 3 KB a row. Rank 0 takes milliseconds for each rank's rows, and about half a millisecond more for a tag whose
rows differ in pivot or scale. Parameters that rank 0 has whole are not sent.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from torchboard.capture.norms import Norms
from torchboard.capture.ranks.backward import with_shares
from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.parts import Part, ranks_of_one_batch
from torchboard.capture.ranks.posts import packed, read_each, unpacked
from torchboard.capture.ranks.units import with_units
from torchboard.capture.recorder import TRAIN
from torchboard.capture.select import tag_path
from torchboard.capture.sketches import SketchSnapshot
from torchboard.capture.snapshot import HostCopy
from torchboard.graph.module_names import parameter_names
from torchboard.sketch import layout, merging
from torchboard.sketch.rows import TableRows
from torchboard.values import Pending

CHANNEL = "sketches"
_OF_THE_BATCH = ("activations/", "activation_gradients/")
"""How the tags begin of what belongs to the examples that a rank has; any other belongs to the model."""
_UNSEEN = "\0"
"""What the name of a phase begins with that holds sketches which are measured and not shown."""

_BLANK = 0
"""The place of a row that stays empty."""

Phases = Mapping[str, Sequence[Pending]]


def greeting(model: nn.Module) -> bytes:
    """What others need to know of a rank's model: the names of its parameters."""
    return json.dumps([name for name, _ in parameter_names(model)]).encode()


def pooled(phases: Phases, ranks: Ranks, model: nn.Module) -> dict[str, tuple[Pending, ...]]:
    """Phase -> what is to be written: on rank 0 with the sketches of all ranks, on the others nothing.

    Every rank calls it at the same ends of epochs, whatever it has seen.
    """
    if ranks.several:
        together: tuple[int, ...] = (ranks.rank,)
        try:
            together = ranks_of_one_batch(model, ranks.rank)
            known = () if ranks.writes else _names_of_first(ranks)
            mine = _packed(_steps(phases, ranks, known), _rows(phases, known, together))
        except Exception as error:
            ranks.tell(f"What rank {ranks.rank} sees is missing from the log ({type(error).__name__}: {error}).")
            mine = _packed(0, ())
        posts = ranks.gather(CHANNEL, mine)
        train = with_units(phases.get(TRAIN, ()), ranks, model, together)
        phases = {**phases, TRAIN: with_shares(train, ranks)}
        if ranks.writes:
            whole = _whole_of(posts, ranks)
            if any(steps > whole.steps.get(ranks.rank, 0) for steps in whole.steps.values()):
                ranks.tell(
                    "Rank 0 has captured fewer steps of the training than another rank: the gradients, updates and norms that "
                    "all ranks have alike are told by rank 0, and of steps that it did not take they are missing. "
                    "Give rank 0 as many batches as any other rank."
                )
            phases = _with_sketches(phases, whole.snapshots())
    return {phase: tuple(pending) for phase, pending in phases.items() if pending} if ranks.writes else {}


def _whole_of(posts: Mapping[int, bytes], ranks: Ranks) -> _Whole:
    whole = _Whole()
    read_each(posts, ranks, lambda rank, post: whole.add(rank, *_unpacked(post)))
    return whole


class _Row(NamedTuple):
    """One row, what it is a row of, and what is to be said of it."""

    phase: str
    tag: str
    part: Part
    counts: np.ndarray
    moments: np.ndarray
    parameters: np.ndarray
    note: str


def _steps(phases: Phases, ranks: Ranks, known: Collection[str]) -> int:
    """How many captured steps the parameters that rank 0 has too have had so far."""
    norms = (one for one in phases.get(TRAIN, ()) if isinstance(one, Norms))
    counts = (count for one in norms for name, count in one.steps.items() if ranks.writes or tag_path(name) in known)
    return max(counts, default=0)


def _rows(phases: Phases, known: Collection[str], together: tuple[int, ...]) -> Iterator[_Row]:
    """What this rank has to tell, one of some that compute on one batch together; not the parameters that rank 0 is known to
    have whole. Waits for the copies."""
    for phase, snapshot in _snapshots(phases):
        for tag, *row in zip(snapshot.tags, *snapshot.copy.wait()):
            kind, _, path = tag.partition("/")
            part = snapshot.parts.get(tag)
            of_the_model = not tag.startswith(_OF_THE_BATCH)
            if part is None and of_the_model and path in known:
                continue
            if part is None or of_the_model:
                part = Part("", "") if part is None else part._replace(holders="")
            if not of_the_model and tag not in snapshot.parts:
                place = _digest(*row) if len(together) > 1 else ""
                part = Part(f"ranks of {together[0]}", place)
            if part.counts and row[1][layout.COUNT]:
                yield _Row(phase, tag, part, *row, snapshot.notes.get(tag, ""))


def _names_of_first(ranks: Ranks) -> frozenset[str]:
    """The parameters that rank 0 has, as they stand in tags."""
    said = ranks.greeting(0)
    return frozenset(map(tag_path, json.loads(said))) if said else frozenset()


def _digest(counts: np.ndarray, moments: np.ndarray, parameters: np.ndarray) -> str:
    """Tells rows of different data apart: by all counts and the extremes, not by sums, whose last bits may differ."""
    exact = moments[[*range(layout.SUM), layout.NEGATED_MIN, layout.MAX]]
    return blake2b(counts.tobytes() + exact.tobytes() + parameters.tobytes(), digest_size=16).hexdigest()


def _snapshots(phases: Phases) -> Iterator[tuple[str, SketchSnapshot]]:
    """Every sketch once, those that are measured only under a name of their own."""
    for phase, pending in phases.items():
        shown = [one for one in pending if isinstance(one, SketchSnapshot)]
        for one in shown:
            yield phase, one
        for norms in pending:
            if isinstance(norms, Norms):
                yield from (
                    (_UNSEEN + phase, one) for one in norms.sketches if not any(one is other for other in shown)
                )


def _with_sketches(phases: Phases, snapshots: dict[str, list[SketchSnapshot]]) -> dict[str, tuple[Pending, ...]]:
    """The same with these sketches in place of the present ones."""
    result: dict[str, tuple[Pending, ...]] = {}
    for phase in dict.fromkeys([*phases, *(name for name in snapshots if not name.startswith(_UNSEEN))]):
        shown, unseen = snapshots.get(phase, []), snapshots.get(_UNSEEN + phase, [])
        others = [one for one in phases.get(phase, ()) if not isinstance(one, SketchSnapshot)]
        others = [replace(one, sketches=(*shown, *unseen)) if isinstance(one, Norms) else one for one in others]
        result[phase] = (*shown, *others)
    return result


class _Sparse(NamedTuple):
    """Rows of which only the bins that hold something are kept.

    ``held`` says how many those are in each row, int64[rows]; ``bins`` and ``counts`` are those of all rows in a line.
    """

    held: np.ndarray
    bins: np.ndarray
    counts: np.ndarray
    moments: np.ndarray
    parameters: np.ndarray


def _packed(steps: int, rows: Iterable[_Row]) -> bytes:
    rows = list(rows)
    bins = [np.flatnonzero(row.counts) for row in rows]
    counts = np.concatenate([np.zeros(0, np.int64), *(row.counts[place] for row, place in zip(rows, bins))])
    small = counts.max(initial=0) < 1 << 32
    sparse = _Sparse(
        np.array([len(place) for place in bins], np.uint16),
        np.concatenate([np.zeros(0, np.int64), *bins]).astype(np.uint16),
        counts.astype(np.uint32 if small else np.int64),
        np.array([row.moments for row in rows], np.float64).reshape(-1, layout.SLOTS),
        np.array([row.parameters for row in rows], np.float64).reshape(-1, layout.PARAMETERS),
    )
    names = [(row.phase, row.tag, row.part.holders, row.part.place, row.note) for row in rows]
    return packed((steps, names), sparse)


def _unpacked(post: bytes) -> tuple[int, list[list[str]], _Sparse]:
    """How many steps there were, phase, tag, holders, place and note of every row, and the rows."""
    (steps, names), sparse = unpacked(post)
    return int(steps), names, _Sparse(*sparse)


class _Whole:
    """Sums of rows. Rows of one tag that differ in pivot, scale or kind are added apart, and merged in the end."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str, bytes], int] = {}
        self._seen: set[tuple[str, ...]] = set()
        self._notes: dict[str, dict[str, str]] = {}
        self._rows = _blank(_BLANK + 1)
        self.steps: dict[int, int] = {}
        """How many steps of the training each rank has captured so far, with an epoch whose end it left out."""

    def add(self, rank: int, steps: int, names: Sequence[Sequence[str]], rows: _Sparse) -> None:
        """Adds one rank's rows, but for those that a rank before it has given too."""
        for phase, tag, *_, note in names:
            if note:
                self._notes.setdefault(phase, {}).setdefault(tag, f"{note}, on rank {rank}")
        names = [tuple(name[:-1]) for name in names]
        new = np.array([name not in self._seen for name in names], bool)
        self._seen.update(names)
        places = np.array([self._place(*name[:2], rows.parameters[row]) for row, name in enumerate(names)], np.int64)
        self._grow()
        counts, moments, parameters = self._rows
        filled = np.repeat(new, rows.held)
        bins = (np.repeat(places, rows.held) * layout.BINS + rows.bins)[filled]
        np.add.at(counts.reshape(-1), bins, rows.counts[filled].astype(np.int64))
        places, added = places[new], rows.moments[new]
        parameters[places] = rows.parameters[new]
        sums, ends = slice(None, layout.ADDITIVE), slice(layout.ADDITIVE, None)
        np.add.at(moments[:, sums], places, added[:, sums])
        np.maximum.at(moments[:, ends], places, added[:, ends])
        self.steps[rank] = steps

    def snapshots(self) -> dict[str, list[SketchSnapshot]]:
        """Phase -> its sketches, as one snapshot."""
        versions: dict[str, dict[str, list[int]]] = {}
        for (phase, tag, _), place in self._places.items():
            versions.setdefault(phase, {}).setdefault(tag, []).append(place)
        return {
            phase: [
                SketchSnapshot(
                    tuple(places), HostCopy(self._merged([*places.values()]).buffers), notes=self._notes.get(phase, {})
                )
            ]
            for phase, places in versions.items()
        }

    def _place(self, phase: str, tag: str, parameters: np.ndarray) -> int:
        return self._places.setdefault((phase, tag, parameters.tobytes()), _BLANK + 1 + len(self._places))

    def _grow(self) -> None:
        present = len(self._rows[0])
        missing = _BLANK + 1 + len(self._places) - present
        if missing > 0:
            more = _blank(max(missing, present // 4))
            self._rows = tuple(np.concatenate(pair) for pair in zip(self._rows, more))

    def _merged(self, places: list[list[int]]) -> TableRows:
        """One row for each list of rows."""
        result = self._taken([first for first, *_ in places])
        differing = [row for row, several in enumerate(places) if len(several) > 1]
        if differing:
            filled = zip_longest(*(places[row] for row in differing), fillvalue=_BLANK)
            merged = merging.merge([self._taken(part) for part in filled])
            for whole, new in zip(result.buffers, merged.buffers):
                whole[differing] = new
        return result

    def _taken(self, places: Sequence[int]) -> TableRows:
        return TableRows(*(torch.from_numpy(array[list(places)]) for array in self._rows))


def _blank(rows: int) -> tuple[np.ndarray, ...]:
    """Counts, moments and parameters of rows that have met nothing."""
    moments = np.zeros((rows, layout.SLOTS))
    moments[:, layout.ADDITIVE :] = -np.inf
    return np.zeros((rows, layout.BINS), np.int64), moments, np.zeros((rows, layout.PARAMETERS))
