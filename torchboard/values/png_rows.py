"""The rows of PNG files, filtered and deflated: each picture in the way that leaves little of its content.

A row is stored as what is left after a guess from its neighbours. *Photographs and feature maps* leave noise: what counts is
the best guess for each row, and then a search for repetitions, the slow part of deflate, mostly finds nothing.
*Drawings and masks* leave mostly zeros: any guess will do, and the search is quick and pays. Some rows are written in each
way to see which is it.

Small pictures are written with guesses and without any, each as it is less; the guesses are then chosen by what the bytes
that they leave will cost: the more often one comes, the fewer bits it takes. Of very small ones everything is tried.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)
"""The guesses, by the numbers that stand before each row: PNG specification, section 9."""
_FILTERS = 5

_BAND_BYTES = 1 << 20
"""Rows are worked on that many bytes at a time: large arrays for NumPy, and little memory for a large picture."""
_SMALL_BYTES = 1 << 14
"""Pictures of at most so many bytes are small."""
_LITTLE_BYTES = 1 << 13
"""Where all of them together are no more, each is written in every way."""
_SAMPLE_RUNS, _SAMPLE_ROWS = 3, 12
"""The rows to try a way on: so many runs of so many."""
_WORTH, _WORTH_OF_LARGE = 0.999, 0.99
"""A slower way must leave less than this share of the bytes, or of those of a large picture, which takes long."""
_LARGE_BYTES = 1 << 22
"""Pictures of so many bytes are large."""
_BIT = 16
"""Units of a bit in which the cost of a byte is told, as one byte itself."""


def deflated_rows(pictures: np.ndarray, step: int) -> list[bytes]:
    """The rows of some pictures, uint8[N, height, bytes], filtered and compressed; ``step`` bytes are a pixel."""
    if pictures.nbytes <= _LITTLE_BYTES:
        return _least_of(pictures, step, _EFFORTS, _all_choices)
    way = _way(pictures.reshape(-1, pictures.shape[2]), step)
    if pictures[0].size <= _SMALL_BYTES:
        choices_of = _likely_choice if way.effort is _NO_SEARCH else _some_choices
        return _least_of(pictures, step, (way.effort,), choices_of)
    return [_in_bands(picture[None], step, way) for picture in pictures]


_Choices = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]
"""What the filters leave of a picture, and those that leave least of its rows -> filters to try: int64[height] each."""


class _Effort(NamedTuple):
    """How hard deflate looks for repetitions."""

    level: int
    strategy: int
    memory: int = 9
    """Zlib's level of it, 9 at most: with more there are fewer blocks, each with its table."""

    def compressor(self) -> Any:
        return zlib.compressobj(self.level, zlib.DEFLATED, zlib.MAX_WBITS, self.memory, self.strategy)

    def deflated(self, data: bytes | np.ndarray) -> bytes:
        compressor = self.compressor()
        return compressor.compress(data) + compressor.flush()


class _Way(NamedTuple):
    """How rows are filtered and deflated."""

    filtered: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    effort: _Effort


def _in_bands(picture: np.ndarray, step: int, way: _Way) -> bytes:
    """One picture, uint8[1, height, bytes]."""
    compressor = way.effort.compressor()
    parts = [compressor.compress(way.filtered(band, above, step)) for band, above in _bands_below(picture)]
    return b"".join([*parts, compressor.flush()])


def _bands_below(pictures: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Bands of rows of all the pictures, and the row above each; zeros above the first."""
    height = max(1, _BAND_BYTES // pictures[:, 0].size)
    above = np.zeros_like(pictures[:, :1])
    for top in range(0, pictures.shape[1], height):
        band = pictures[:, top : top + height]
        yield band, np.concatenate([above, band[:, :-1]], axis=1)
        above = band[:, -1:]


def _way(rows: np.ndarray, step: int) -> _Way:
    """The way that leaves least of a sample of rows, the quicker one of nearly equals."""
    starts = np.linspace(0, max(0, len(rows) - _SAMPLE_ROWS), _SAMPLE_RUNS).astype(int)
    bands = [band for start in starts for band in _bands_below(rows[None, start : start + _SAMPLE_ROWS])]
    filtered = {way.filtered: b"".join([way.filtered(*band, step).tobytes() for band in bands]) for way in _WAYS}
    worth = _WORTH if rows.nbytes < _LARGE_BYTES else _WORTH_OF_LARGE
    best, least = _WAYS[0], np.inf
    for way in _WAYS:
        size = len(way.effort.deflated(filtered[way.filtered]))
        if size < worth * least:
            best, least = way, size
    return best


def _least_of(pictures: np.ndarray, step: int, efforts: Sequence[_Effort], choices_of: _Choices) -> list[bytes]:
    """The least that these efforts make of each small picture, with one of these choices of filters."""
    together = max(1, _BAND_BYTES // pictures[0].size)
    data = []
    for group in (pictures[first : first + together] for first in range(0, len(pictures), together)):
        ((band, above),) = _bands_below(group)
        rest = _rests(band, above, step)
        for own, least in zip(rest.swapaxes(0, 1), _least(rest)):
            tried = [_numbered(own, choice) for choice in choices_of(own, least)]
            data.append(min((effort.deflated(rows) for rows in tried for effort in efforts), key=len))
    return data


def _likely_choice(rest: np.ndarray, least: np.ndarray) -> list[np.ndarray]:
    """Filters for the rows of one picture: none or good ones, whichever leave bytes of fewer bits."""
    guessed, unguessed = _bits(_chosen(rest, least)), _bits(rest[_NONE])
    return [_cheapest(rest, guessed) if guessed.total <= unguessed.total else np.zeros_like(least)]


def _some_choices(rest: np.ndarray, least: np.ndarray) -> list[np.ndarray]:
    """None, and good ones."""
    return [_cheapest(rest, _bits(_chosen(rest, least))), np.zeros_like(least)]


def _all_choices(rest: np.ndarray, least: np.ndarray) -> list[np.ndarray]:
    """The same, and more of them."""
    return [*_some_choices(rest, least), least, np.full_like(least, _UP)]


def _less_above(band: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Rows less the row above each, with the number of that filter before them."""
    filtered = np.empty((*band.shape[:-1], 1 + band.shape[-1]), np.uint8)
    filtered[..., 0] = _UP
    np.subtract(band, above, out=filtered[..., 1:])
    return filtered


def _less_best(band: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Rows less the guess that leaves least of each, by the sum of what is left, with the number of its filter before them."""
    rest = _rests(band, above, step)
    filtered = _numbered(rest.reshape(_FILTERS, -1, band.shape[-1]), _least(rest).ravel())
    return filtered.reshape(*band.shape[:-1], -1)


def _rests(band: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """What each guess leaves of rows: uint8[filters, …] of the band's shape."""
    left, corner = np.zeros_like(band), np.zeros_like(band)
    left[..., step:] = band[..., :-step]
    corner[..., step:] = above[..., :-step]
    rest = np.empty((_FILTERS, *band.shape), np.uint8)
    rest[_NONE] = band
    np.subtract(band, left, out=rest[_SUB])
    np.subtract(band, above, out=rest[_UP])
    np.subtract(band, (left & above) + ((left ^ above) >> 1), out=rest[_AVERAGE])
    np.subtract(band, _paeth(left, above, corner), out=rest[_PAETH])
    return rest


def _least(rest: np.ndarray) -> np.ndarray:
    """The filter of each row that leaves the least sum, as signed bytes: int64 of the shape of the rows."""
    return np.minimum(rest, -rest).sum(-1, dtype=np.uint32).argmin(0)


class _Bits(NamedTuple):
    """What each byte takes in a code that suits how often it comes: float64[256]; and what all of them take."""

    each: np.ndarray
    total: float


def _bits(data: np.ndarray) -> _Bits:
    counts = np.bincount(data.ravel(), minlength=256) + 0.5
    each = np.log2(counts.sum()) - np.log2(counts)
    return _Bits(each, float(counts @ each))


def _cheapest(rest: np.ndarray, bits: _Bits) -> np.ndarray:
    """The filter of each row, int64[height], that leaves bytes of the fewest bits; ``rest`` is uint8[filters, height, bytes]."""
    cost = np.minimum(np.rint(_BIT * bits.each), 255).astype(np.uint8)
    costs = np.frombuffer(rest.tobytes().translate(cost.tobytes()), np.uint8).reshape(rest.shape)
    return costs.sum(-1, dtype=np.uint32).argmin(0)


def _numbered(rest: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Rows, uint8[height, 1 + bytes]: the number of the filter of each, and what that leaves of it."""
    rows = np.empty((filters.size, 1 + rest.shape[-1]), np.uint8)
    rows[:, 0] = filters
    rows[:, 1:] = _chosen(rest, filters)
    return rows


def _chosen(rest: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """What the filter of each row leaves of it: uint8[height, bytes]."""
    return rest[filters, np.arange(filters.size)]


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Whichever of the three is nearest to left + up - corner, the first of equals; in 8 bits.

    The distances are |up - corner|, |left - corner|, and, for the corner, what these two differ by where it lies between the
    others, and their sum where it does not.
    """
    of_left = np.maximum(up, corner) - np.minimum(up, corner)
    of_up = np.maximum(left, corner) - np.minimum(left, corner)
    low, high = np.minimum(left, up), np.maximum(left, up)
    near, far = np.minimum(of_left, of_up), np.maximum(of_left, of_up)
    of_corner_is_least = (corner > low) & (corner < high) & (far - near < near)
    return np.where(of_corner_is_least, corner, np.where(of_left <= of_up, left, up))


_NO_SEARCH, _RUNS = _Effort(1, zlib.Z_HUFFMAN_ONLY), _Effort(1, zlib.Z_RLE)
_SEARCH, _SHORT_SEARCH = _Effort(6, zlib.Z_DEFAULT_STRATEGY, 8), _Effort(6, zlib.Z_FILTERED)
_EFFORTS = (_NO_SEARCH, _RUNS, _Effort(9, zlib.Z_DEFAULT_STRATEGY), _SHORT_SEARCH)
_WAYS = (
    _Way(_less_best, _NO_SEARCH),
    _Way(_less_above, _SEARCH),
    _Way(_less_best, _RUNS),
    _Way(_less_best, _SHORT_SEARCH),
)
