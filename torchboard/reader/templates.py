"""Events of scalars read by the thousand: records that are alike are sorted out, compared, and read as columns of bytes.

The records of a stretch are grouped by what of their layout is seen at once: their length and that of their step. In a
group, the bytes that vary are set to zero, the rest is hashed, and records with one hash are compared, byte for byte,
with the first of them, which is parsed. Those that are equal to it differ from it in wall time, step and numbers only,
and these are read, and their checksums verified, for all of them at once. Everything else is left to a parser:
records of another kind, few of a kind, and those that need what came before them.

About fifteen NumPy operations a group and one a byte that varies; memory for a copy of the records of a group.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError

from torchboard import proto
from torchboard.eventfile.alike import added_by, rows_of, stored_checksums, without
from torchboard.eventfile.checksum import mask
from torchboard.eventfile.stretches import Stretch
from torchboard.reader.layout import STEP, STEP_KEY, WALL_TIME, WALL_TIME_KEY, Layout, layout_of
from torchboard.reader.numbers import number_of

_SHORTEST, _LONGEST = 20, 1 << 16
"""Records outside of these lengths are left to the parser."""
_FEW = 16
"""Groups of fewer records are left to the parser."""
_FEW_ALIKE = 4
"""So are fewer records that are alike."""
_LINEAR_LENGTH, _LINEAR_BYTES = 512, 48
"""Up to which length, and how many bytes that vary, a checksum comes from tables."""
_LONGEST_STEP = 9
_MOST_LAYOUTS = 8
"""Of one group: more of them are left to the parser."""
_HASH_BITS = 16
_FORMS = {4: ("simple_value", "DT_FLOAT"), 8: ("DT_DOUBLE",)}
"""The forms of scalars whose bytes are those of a floating-point number of so many bytes."""


def _odd_numbers(count: int) -> np.ndarray:
    """As good as random ones of 64 bits, by SplitMix64; without ``numpy.random``, which takes long to load."""
    mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ mixed >> np.uint64(shift)) * np.uint64(factor)
    return mixed ^ mixed >> np.uint64(31) | np.uint64(1)


_FACTORS = _odd_numbers(_LONGEST // 8 + 2)


@dataclass(frozen=True, eq=False)
class Template:
    """What records that are alike have in common.

    Attributes:
        tags: the tag of each number.
        forms: in which form each stands in the file.
        described: tags with metadata, which count from their first record on.
        crc: plain CRC-32C of the record with the bytes that vary set to zero.
    """

    tags: tuple[str, ...]
    forms: tuple[str, ...]
    described: tuple[str, ...]
    crc: int


@dataclass(frozen=True, eq=False)
class Alike:
    """Records of one layout, template by template, and in order within each.

    Attributes:
        templates: what the records of each part have in common.
        bounds: where each part starts, and where the last one ends: int64[parts + 1].
        records: int64[n], their numbers in the stretch.
        wall_times: float64[n].
        steps: int64[n].
        numbers: float64 [n, k].
        sound: bool[n], whether the checksum fits.
    """

    templates: list[Template]
    bounds: np.ndarray
    records: np.ndarray
    wall_times: np.ndarray
    steps: np.ndarray
    numbers: np.ndarray
    sound: np.ndarray

    def only(self, kept: np.ndarray) -> Alike:
        """Some of them; ``kept`` is bool[n]."""
        bounds = np.concatenate([[0], np.cumsum(kept)])[self.bounds]
        columns = self.records, self.wall_times, self.steps, self.numbers, self.sound
        return Alike(self.templates, bounds, *(column[kept] for column in columns))


class TemplateScan:
    """Finds the records of stretches that are alike, and remembers what they looked like."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[int, int], list[Layout]] = {}
        self._templates: dict[Layout, dict[bytes, Template]] = {}

    def scan(self, stretch: Stretch, described: Collection[str]) -> tuple[list[Alike], np.ndarray]:
        """Records that are alike, and the numbers of all others, sorted: int64.

        ``described`` names the tags whose metadata are known; where those of another tag are to be noted, the first of its
        records is among the others.
        """
        found: list[Alike] = []
        if len(stretch) < _FEW:
            return found, np.arange(len(stretch))
        groups, others = _groups(stretch)
        for key, records in groups:
            matches, rest = self._scan_group(stretch, key, records)
            others.append(rest)
            for alike in matches:
                alike, rest = _without_undescribed(alike, described)
                found.append(alike)
                others.append(rest)
        return found, np.sort(np.concatenate(others))

    def _scan_group(
        self, stretch: Stretch, key: tuple[int, int], records: np.ndarray
    ) -> tuple[list[Alike], np.ndarray]:
        """The records of one group that are alike, and the others."""
        found: list[Alike] = []
        known = self._layouts.setdefault(key, [])
        for layout in known:
            if len(records) >= _FEW:
                alike, records = self._match(stretch, layout, records)
                found.append(alike)
        for layout in _probed(stretch, records):
            if layout not in known and len(known) < _MOST_LAYOUTS and len(records) >= _FEW:
                alike, records = self._match(stretch, layout, records)
                found.append(alike)
                known.append(layout)
        return found, records

    def _match(self, stretch: Stretch, layout: Layout, records: np.ndarray) -> tuple[Alike, np.ndarray]:
        """The records of this layout, and the others."""
        rows = rows_of(stretch, records, layout.length)
        columns = _wall_times(rows), _steps(rows, layout), _numbers(rows, layout)
        stored = stored_checksums(rows, layout.length)
        added = added_by(rows, layout.length, layout.varying) if _is_linear(layout) else None
        words = without(rows, layout.length, layout.varying)
        order, starts, fits = _sorted_by_content(words)
        counts = np.diff(starts, append=len(order))
        templates = [
            self._template(stretch, layout, words[place], records[place]) if count >= _FEW_ALIKE else None
            for place, count in zip(order[starts].tolist(), counts.tolist())
        ]
        known = np.array([template is not None for template in templates])
        fits &= np.repeat(known, counts)
        chosen = order[fits]
        if added is None:
            sound = np.array([stretch.is_sound(record) for record in records[chosen].tolist()], bool)
        else:
            crcs = np.repeat(np.array([template.crc if template else 0 for template in templates], np.uint32), counts)
            sound = mask(added[chosen] ^ crcs[fits]) == stored[chosen]
        bounds = np.concatenate([[0], np.cumsum(fits)])[np.append(starts[known], len(order))]
        taken = (column[chosen] for column in (records, *columns))
        return Alike([one for one in templates if one], bounds, *taken, sound), records[np.sort(order[~fits])]

    def _template(self, stretch: Stretch, layout: Layout, words: np.ndarray, record: int) -> Template | None:
        """What a record of this layout means; None if it is not of this layout."""
        known = self._templates.setdefault(layout, {})
        blank = words.tobytes()
        template = known.get(blank)
        if template is None:
            crc = google_crc32c.value(blank[: layout.length])
            template = _parsed(layout, stretch.data(record).tobytes(), crc)
            if template is not None:
                known[blank] = template
        return template


def _groups(stretch: Stretch) -> tuple[list[tuple[tuple[int, int], np.ndarray]], list[np.ndarray]]:
    """Records that may be scalars, in order, by their length and the length of their step; and the others."""
    lengths = stretch.lengths
    fit = (lengths >= _SHORTEST) & (lengths <= _LONGEST)
    fit[fit] = stretch.buffer[stretch.starts[fit]] == WALL_TIME_KEY
    records = np.flatnonzero(fit)
    step_bytes = _step_bytes(stretch, records)
    keys = lengths[records] * 16 + step_bytes
    order = np.argsort(keys.astype(np.uint16) if keys.max(initial=0) < 1 << 16 else keys, kind="stable")
    groups, others = [], [np.flatnonzero(~fit)]
    for group in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        if len(group) < _FEW or step_bytes[group[0]] > _LONGEST_STEP:
            others.append(records[group])
        else:
            groups.append((tuple(divmod(int(keys[group[0]]), 16)), records[group]))
    return groups, others


def _step_bytes(stretch: Stretch, records: np.ndarray) -> np.ndarray:
    """How many bytes the step of each record takes, 0 where it has none: int64[n], at most ten."""
    heads = np.ndarray((len(stretch.buffer) - _SHORTEST,), f"V{_LONGEST_STEP + 1}", stretch.buffer.data, strides=(1,))
    bytes_ = heads[stretch.starts[records] + STEP - 1].view(np.uint8).reshape(len(records), _LONGEST_STEP + 1)
    going = bytes_[:, 0] == STEP_KEY
    count = going.astype(np.int64)
    for column in range(1, _LONGEST_STEP + 1):
        going &= bytes_[:, column] >= 0x80
        if not going.any():
            break
        count += going
    return count


def _probed(stretch: Stretch, records: np.ndarray) -> list[Layout]:
    """The layouts of a few records, each once."""
    if len(records) < _FEW:
        return []
    probes = (layout_of(stretch.data(records[place]).tobytes()) for place in (0, len(records) // 2, -1))
    return list(dict.fromkeys(layout for layout in probes if layout is not None))


def _sorted_by_content(words: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in an order in which those that are equal stand together, in their own order.

    Returns:
        The places of the rows in that order; where each part starts, int64; and whether each row of the order is equal
        to the first one of its part: few are not, since parts are told apart by a hash.
    """
    hashes = (words @ _FACTORS[: words.shape[1]] >> np.uint64(64 - _HASH_BITS)).astype(np.uint16)
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
    firsts = words.take(order[starts], axis=0)
    differ = words.take(order, axis=0) != np.repeat(firsts, np.diff(starts, append=len(order)), axis=0)
    return order, starts, ~(differ @ np.ones(words.shape[1], bool))


def _without_undescribed(alike: Alike, described: Collection[str]) -> tuple[Alike, np.ndarray]:
    """``alike`` without the first record of each part of which a tag's metadata are not known; and these records."""
    waiting = [
        bound
        for template, bound in zip(alike.templates, alike.bounds.tolist())
        if template.described and not all(tag in described for tag in template.described)
    ]
    if not waiting:
        return alike, alike.records[:0]
    kept = np.ones(len(alike.records), bool)
    kept[waiting] = False
    return alike.only(kept), alike.records[waiting]


def _is_linear(layout: Layout) -> bool:
    """Whether checksums come cheaper from tables than from the data."""
    return layout.length <= _LINEAR_LENGTH and len(layout.varying) <= _LINEAR_BYTES


def _wall_times(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows[:, WALL_TIME]).view("<f8")[:, 0]


def _steps(rows: np.ndarray, layout: Layout) -> np.ndarray:
    steps = np.zeros(len(rows), np.int64)
    for place in range(layout.step_bytes):
        steps |= (rows[:, STEP + place] & 0x7F).astype(np.int64) << 7 * place
    return steps


def _numbers(rows: np.ndarray, layout: Layout) -> np.ndarray:
    numbers = rows.take(layout.number_columns, axis=1).view(f"<f{layout.number_bytes}")
    with np.errstate(invalid="ignore"):
        return numbers.astype(np.float64)


def _parsed(layout: Layout, data: bytes, crc: int) -> Template | None:
    """What an event of scalars means; None if it is not of this layout, or the parser finds other numbers in it."""
    if layout_of(data) != layout:
        return None
    try:
        event = proto.Event.FromString(data)
    except DecodeError:
        return None
    values = event.summary.value
    forms, described = [], []
    for value, start in zip(values, layout.numbers):
        number, form = number_of(value)
        raw = np.frombuffer(data, f"<f{layout.number_bytes}", 1, start)[0]
        same = number is not None and (number == raw or number != number and raw != raw)
        if not same or form.split(" ")[0] not in _FORMS[layout.number_bytes]:
            return None
        if value.WhichOneof("value") == "tensor":
            if value.metadata.plugin_data.plugin_name != "scalars":
                return None
            described.append(value.tag)
        forms.append(form)
    return Template(tuple(value.tag for value in values), tuple(forms), tuple(described), crc)
