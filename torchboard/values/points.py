"""Many scalars as bytes at once: what a training loop logs most, for a tenth of the cost of building messages.

A **point** is one number of one curve, packed to 32 bytes by the caller, which is all that it costs there. The records of
points differ in few bytes from a template of their tag (the wall time, the step, the number), and NumPy puts those in
place for a whole batch; the checksums come from the template's by what those bytes add (``eventfile.checksum``). The bytes
are those that protobuf writes for ``Event(wall_time, step, summary=[simple_value])``: it leaves step 0 out.

Cost: about 0.3 µs a point in batches of thousands, and about 0.1 ms a batch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import count

import google_crc32c
import numpy as np

from torchboard.eventfile.checksum import byte_effects, mask
from torchboard.eventfile.framing import FOOTER_BYTES, HEADER_BYTES, frame
from torchboard.values import wire
from torchboard.values.scalar import Scalar
from torchboard.values.value import Event

POINT = np.dtype([("run", "<i4"), ("tag", "<i4"), ("step", "<i8"), ("wall_time", "<f8"), ("value", "<f8")])
"""One point: the run and the tag as ``NAMES`` numbers them, the step, the wall time (finite), the number."""

pack_point = struct.Struct("<iiqdd").pack
"""``(run, tag, step, wall_time, value)`` as the bytes of one ``POINT``."""

MAX_TAG_BYTES = 200
"""Longer tags are for ``Event``: a table of byte effects for them would take 1 KB a byte."""

_LONGEST_VARINT = 10
_VARINT_LIMITS = np.array([1 << 7 * size for size in range(_LONGEST_VARINT)], np.uint64)
"""What the numbers whose varints take 0, 1, 2… bytes are below: 0 takes none, since its field is left out."""
_STEP_SIZES = _LONGEST_VARINT + 1
_HEAD = HEADER_BYTES + 10
"""Bytes of a record up to the step: its header, a wall time and the step's field number, which goes where there is no step."""


class Names:
    """Runs and tags as small numbers, one for each name that this process has met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._free = count()

    def number(self, name: str) -> int:
        """The number of a name, a new one where it is new. Safe in any thread."""
        if name not in self._numbers:
            number = self._numbers.setdefault(name, next(self._free))
            self._names[number] = name
        return self._numbers[name]

    def __getitem__(self, number: int) -> str:
        return self._names[number]


NAMES = Names()


def events_of(points: np.ndarray) -> Iterator[Event]:
    """The same points, one event each: for few of them, and for a sink that takes events only."""
    for run, tag, step, wall_time, value in map(np.void.item, points):
        yield Event(step, wall_time, ((NAMES[tag], Scalar(value)),), NAMES[run])


class PointEncoder:
    """Turns points into framed records; knows the templates of the tags that it has met, about 0.4 KB a tag."""

    def __init__(self) -> None:
        self._curves = np.empty(0, np.int64)  # tag -> row in the tables below, -1 where it was not met
        self._tails: dict[int, np.ndarray] = {}  # length -> all tails of that length, uint8 [tails, length]
        self._tail_rows = np.empty(0, np.int64)  # row among the tails of its length
        self._tail_sizes = np.empty(0, np.int64)
        self._heads = np.empty((0, _STEP_SIZES, _HEAD), np.uint8)
        self._checksums = np.empty((0, _STEP_SIZES), np.uint32)

    def encode(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The records of points (``POINT``) of one run, in their order: uint8[bytes], and where each ends: int64[n]."""
        curves = self._curves_of(points["tag"])
        step_bits = points["step"].view(np.uint64)
        step_sizes = np.searchsorted(_VARINT_LIMITS, step_bits, side="right")
        head_sizes = _HEAD - (step_sizes == 0)
        tail_sizes = self._tail_sizes[curves]
        ends = np.cumsum(head_sizes + step_sizes + tail_sizes + wire.FLOAT_BYTES + FOOTER_BYTES)
        tails_at = ends - FOOTER_BYTES - wire.FLOAT_BYTES - tail_sizes
        steps_at = tails_at - step_sizes

        heads = self._heads[curves, step_sizes]
        heads[:, HEADER_BYTES + 1 : -1] = _bytes_of(points["wall_time"], "<f8")
        step_bytes = _varints(step_bits, step_sizes)
        with np.errstate(over="ignore"):  # float32 is what TensorBoard shows: a number beyond it is infinite
            numbers = _bytes_of(points["value"].astype(np.float32), "<f4")
        checksums = self._checksums[curves, step_sizes]
        data_sizes = head_sizes - HEADER_BYTES + step_sizes + tail_sizes + wire.FLOAT_BYTES
        checksums ^= _effect(heads[:, HEADER_BYTES + 1 : -1], data_sizes - 1)
        checksums ^= _effect(step_bytes, tail_sizes + step_sizes + wire.FLOAT_BYTES)
        checksums ^= _effect(numbers, np.full(len(ends), wire.FLOAT_BYTES))
        ending = np.concatenate([numbers, _bytes_of(mask(checksums), "<u4")], axis=1)

        out = np.empty(ends[-1], np.uint8)
        _place(out, steps_at - head_sizes, heads)
        for place in range(
            step_bytes.shape[1]
        ):  # of a shorter step or none, what is too much lies where the tail comes
            out[steps_at + place] = step_bytes[:, place]
        self._place_tails(out, tails_at, curves, ending)
        return out, ends

    def _place_tails(self, out: np.ndarray, at: np.ndarray, curves: np.ndarray, ending: np.ndarray) -> None:
        """Puts all behind the step in place: a record's tag, its number and its checksum. One pass a length of tag."""
        sizes = self._tail_sizes[curves]
        for size in np.flatnonzero(np.bincount(sizes)).tolist():
            rows = np.flatnonzero(sizes == size)
            tails = self._tails[size][self._tail_rows[curves[rows]]]
            _place(out, at[rows], np.concatenate([tails, ending[rows]], axis=1))

    def _curves_of(self, tags: np.ndarray) -> np.ndarray:
        """The row of each point's tag."""
        if tags.max() >= len(self._curves):
            self._curves = np.concatenate([self._curves, np.full(tags.max() + 1 - len(self._curves), -1)])
        curves = self._curves[tags]
        if curves.min() < 0:
            self._learn(sorted(set(tags[curves < 0].tolist())))  # np.unique would import a module, on the sink's thread
            curves = self._curves[tags]
        return curves

    def _learn(self, tags: list[int]) -> None:
        """Makes the templates of tags: one for each length that a step can have."""
        heads, checksums = [], []
        rows, sizes = self._tail_rows.tolist(), self._tail_sizes.tolist()
        for tag in tags:
            tail = wire.summary_before_number(NAMES[tag])
            alike = self._tails.get(len(tail), np.empty((0, len(tail)), np.uint8))
            self._tails[len(tail)] = np.concatenate([alike, np.frombuffer(tail, np.uint8)[None]])
            self._curves[tag] = len(rows)
            rows.append(len(alike))
            sizes.append(len(tail))
            for step_size in range(_STEP_SIZES):
                step = wire.STEP + bytes(step_size) if step_size else b""
                zeros = b"".join((wire.WALL_TIME, bytes(8), step, tail, bytes(wire.FLOAT_BYTES)))
                heads.append(np.frombuffer(frame(zeros), np.uint8, _HEAD))
                checksums.append(google_crc32c.value(zeros))
        shape = (len(tags), _STEP_SIZES)
        self._tail_rows, self._tail_sizes = np.array(rows), np.array(sizes)
        self._heads = np.concatenate([self._heads, np.reshape(heads, (*shape, _HEAD))])
        self._checksums = np.concatenate([self._checksums, np.array(checksums, np.uint32).reshape(shape)])


def _varints(bits: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Varints of many numbers: uint8 [n, longest], zero behind the end of each."""
    places = np.arange(sizes.max())
    sevens = bits[:, None] >> (7 * places).astype(np.uint64) & np.uint64(127)
    return sevens.astype(np.uint8) | (places < sizes[:, None] - 1).astype(np.uint8) << 7


def _bytes_of(numbers: Sequence[float] | np.ndarray, dtype: str) -> np.ndarray:
    """Numbers as rows of bytes: uint8 [n, itemsize]."""
    numbers = np.ascontiguousarray(numbers, dtype)
    return numbers.view(np.uint8).reshape(len(numbers), numbers.itemsize)


def _effect(columns: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """What bytes [n, k] add to plain checksums, the first of them ``distances`` bytes before the end: uint32[n]."""
    table = byte_effects(MAX_TAG_BYTES + 64).ravel()
    total = np.zeros(len(columns), np.uint32)
    at = distances * 256
    for place in range(columns.shape[1]):
        total ^= table[at + (columns[:, place] - np.int64(256 * (place + 1)))]
    return total


def _place(out: np.ndarray, starts: np.ndarray, rows: np.ndarray) -> None:
    """Copies rows of bytes [n, k] to where they start in ``out``."""
    size = rows.shape[1]
    windows = np.ndarray((len(out) - size + 1,), f"V{size}", out, strides=(1,))
    windows[starts] = np.ascontiguousarray(rows).view(f"V{size}").ravel()
