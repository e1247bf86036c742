"""PNG files, written with NumPy and zlib: lossless, and several times faster than a general encoder for no more bytes.

A PNG stores for every pixel what is left after a guess from its neighbours, deflated. What does that best depends on the
content. *Photographs and feature maps* leave noise: what counts is the best guess for each row, and then a search for
repetitions, the slow part of deflate, mostly finds nothing, so only runs are looked for. *Drawings and masks* leave mostly
zeros: any guess will do, and the search is quick and pays. Some rows are written in each way to see which is it.
Pictures of few colours are stored as indices of a palette, a third of the data.

A photograph of 512 x 512 x 3 takes about 16 ms of CPU time, a plot of 640 x 480 about 5. Nearly all of it is in NumPy
operations and zlib calls over a million bytes at a time, which let other threads run; small pictures are worked on many
at a time.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Number of channels -> what Pillow calls such a picture."""
MAX_COLORS = 256
"""Entries of a palette, in PNG and GIF."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_INDEXED = 3
_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)
"""The guesses, by the numbers that stand before each row: PNG specification, section 9."""
_FILTERS = 5

_BAND_BYTES = 1 << 20
"""Rows are worked on that many bytes at a time: large arrays for NumPy, and little memory for a large picture."""
_SAMPLE_RUNS, _SAMPLE_ROWS = 3, 12
"""The rows to try a way on: so many runs of so many."""
_WORTH = 0.999
"""A slower way must leave less than this share of the bytes."""
_PIXELS_A_COLOR = 8
"""A palette is not worth its three bytes a colour below so many pixels."""


def encode_png(picture: np.ndarray) -> bytes:
    """uint8[height, width, channels] as a PNG file: 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGBA."""
    (file,) = encode_pngs(picture[None])
    return file


def encode_pngs(pictures: np.ndarray) -> list[bytes]:
    """uint8[N, height, width, channels] as N PNG files; small ones take far less time together than one by one."""
    count, height, width, channels = pictures.shape
    most = min(MAX_COLORS, height * width // _PIXELS_A_COLOR)
    indexed = [with_palette(picture, most) if channels == 3 and most else None for picture in pictures]
    plain = [number for number in range(count) if indexed[number] is None]
    rows = pictures.reshape(count, height, -1)
    plain_rows = rows if len(plain) == count else rows[plain]
    data = dict(zip(plain, _deflated(plain_rows, channels) if plain else ()))
    files = []
    for number, found in enumerate(indexed):
        if found is None:
            color_type, chunks, deflated = _COLOR_TYPES[channels], [], data[number]
        else:
            palette, index = found
            color_type, chunks, (deflated,) = _INDEXED, [_chunk(b"PLTE", palette.tobytes())], _deflated(index[None], 1)
        header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0))
        files.append(b"".join([_SIGNATURE, header, *chunks, _chunk(b"IDAT", deflated), _chunk(b"IEND", b"")]))
    return files


def decode_png(data: bytes) -> np.ndarray:
    """A picture file of any form that Pillow reads as uint8[height, width, channels]."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(data)) as picture:
        if picture.mode not in MODES.values():
            opaque = picture.mode == "P" and "transparency" not in picture.info
            picture = picture.convert("RGB" if opaque else "RGBA")
        array = np.asarray(picture)
    return array[:, :, None] if array.ndim == 2 else array


def with_palette(pixels: np.ndarray, most: int = MAX_COLORS) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels uint8[height, width, 3] as their colours, uint8[colors, 3], and indices of them, uint8[height, width].

    None where there are more than ``most`` colours. They are sorted by brightness, so that near indices look alike.
    """
    import PIL.Image

    found = PIL.Image.fromarray(np.ascontiguousarray(pixels)).getcolors(most)
    if found is None:
        return None
    palette = np.array([color for _, color in found], np.uint8)
    palette = palette[np.lexsort((_packed(palette), palette @ np.array([299, 587, 114])))]
    index_of = np.zeros(1 << 24, np.uint8)  # zeroed memory that is never touched costs nothing
    index_of[_packed(palette)] = np.arange(len(palette))
    index = np.empty(pixels.shape[:2], np.uint8)
    for band in _bands(pixels):
        index[band] = index_of[_packed(pixels[band])]
    return palette, index


def _packed(colors: np.ndarray) -> np.ndarray:
    """uint8[…, 3] as one number below 2^24 a colour."""
    packed = colors[..., 0].astype(np.uint32)
    for channel in (1, 2):
        packed <<= 8
        packed |= colors[..., channel]
    return packed


def _bands(rows: np.ndarray) -> Iterator[slice]:
    """Slices of rows, from the first to the last."""
    count = max(1, _BAND_BYTES // max(1, rows[0].nbytes))
    return (slice(top, top + count) for top in range(0, len(rows), count))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))])


def _deflated(pictures: np.ndarray, step: int) -> list[bytes]:
    """The rows of some pictures, uint8[N, height, bytes], filtered and compressed; ``step`` bytes are a pixel."""
    way = _way(pictures.reshape(-1, pictures.shape[2]), step)
    together = max(1, _BAND_BYTES // pictures[0].size)
    data = []
    for group in (pictures[first : first + together] for first in range(0, len(pictures), together)):
        compressors = [way.compressor() for _ in group]
        parts: list[list[bytes]] = [[] for _ in group]
        for band, above in _bands_below(group):
            for done, compressor, rows in zip(parts, compressors, way.filtered(band, above, step)):
                done.append(compressor.compress(rows))
        data += [b"".join([*done, compressor.flush()]) for done, compressor in zip(parts, compressors)]
    return data


def _bands_below(pictures: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Bands of rows of all the pictures, and the row above each; zeros above the first."""
    height = max(1, _BAND_BYTES // pictures[:, 0].size)
    above = np.zeros_like(pictures[:, :1])
    for top in range(0, pictures.shape[1], height):
        band = pictures[:, top : top + height]
        yield band, np.concatenate([above, band[:, :-1]], axis=1)
        above = band[:, -1:]


class _Way(NamedTuple):
    """How rows are filtered and deflated."""

    filtered: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    level: int
    strategy: int

    def compressor(self) -> Any:
        return zlib.compressobj(self.level, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, self.strategy)


def _way(rows: np.ndarray, step: int) -> _Way:
    """The way that leaves least of a sample of rows, the quicker one of nearly equals."""
    starts = np.linspace(0, max(0, len(rows) - _SAMPLE_ROWS), _SAMPLE_RUNS).astype(int)
    bands = [band for start in starts for band in _bands_below(rows[None, start : start + _SAMPLE_ROWS])]
    best, least = _WAYS[0], np.inf
    for way in _WAYS:
        compressor = way.compressor()
        filtered = b"".join([way.filtered(*band, step).tobytes() for band in bands])
        size = len(compressor.compress(filtered) + compressor.flush())
        if size < _WORTH * least:
            best, least = way, size
    return best


def _less_above(band: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Rows less the row above each, with the number of that filter before them."""
    filtered = np.empty((*band.shape[:-1], 1 + band.shape[-1]), np.uint8)
    filtered[..., 0] = _UP
    np.subtract(band, above, out=filtered[..., 1:])
    return filtered


def _less_best(band: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Rows less the guess that leaves least of each, by the sum of what is left, with the number of its filter before them."""
    width = band.shape[-1]
    left, corner = np.zeros_like(band), np.zeros_like(band)
    left[..., step:] = band[..., :-step]
    corner[..., step:] = above[..., :-step]
    rest = np.empty((_FILTERS, *band.shape), np.uint8)
    rest[_NONE] = band
    np.subtract(band, left, out=rest[_SUB])
    np.subtract(band, above, out=rest[_UP])
    np.subtract(band, (left & above) + ((left ^ above) >> 1), out=rest[_AVERAGE])
    np.subtract(band, _paeth(left, above, corner), out=rest[_PAETH])
    best = np.minimum(rest, -rest).sum(-1, dtype=np.uint32).argmin(0)
    filtered = np.empty((best.size, 1 + width), np.uint8)
    filtered[:, 0] = best.ravel()
    filtered[:, 1:] = rest.reshape(_FILTERS, -1, width)[best.ravel(), np.arange(best.size)]
    return filtered.reshape(*best.shape, 1 + width)


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


_WAYS = (
    _Way(_less_above, 6, zlib.Z_DEFAULT_STRATEGY),
    _Way(_less_best, 1, zlib.Z_RLE),
    _Way(_less_best, 6, zlib.Z_FILTERED),
)
