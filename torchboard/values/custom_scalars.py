"""Charts of several curves, put together by the user: the Custom Scalars dashboard.

A layout holds no curve: it names the tags of scalars, and TensorBoard draws them for every run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.value import metadata, string_tensor

LAYOUT_TAG = "custom_scalars__config__"
"""The one tag that TensorBoard reads a layout from."""


@dataclass(frozen=True)
class MultilineChart:
    """Curves in one chart.

    Attributes:
        title: the heading of the chart.
        tags: regular expressions; a curve is drawn where one matches from the beginning of its tag.
    """

    title: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class MarginChart:
    """Curves with a band around each.

    Attributes:
        title: the heading of the chart.
        series: the tags of a value, its lower and its upper limit, exactly as logged.
    """

    title: str
    series: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Category:
    """A group of charts under one heading.

    Attributes:
        title: the heading.
        charts: in the order shown.
        closed: whether it is folded at first.
    """

    title: str
    charts: tuple[MultilineChart | MarginChart, ...]
    closed: bool = False


@dataclass(frozen=True)
class Layout:
    """The whole dashboard, written under ``LAYOUT_TAG``. TensorBoard shows the last one of a run.

    Attributes:
        categories: in the order shown.
    """

    categories: tuple[Category, ...]

    plugin: ClassVar[str] = "custom_scalars"
    nbytes: ClassVar[int] = 1000

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as a rank-0 string tensor that holds a ``proto.Layout``."""
        layout = proto.Layout()
        for category in self.categories:
            group = layout.category.add(title=category.title, closed=category.closed)
            for chart in category.charts:
                _encode_chart(chart, group.chart.add(title=chart.title))
        message = event.summary.value.add(tag=tag)
        message.metadata.CopyFrom(metadata(self.plugin))
        message.tensor.CopyFrom(string_tensor([layout.SerializeToString()], ()))

    @classmethod
    def decode(cls, message: Any) -> Layout:
        """The layout of a ``Summary.Value``."""
        layout = proto.Layout.FromString(message.tensor.string_val[0])
        return cls(
            tuple(
                Category(group.title, tuple(_decode_chart(chart) for chart in group.chart), group.closed)
                for group in layout.category
            )
        )

    @classmethod
    def from_mapping(cls, layout: Mapping[str, Mapping[str, Any]]) -> Layout:
        """A layout as ``{category: {chart: [kind, tags]}}``, where kind is ``"Multiline"`` or ``"Margin"``.

        A margin has three tags: those of the value, its lower and its upper limit.

        Raises:
            InvalidValueError: it is built otherwise, or a tag of a multiline chart is no regular expression.
        """
        return cls(
            tuple(
                Category(
                    _text("category", title),
                    tuple(_chart(_text("chart", name), chart) for name, chart in _items(f"category {title!r}", charts)),
                )
                for title, charts in _items("layout", layout)
            )
        )

    def merged(self, later: Layout) -> Layout:
        """Both in one: a later chart takes the place of one with its title in its category, or comes after the others."""
        groups = {group.title: group for group in self.categories}
        for group in later.categories:
            known = groups[group.title].charts if group.title in groups else ()
            charts = {chart.title: chart for chart in (*known, *group.charts)}
            groups[group.title] = Category(group.title, tuple(charts.values()), group.closed)
        return Layout(tuple(groups.values()))


def _encode_chart(chart: MultilineChart | MarginChart, message: Any) -> None:
    if isinstance(chart, MultilineChart):
        message.multiline.tag.extend(chart.tags)
        message.multiline.SetInParent()
        return
    message.margin.SetInParent()
    for value, lower, upper in chart.series:
        message.margin.series.add(value=value, lower=lower, upper=upper)


def _decode_chart(message: Any) -> MultilineChart | MarginChart:
    if message.WhichOneof("content") == "margin":
        return MarginChart(message.title, tuple((one.value, one.lower, one.upper) for one in message.margin.series))
    return MultilineChart(message.title, tuple(message.multiline.tag))


def _items(name: str, mapping: Any) -> Iterable[tuple[Any, Any]]:
    if not isinstance(mapping, Mapping):
        raise InvalidValueError(
            f"{name} = {mapping!r:.80}",
            "a layout is a dict of categories, and a category a dict of charts",
            "give {'losses': {'all': ['Multiline', ['loss/.*']]}}, say",
        )
    return mapping.items()


def _chart(title: str, chart: Any) -> MultilineChart | MarginChart:
    kind, tags = chart if isinstance(chart, (list, tuple)) and len(chart) == 2 else (None, None)
    if kind not in ("Multiline", "Margin") or not isinstance(tags, (list, tuple)):
        raise InvalidValueError(
            f"chart {title!r} = {chart!r:.80}",
            "a chart is its kind, 'Multiline' or 'Margin', and a list of tags",
            "give ['Multiline', ['loss/train', 'loss/validation']], say",
        )
    tags = tuple(_text(f"a tag of chart {title!r}", tag) for tag in tags)
    if kind == "Multiline":
        return MultilineChart(title, tuple(_pattern(title, tag) for tag in tags))
    if len(tags) != 3:
        raise InvalidValueError(
            f"chart {title!r} with {len(tags)} tags",
            "a margin has three: the value, its lower and its upper limit",
            "give ['Margin', ['mean', 'low', 'high']], say",
        )
    return MarginChart(title, (tags,))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidValueError(f"{name} = {value!r}", "it is a text of at least one letter", "give a str")
    return value


def _pattern(title: str, tag: str) -> str:
    try:
        re.compile(tag)
    except re.error as error:
        raise InvalidValueError(
            f"chart {title!r} with tag {tag!r}",
            f"tags of a multiline chart are regular expressions, and this is none ({error})",
            "use re.escape(tag) to mean it letter by letter",
        ) from None
    return tag
