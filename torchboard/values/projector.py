"""Points in many dimensions, with labels and pictures: the Embedding Projector.

This is the one page of TensorBoard that reads files instead of events: for every embedding a table of numbers, one of
labels and one picture that holds all small ones, and for the run one text that lists them. An embedding here becomes those
files; nothing else knows their form.

The numbers are written as they are in memory, 4 bytes each. The page tells such a file from a table of text by this alone:
its first line is not UTF-8. Where that does not hold (all zeros, say), they are written as text, about 12
bytes and 0.3 µs each.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from google.protobuf import text_format

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.image import grid
from torchboard.values.png import decode_png, encode_png

CONFIG = "projector_config.pbtxt"
"""The file, in the run's directory, that lists its embeddings."""

MAX_SPRITE_PIXELS = 8192
"""The longest side of a sprite that the page takes."""

_NUMBER = "%.9g"
"""Nine digits give every float32 back to the bit."""
_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
_NOT_IN_A_NAME = re.compile(r"[%/\\]")
_EMPTY = "(empty)"
"""Stands in a row of labels that are all blank: the page leaves blank rows out, and gives their labels to the next points."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """Points, and what is known of each.

    Attributes:
        tag: what it is called.
        step: when it was taken.
        points: float32[N, D], finite.
        labels: N rows of one or more columns of text, or None.
        header: a name for each column, where there are several.
        pictures: uint8[N, height, width, channels], or None.

    Raises:
        InvalidValueError: a shape or a length does not fit, a number is not finite, or the pictures make too large a sprite.
    """

    tag: str
    step: int
    points: np.ndarray
    labels: tuple[tuple[str, ...], ...] | None = None
    header: tuple[str, ...] = ()
    pictures: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_points(self.tag, self.points)
        count = len(self.points)
        for what, rows in (("labels", self.labels), ("pictures", self.pictures)):
            if rows is not None and len(rows) != count:
                raise InvalidValueError(
                    f"{len(rows)} {what} for the {count} points of {self.tag!r}", "each point has one", "give as many"
                )
        width = len(self.header) or 1
        for number, row in enumerate(self.labels or ()):
            if len(row) != width:
                raise InvalidValueError(
                    f"label {number} of {self.tag!r} with {len(row)} columns", f"there are {width}", "give as many"
                )
        if self.pictures is not None:
            side = _columns(count) * max(self.pictures.shape[1:3])
            if side > MAX_SPRITE_PIXELS:
                raise InvalidValueError(
                    f"{count} pictures of {self.pictures.shape[2]} x {self.pictures.shape[1]} pixels",
                    f"together they are {side} pixels wide or high, and the page takes {MAX_SPRITE_PIXELS}",
                    "give smaller pictures, or fewer points",
                )

    @property
    def name(self) -> str:
        """What the page lists it under: one for each tag and step."""
        return f"{self.tag}:{self._number}"

    @property
    def folder(self) -> str:
        """Where its files are, below the run's directory: ``<step>/<tag>``, the tag as one name."""
        return f"{self._number}/{_NOT_IN_A_NAME.sub(lambda match: f'%{ord(match[0]):02x}', self.tag)}"

    @property
    def _tensor_path(self) -> str:
        return f"{self.folder}/tensors.{'bytes' if self._is_raw else 'tsv'}"

    @cached_property
    def _raw(self) -> bytes:
        return self.points.astype("<f4", copy=False).tobytes()

    @cached_property
    def _is_raw(self) -> bool:
        """Whether every reader of TensorBoard takes the numbers in memory for what they are: none gets past the first line."""
        end = self._raw.find(b"\n")
        first_line = self._raw if end < 0 else self._raw[:end]
        try:
            first_line.decode()
        except UnicodeDecodeError:
            return True
        return False

    @property
    def _number(self) -> str:
        return str(self.step).zfill(5)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """``(path below the run's directory, content)`` of each of its files."""
        yield self._tensor_path, self._raw if self._is_raw else _text(self.points)
        if self.labels is not None:
            yield f"{self.folder}/metadata.tsv", _table(self.header, self.labels)
        if self.pictures is not None:
            yield f"{self.folder}/sprite.png", encode_png(_sprite(self.pictures))

    def entry(self) -> Any:
        """Its part of the list: an ``EmbeddingInfo`` of the ``ProjectorConfig`` messages."""
        config = proto.ProjectorConfig()
        info = config.embeddings.add(tensor_name=self.name, tensor_path=self._tensor_path)
        info.tensor_shape.extend(self.points.shape)
        if self.labels is not None:
            info.metadata_path = f"{self.folder}/metadata.tsv"
        if self.pictures is not None:
            info.sprite.image_path = f"{self.folder}/sprite.png"
            info.sprite.single_image_dim.extend((self.pictures.shape[2], self.pictures.shape[1]))
        return info

    @classmethod
    def decode(cls, entry: Any, read: Callable[[str], bytes]) -> Embedding:
        """The embedding of an ``entry``, from its files; blank rows of labels come as ``(empty)``.

        Args:
            entry: an ``EmbeddingInfo``, as ``entries`` gives it.
            read: path below the run's directory -> the file's content.
        """
        tag, _, step = entry.tensor_name.rpartition(":")
        numbered = bool(tag) and step.lstrip("-").isdecimal()
        points = _points_of(read(entry.tensor_path), tuple(entry.tensor_shape))
        labels, header = _labels_of(read(entry.metadata_path)) if entry.metadata_path else (None, ())
        pictures = None
        if entry.sprite.image_path:
            pictures = _cut(decode_png(read(entry.sprite.image_path)), len(points), *entry.sprite.single_image_dim)
        return cls(
            tag if numbered else entry.tensor_name, int(step) if numbered else 0, points, labels, header, pictures
        )


def config(entries: Iterable[Any]) -> bytes:
    """The file that lists embeddings, of what their ``entry`` gave."""
    message = proto.ProjectorConfig(embeddings=entries)
    return text_format.MessageToString(message).encode()


def entries(data: bytes) -> list[Any]:
    """What the file that lists embeddings says of each: the other direction of ``config``.

    Raises:
        InvalidValueError: it is no such list.
    """
    try:
        return list(text_format.Parse(data, proto.ProjectorConfig()).embeddings)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidValueError(CONFIG, f"it is no list of embeddings ({error})", "write it anew") from None


def to_points(tag: str, array: np.ndarray) -> np.ndarray:
    """Any real array of shape [N, D] as float32[N, D].

    Raises:
        InvalidValueError: it is not a matrix of real numbers.
    """
    if array.ndim != 2 or not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
        raise InvalidValueError(
            f"embedding {tag!r} of shape {list(array.shape)} and {array.dtype}",
            "an embedding is a matrix of real numbers with a row for each point",
            "give an array of shape [points, dimensions], such as values.reshape(len(values), -1)",
        )
    if np.issubdtype(array.dtype, np.complexfloating):
        raise InvalidValueError(
            f"embedding {tag!r} of {array.dtype}", "its numbers are not real", "take .real or abs()"
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def to_labels(
    metadata: Iterable[Any], header: Sequence[Any] | None
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Labels and their header as rows and names of clean text: of one column, or of the header's where it has more.

    Tabs and line breaks become spaces; NumPy scalars and 0-d tensors become their numbers.

    Raises:
        InvalidValueError: with a header of several columns, a row is no list of columns.
    """
    names = tuple(_cell(name) for name in header or ())
    rows: list[tuple[str, ...]] = []
    for number, row in enumerate(metadata):
        if not names:
            rows.append((_cell(row),))
        elif isinstance(row, str) or not isinstance(row, Iterable):
            raise InvalidValueError(
                f"label {number} = {row!r:.80}", f"a row has the {len(names)} columns of the header", "give a list"
            )
        else:
            rows.append(tuple(_cell(cell) for cell in row))
    return tuple(rows), names


def _check_points(tag: str, points: np.ndarray) -> None:
    if 0 in points.shape:
        raise InvalidValueError(
            f"embedding {tag!r} of shape {list(points.shape)}", "it holds no number", "log it when there are points"
        )
    bad = np.count_nonzero(~np.isfinite(points))
    if bad:
        raise InvalidValueError(
            f"embedding {tag!r} with {bad} numbers that are not finite float32",
            "the page shows nothing of a point without a place",
            "leave those rows out",
        )


def _text(points: np.ndarray) -> bytes:
    """A line a point, tabs between its numbers."""
    table = io.BytesIO()
    np.savetxt(table, points, _NUMBER, "\t")
    return table.getvalue()


def _table(header: tuple[str, ...], labels: Iterable[tuple[str, ...]]) -> bytes:
    """Lines of cells with tabs between. The page takes a first line for a header only where it holds a tab."""
    lines = [header] if len(header) > 1 else []
    lines += [row if any(cell.strip() for cell in row) else (_EMPTY, *row[1:]) for row in labels]
    return "".join("\t".join(line) + "\n" for line in lines).encode("utf-8", "replace")


def _cell(value: Any) -> str:
    if not isinstance(value, str) and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    return _BREAKS.sub(" ", str(value))


def _points_of(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of a file of either form."""
    try:
        points = np.loadtxt(io.StringIO(data.decode()), np.float32, delimiter="\t", ndmin=2)
    except UnicodeDecodeError:
        points = np.frombuffer(data, "<f4").astype(np.float32)
    return points.reshape(shape) if shape else points


def _labels_of(data: bytes) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Rows of cells, and the header, which only several columns have."""
    rows = [tuple(line.split("\t")) for line in data.decode("utf-8", "replace").split("\n")[:-1]]
    header = rows.pop(0) if rows and len(rows[0]) > 1 else ()
    return tuple(rows), header


def _cut(sprite: np.ndarray, count: int, width: int, height: int) -> np.ndarray:
    """The small pictures of a large one, row by row."""
    rows, columns = sprite.shape[0] // height, sprite.shape[1] // width
    cells = sprite.reshape(rows, height, columns, width, -1).swapaxes(1, 2)
    return cells.reshape(rows * columns, height, width, -1)[:count]


def _columns(count: int) -> int:
    return math.isqrt(count - 1) + 1


def _sprite(pictures: np.ndarray) -> np.ndarray:
    """All pictures in one, row by row, as many rows as columns."""
    columns = _columns(len(pictures))
    spare = columns**2 - len(pictures)
    padded = np.concatenate([pictures, np.zeros((spare, *pictures.shape[1:]), np.uint8)])
    return grid(padded, columns, gap=0)
