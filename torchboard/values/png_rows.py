"""The rows of PNG files, filtered and deflated: each picture in the way that leaves little of its content.

A row is stored as what is left after a guess from its neighbours. *Photographs and feature maps* leave noise: what counts is
the best guess for each row, and then a search for repetitions, the slow part of deflate, mostly finds nothing.
*Drawings and masks* leave mostly zeros: the row above will do as the guess, or none where it tells little, and the search is
quick and pays. Some rows are written in each way to see which is it; of drawings, those that are not the same as the row
above, in which all the difference lies.

Small pictures are written with guesses and without any, each as it is less; the guesses are then chosen by what the bytes
that they leave will cost: the more often one comes, the fewer bits it takes. Of very small ones everything is tried.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)
"""The guesses, by the numbers that stand before each row: PNG specification, section 9."""
_FILTERS = 5

_BAND_BYTES, _BANDS_TOGETHER = 1 << 16, 16
"""Rows are filtered that many bytes at a time, which stay in the cache, and so many bands of them are deflated together:
a thread that draws the next picture has the interpreter meanwhile."""
_SMALL_BYTES = 1 << 14
"""Pictures of at most so many bytes are small."""
_LITTLE_BYTES = 1 << 13
"""Where all of them together are no more, each is written in every way."""
_SAMPLE_RUNS, _SAMPLE_ROWS = 12, 4
"""The rows to try a way on: so many runs of so many, of the rows that are not the same as the row above."""
_NOISE = 0.15
"""Where runs leave more of a sample than this share it is a photograph or the like, and otherwise a drawing."""
_SAME_ROWS = 8
"""For each row that differs from the row above, so many that do not count in the choice of a way: more cost next to nothing."""
_WORTH_RUNS = 0.99
"""Runs must leave less than this share: the other ways do better on a whole picture than on a sample of it."""
_WORTH, _WORTH_OF_LARGE = 0.998, 0.99
"""A search after good guesses, which takes long, must leave less than this share, or of large pictures."""
_LARGE_BYTES = 1 << 22
"""Pictures of so many bytes, together, are large."""
_MORE_NEWS = 4
"""A row above helps unless so many times more bytes differ from it than from their left neighbours."""
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
    return [_in_bands(picture, step, way) for picture in pictures]


_Choices = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]
"""What the filters leave of some pictures, and those that leave least of their rows -> filters to try: int64[N, height] each."""


class _Effort(NamedTuple):
    """How hard deflate looks for repetitions."""

    level: int
    strategy: int
    memory: int = 9
    """Zlib's level of it, 9 at most: with more there are fewer blocks, each with its table."""

    def compressor(self) -> Any:
        return zlib.compressobj(self.level, zlib.DEFLATED, zlib.MAX_WBITS, self.memory, self.strategy)

    def same_row(self, size: int) -> float:
        """About how many bytes a row takes that is the same as the row above."""
        return {_NO_SEARCH: size / 8, _RUNS: 0.0}.get(self, 1.0)

    def deflated(self, data: bytes | np.ndarray) -> bytes:
        compressor = self.compressor()
        return compressor.compress(data) + compressor.flush()


class _Way(NamedTuple):
    """How rows are filtered and deflated."""

    filtered: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    effort: _Effort


def _in_bands(picture: np.ndarray, step: int, way: _Way) -> bytes:
    """One picture, uint8[height, bytes]."""
    compressor = way.effort.compressor()
    bands = (way.filtered(band, above, step) for band, above in _bands_below(picture))
    parts = []
    while some := b"".join(islice(bands, _BANDS_TOGETHER)):
        parts.append(compressor.compress(some))
    return b"".join([*parts, compressor.flush()])


def _bands_below(picture: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Bands of rows, and the row above each: zeros above the first, which is a band of its own."""
    yield picture[:1], np.zeros_like(picture[:1])
    height = max(1, _BAND_BYTES // picture[0].size)
    for top in range(1, len(picture), height):
        band = picture[top : top + height]
        yield band, picture[top - 1 : top - 1 + len(band)]


def _way(rows: np.ndarray, step: int) -> _Way:
    """The way that leaves least of a sample of rows, the quicker one of nearly equals."""
    band, above, same = _sample(rows)
    filtered = {each: each(band, above, step) for each in (_less_best, _less_above)}

    def left(way: _Way) -> float:
        return len(way.effort.deflated(filtered[way.filtered])) + same * way.effort.same_row(band.shape[1])

    runs = left(_BY_RUNS)
    best = _DRAWN if runs < _NOISE * band.size else _QUICK
    least = left(best)
    if runs < _WORTH_RUNS * least:
        best = _BY_RUNS
    worth = _WORTH if rows.nbytes < _LARGE_BYTES else _WORTH_OF_LARGE
    if best is not _DRAWN and left(_SEARCHED) < worth * min(runs, least):
        best = _SEARCHED
    return best


def _sample(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Some of the rows that differ from the row above, filled up with others where those are few; the row above each; and for
    how many of the others, in proportion, they stand."""
    is_new = np.concatenate([(band != above).any(1) for band, above in _bands_below(rows)])
    new, same = np.flatnonzero(is_new), np.flatnonzero(~is_new)
    count = _SAMPLE_RUNS * _SAMPLE_ROWS
    filling = max(0, count - len(new))
    if filling:
        sample = np.sort(np.concatenate([new, same[:filling]]))
    else:
        starts = len(new) * np.arange(0.5, _SAMPLE_RUNS) / _SAMPLE_RUNS - _SAMPLE_ROWS / 2
        sample = new[(starts.astype(int)[:, None] + np.arange(_SAMPLE_ROWS)).ravel()]
    above = rows[sample - 1]
    above[sample == 0] = 0
    left_out = min(len(same[filling:]), _SAME_ROWS * len(new))
    return rows[sample], above, left_out * min(1.0, count / max(1, len(new)))


def _least_of(pictures: np.ndarray, step: int, efforts: Sequence[_Effort], choices_of: _Choices) -> list[bytes]:
    """The least that these efforts make of each small picture, with one of these choices of filters."""
    together = max(1, _BAND_BYTES // pictures[0].size)
    data = []
    for group in (pictures[first : first + together] for first in range(0, len(pictures), together)):
        above = np.concatenate([np.zeros_like(group[:, :1]), group[:, :-1]], axis=1)
        rest = _rests(group, above, step)
        tried = [_numbered(rest, choice) for choice in choices_of(rest, _least(rest))]
        for ways in zip(*tried):
            data.append(min((effort.deflated(rows) for rows in ways for effort in efforts), key=len))
    return data


def _likely_choice(rest: np.ndarray, least: np.ndarray) -> list[np.ndarray]:
    """Filters for the rows of each picture: none or good ones, whichever leave bytes of fewer bits."""
    guessed, unguessed = _bits(_chosen(rest, least)), _bits(rest[_NONE])
    return [_cheapest(rest, guessed) * (guessed.total <= unguessed.total)[:, None]]


def _some_choices(rest: np.ndarray, least: np.ndarray) -> list[np.ndarray]:
    """None, and good ones."""
    return [_cheapest(rest, _bits(_chosen(rest, least))), np.zeros_like(least)]


def _all_choices(rest: np.ndarray, least: np.ndarray) -> list[np.ndarray]:
    """The same, and more of them."""
    return [*_some_choices(rest, least), least, np.full_like(least, _UP)]


def _less_above(band: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Rows less the row above each, or as they are where that helps little, with the number of the filter before them."""
    news = (band != above).sum(-1, dtype=np.uint32)
    edges = (band[:, step:] != band[:, :-step]).sum(-1, dtype=np.uint32)
    helps = (news <= _MORE_NEWS * (step + edges)).astype(np.uint8)[:, None]
    filtered = np.empty((len(band), 1 + band.shape[1]), np.uint8)
    filtered[:, :1], rest = _UP * helps, filtered[:, 1:]
    np.multiply(above, helps, out=rest)
    np.subtract(band, rest, out=rest)
    return filtered


def _less_best(band: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Rows less the guess that leaves least of each, by the sum of what is left, with the number of its filter before them."""
    rest = _rests(band, above, step)
    return _numbered(rest, _least(rest))


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
    return _row_sums(np.abs(rest.view(np.int8)).view(np.uint8)).argmin(0)


def _row_sums(values: np.ndarray) -> np.ndarray:
    """The sums along the last axis, of uint8: ``sum`` takes twice as long on short rows."""
    return np.einsum("...i->...", values, dtype=np.uint32)


class _Bits(NamedTuple):
    """What each byte takes in a code that suits how often it comes in a picture: float64[N, 256]; and what all of them take."""

    each: np.ndarray
    total: np.ndarray


def _bits(pictures: np.ndarray) -> _Bits:
    first = 256 * np.arange(len(pictures))
    numbers = pictures.reshape(len(pictures), -1) + first[:, None]
    counts = np.bincount(numbers.ravel(), minlength=256 * len(pictures)).reshape(-1, 256) + 0.5
    each = np.log2(counts.sum(1, keepdims=True)) - np.log2(counts)
    return _Bits(each, (counts * each).sum(1))


def _cheapest(rest: np.ndarray, bits: _Bits) -> np.ndarray:
    """The filter of each row that leaves bytes of the fewest bits: int64[N, height] of uint8[filters, N, height, bytes]."""
    costs = np.empty_like(rest)
    tables = np.minimum(np.rint(_BIT * bits.each), 255).astype(np.uint8)
    for number, table in enumerate(tables):
        own = rest[:, number]
        costs[:, number] = np.frombuffer(own.tobytes().translate(table.tobytes()), np.uint8).reshape(own.shape)
    return _row_sums(costs).argmin(0)


def _numbered(rest: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Rows, uint8[…, 1 + bytes]: the number of the filter of each, and what that leaves of it."""
    rows = np.empty((*filters.shape, 1 + rest.shape[-1]), np.uint8)
    rows[..., 0] = filters
    rows[..., 1:] = _chosen(rest, filters)
    return rows


def _chosen(rest: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """What the filter of each row leaves of it: uint8[…, bytes]."""
    return rest[(filters, *np.indices(filters.shape, sparse=True))]


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
    return _either(of_corner_is_least, corner, _either(of_left <= of_up, left, up))


def _either(is_first: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """As ``np.where``, of uint8; ten times as fast, since it is done without a branch."""
    return second ^ ((first ^ second) & -is_first.view(np.uint8))


_NO_SEARCH, _RUNS = _Effort(1, zlib.Z_HUFFMAN_ONLY), _Effort(1, zlib.Z_RLE)
_SEARCH, _SHORT_SEARCH = _Effort(6, zlib.Z_DEFAULT_STRATEGY, 8), _Effort(6, zlib.Z_FILTERED)
_EFFORTS = (_NO_SEARCH, _RUNS, _Effort(9, zlib.Z_DEFAULT_STRATEGY), _SHORT_SEARCH)
_QUICK, _BY_RUNS, _SEARCHED = (_Way(_less_best, effort) for effort in (_NO_SEARCH, _RUNS, _SHORT_SEARCH))
_DRAWN = _Way(_less_above, _SEARCH)
