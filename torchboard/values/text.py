"""Markdown over steps: the Text dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torchboard.values.value import TENSOR, metadata, string_tensor


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
    """A Markdown table of names and values under two headings; bars and line breaks in them do not break it."""
    cells = ((_cell(name), _cell(value)) for name, value in rows.items())
    return "\n".join(
        [f"| {header[0]} | {header[1]} |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in cells)]
    )


def code(text: str) -> str:
    """``text`` as a fenced block, shown letter by letter."""
    return f"```\n{text}\n```"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
