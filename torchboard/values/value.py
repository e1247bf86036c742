"""What a value is, and the event that carries it: the frozen data that cross every wall of the house.

A **Value** is one datum of one plugin. It knows its own wire form, in both directions: ``encode`` adds it to an event
message, ``decode`` reads it back. A **Pending** is a promise of values that are still on their way from a device; whoever
writes an event settles it first, away from the training thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torchboard import proto

UNKNOWN = proto.DataClass["DATA_CLASS_UNKNOWN"].number
SCALAR = proto.DataClass["DATA_CLASS_SCALAR"].number
TENSOR = proto.DataClass["DATA_CLASS_TENSOR"].number
BLOB_SEQUENCE = proto.DataClass["DATA_CLASS_BLOB_SEQUENCE"].number


class Value(Protocol):
    """One datum of one TensorBoard plugin."""

    plugin: ClassVar[str]
    """The plugin that shows it; one tag of a run belongs to one plugin."""

    @property
    def nbytes(self) -> int:
        """About how much memory it holds while it waits in a queue."""

    def encode(self, tag: str, event: Any) -> None:
        """Adds itself under ``tag`` to a ``proto.Event``."""


class Pending(Protocol):
    """Values on their way from a device to the host."""

    @property
    def nbytes(self) -> int:
        """About how much host memory it holds while it waits in a queue."""

    @property
    def plugins(self) -> dict[str, str]:
        """Tag -> plugin of every value that ``settle`` may give."""

    def settle(self) -> Iterable[tuple[str, Value]]:
        """Waits for the copy to arrive and gives what it holds. Called once, off the training thread."""


@dataclass(frozen=True)
class Event:
    """All that one call logs: for one run, at one step.

    Attributes:
        step: where it lies on the horizontal axis.
        wall_time: seconds since the epoch, finite.
        pairs: ``(tag, value)`` in the order logged.
        run: the run's directory relative to the sink's root; empty for the root itself.
        pending: values still on their way from a device; empty once ``settled``.
        droppable: whether a full queue may drop it (pictures and snapshots) or must wait for room (scalars and text).
    """

    step: int
    wall_time: float
    pairs: tuple[tuple[str, Value], ...] = ()
    run: str = ""
    pending: tuple[Pending, ...] = ()
    droppable: bool = field(default=False, compare=False)

    @property
    def nbytes(self) -> int:
        """About how much memory it holds while it waits in a queue."""
        return 200 + sum(64 + value.nbytes for _, value in self.pairs) + sum(item.nbytes for item in self.pending)

    def settled(self) -> Event:
        """The same event with every pending value in its place, behind the pairs it has."""
        if not self.pending:
            return self
        arrived = tuple(pair for item in self.pending for pair in item.settle())
        return Event(self.step, self.wall_time, self.pairs + arrived, self.run, (), self.droppable)


def metadata(plugin: str, data_class: int = UNKNOWN, content: bytes = b"", description: str = "") -> Any:
    """The ``SummaryMetadata`` that every summary value of ours carries, first of its tag or not.

    TensorBoard's default loader takes it from the first record of a tag only, and a tag whose first record lacks it is lost.
    Both loaders know the class of data of TensorBoard's own plugins; leaving it out saves two bytes a value.
    """
    message = proto.SummaryMetadata(summary_description=description, data_class=data_class)
    message.plugin_data.plugin_name = plugin
    message.plugin_data.content = content
    return message


def string_tensor(items: Iterable[bytes], shape: tuple[int, ...]) -> Any:
    """A ``TensorProto`` of byte strings. Blob plugins want rank 1 with the shape spelled out."""
    message = proto.TensorProto(dtype=proto.DataType["DT_STRING"].number, string_val=items)
    message.tensor_shape.SetInParent()
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    return message
