"""Markdown over steps: the Text dashboard."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torchboard.errors import InvalidValueError
from torchboard.values.value import metadata, string_tensor

TEXT_SUFFIX = "text_summary"
"""What PyTorch's writer adds to the tag of a text, after a slash: a text can so have the name of a curve."""

_SPECIAL = re.compile(r"[\\`*_\[\]|]")
"""What has a meaning in the cell of a Markdown table."""


@dataclass(frozen=True)
class Text:
    """One block of Markdown: tables and fenced code are drawn, raw HTML is shown as it is written.

    Attributes:
        markdown: the text, any Unicode.
        description: Markdown shown with the card.
    """

    markdown: str
    description: str = ""

    plugin: ClassVar[str] = "text"

    @property
    def nbytes(self) -> int:
        return len(self.markdown)

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as a rank-0 string tensor, UTF-8; a lone surrogate becomes a question mark."""
        message = event.summary.value.add(tag=tag)
        message.metadata.CopyFrom(metadata(self.plugin, description=self.description))
        message.tensor.CopyFrom(string_tensor([self.markdown.encode("utf-8", "replace")], ()))

    @classmethod
    def decode(cls, message: Any) -> Text | TextTable:
        """The text of a ``Summary.Value``, or the table where it has several cells."""
        cells = tuple(item.decode("utf-8", "replace") for item in message.tensor.string_val)
        shape = tuple(dim.size for dim in message.tensor.tensor_shape.dim)
        if len(cells) <= 1 and math.prod(shape) <= 1:
            return cls("".join(cells), message.metadata.summary_description)
        return TextTable(cells, shape or (len(cells),), message.metadata.summary_description)


@dataclass(frozen=True)
class TextTable:
    """Blocks of Markdown as the cells of a table: a column where it has one axis, rows of columns where it has two.

    Of one with more axes the dashboard draws the first table that lies along the last two, and says so.

    Attributes:
        cells: the texts, row by row.
        shape: the length of each axis.
        description: Markdown shown with the card.

    Raises:
        InvalidValueError: there is no cell, or they are not as many as the shape says.
    """

    cells: tuple[str, ...]
    shape: tuple[int, ...]
    description: str = ""

    plugin: ClassVar[str] = Text.plugin

    def __post_init__(self) -> None:
        if not self.cells or not self.shape or math.prod(self.shape) != len(self.cells):
            raise InvalidValueError(
                f"a table of shape {list(self.shape)} with {len(self.cells)} cells",
                "it has at least one axis, and a text in every cell",
                "leave it out where there is nothing to show",
            )

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.cells))

    @property
    def markdown(self) -> str:
        """The cells, one a line."""
        return "\n".join(self.cells)

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as a string tensor of its shape, UTF-8; a lone surrogate becomes a question mark."""
        message = event.summary.value.add(tag=tag)
        message.metadata.CopyFrom(metadata(self.plugin, description=self.description))
        message.tensor.CopyFrom(string_tensor((cell.encode("utf-8", "replace") for cell in self.cells), self.shape))


def to_text(tag: str, texts: Any) -> Text | TextTable:
    """A text, or a table of texts in nested lists or an array.

    Raises:
        InvalidValueError: there is something else in it, there is nothing, or the rows differ in length.
    """
    if isinstance(texts, str):
        return Text(str(texts))
    cells, shape = _flat(texts)
    if shape is None or not all(isinstance(cell, str) for cell in cells):
        came = f"text {tag!r} = {type(texts).__name__} {texts!r:.80}"
        raise InvalidValueError(came, "it is neither a text nor a table of texts", "give str(…) of it, or of each cell")
    return TextTable(tuple(map(str, cells)), shape) if shape else Text(str(cells[0]))


def _flat(texts: Any) -> tuple[list[Any], tuple[int, ...] | None]:
    """What nested sequences hold, row by row, and the lengths of their axes; None where these differ."""
    if getattr(texts, "shape", None) == () and hasattr(texts, "item"):
        return [texts.item()], ()
    if not isinstance(texts, (list, tuple)) and not hasattr(texts, "tolist"):
        return [texts], ()
    parts = [_flat(part) for part in texts]
    shapes = {shape for _, shape in parts}
    if len(shapes) != 1 or None in shapes:
        return [], None
    return [cell for cells, _ in parts for cell in cells], (len(parts), *shapes.pop())  # type: ignore[misc]


def table(header: tuple[str, str], rows: Mapping[str, object]) -> str:
    """A Markdown table of names and values under two headings, which are shown as they are, letter by letter."""
    return wide_table(header, rows.items())


def wide_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with any number of columns, whose cells are shown as they are, letter by letter."""
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """``text`` as a fenced block, shown letter by letter."""
    return f"```\n{text}\n```"


def _cell(value: object) -> str:
    """A value's text so that Markdown shows it letter by letter, on one line."""
    text = html.escape(" ".join(str(value).split("\n")), quote=False)
    return _SPECIAL.sub(r"\\\g<0>", text)
