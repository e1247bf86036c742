"""Markdown over steps: the Text dashboard."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torchboard.values.value import TENSOR, metadata, string_tensor

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
        message.metadata.CopyFrom(metadata(self.plugin, TENSOR, description=self.description))
        message.tensor.CopyFrom(string_tensor([self.markdown.encode("utf-8", "replace")], ()))

    @classmethod
    def decode(cls, message: Any) -> Text:
        """The text of a ``Summary.Value``; the cells of a table, one a line."""
        lines = (item.decode("utf-8", "replace") for item in message.tensor.string_val)
        return cls("\n".join(lines), message.metadata.summary_description)


def table(header: tuple[str, str], rows: Mapping[str, object]) -> str:
    """A Markdown table of names and values under two headings, which are shown as they are, letter by letter."""
    cells = ((_cell(name), _cell(value)) for name, value in rows.items())
    return "\n".join(
        [f"| {header[0]} | {header[1]} |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in cells)]
    )


def code(text: str) -> str:
    """``text`` as a fenced block, shown letter by letter."""
    return f"```\n{text}\n```"


def _cell(value: object) -> str:
    """A value's text so that Markdown shows it letter by letter, on one line."""
    text = html.escape(" ".join(str(value).split("\n")), quote=False)
    return _SPECIAL.sub(r"\\\g<0>", text)
