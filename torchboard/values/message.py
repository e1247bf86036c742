"""Values that somebody else made, as messages of TensorBoard's own: they are written as they came, to the byte.

So a plugin that torchboard knows nothing of can still be logged to, and code that builds ``Summary`` messages by hand goes
on working.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.graph import RUN_GRAPH_TAG, OpGraph
from torchboard.values.scalar import Scalar
from torchboard.values.value import Value

_PLUGINS = {"simple_value": "scalars", "histo": "histograms", "image": "images", "audio": "audio"}
"""Plugin of the older forms, which need not name it."""


@dataclass(frozen=True)
class SummaryMessage:
    """One ``Summary.Value``.

    Attributes:
        data: the message, serialized; its tag is the one it is written under.
        plugin: the plugin that it is for.
    """

    data: bytes
    plugin: str

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as it is."""
        event.summary.value.add().MergeFromString(self.data)


@dataclass(frozen=True)
class EventMessage:
    """A graph, or what is known of a run of it: one of the things that take the whole of an event.

    Attributes:
        data: an ``Event`` that holds nothing else, serialized.
        plugin: the plugin that it is for.
    """

    data: bytes
    plugin: str

    own_event: ClassVar[bool] = True

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as it is; the file has no place for ``tag``."""
        event.MergeFromString(self.data)


def values_of(event: Any) -> tuple[tuple[str, Value], ...]:
    """The tags and values of a ``proto.Event``: of its summary, or its graph or tagged run metadata.

    Raises:
        InvalidValueError: it holds something else.
    """
    kind = event.WhichOneof("what")
    if kind == "summary":
        return tuple((value.tag, _of_summary(value)) for value in event.summary.value)
    if kind == "graph_def":
        return ((RUN_GRAPH_TAG, EventMessage(_alone(event), OpGraph.plugin)),)
    if kind == "tagged_run_metadata":
        tag = event.tagged_run_metadata.tag
        return ((tag, EventMessage(_alone(event), "graph_tagged_run_metadata")),)
    raise InvalidValueError(
        f"an event with {kind or 'nothing'}",
        "only summaries, graphs and tagged run metadata are written for others",
        "leave it out: the writer itself says where a file or a session begins",
    )


def _of_summary(value: Any) -> Value:
    form, plugin = value.WhichOneof("value"), value.metadata.plugin_data.plugin_name
    if form == "simple_value" and not value.HasField("metadata"):
        return Scalar(value.simple_value)
    return SummaryMessage(value.SerializeToString(), plugin or _PLUGINS.get(form, ""))


def _alone(event: Any) -> bytes:
    """The event without its step and time, in place of which come those of the call."""
    alone = proto.Event()
    alone.CopyFrom(event)
    alone.ClearField("step")
    alone.ClearField("wall_time")
    return alone.SerializeToString()
