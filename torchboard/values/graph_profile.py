"""What one run of a graph cost: the colours "compute time" and "memory" of the Graphs dashboard.

A ``GraphProfile`` lies beside a run's ``OpGraph``, under a tag, in an event of its own, and is found by the names of the
nodes. TensorBoard takes the time of a box as the span from the first start to the last end inside it and its memory as
the sum. Microseconds are whole there; a node that took less than one counts as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torchboard import proto


@dataclass(frozen=True)
class NodeStats:
    """What one node cost.

    Attributes:
        name: the node's, in the graph.
        device: where it ran, such as ``/device:CPU:0``; TensorBoard leaves a node out whose device has another form.
        start: when it began, in microseconds since the first node did.
        duration: how long it took, in microseconds; 0 if nobody knows.
        nbytes: the memory that it took.
    """

    name: str
    device: str
    start: int = 0
    duration: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class GraphProfile:
    """What the nodes of a run's graph cost in one run of it."""

    nodes: tuple[NodeStats, ...]

    plugin: ClassVar[str] = "graph_tagged_run_metadata"
    own_event: ClassVar[bool] = True

    @property
    def nbytes(self) -> int:
        return sum(40 + len(node.name) for node in self.nodes)

    def encode(self, tag: str, event: Any) -> None:
        """Makes it the event's tagged run metadata."""
        message = proto.RunMetadata()
        self.fill(message)
        event.tagged_run_metadata.tag = tag
        event.tagged_run_metadata.run_metadata = message.SerializeToString(deterministic=True)

    def fill(self, message: Any) -> None:
        """Writes it into a ``RunMetadata`` message. Starts count from 1: a 0 would make the times of all boxes NaN."""
        devices: dict[str, Any] = {}
        for node in self.nodes:
            if node.device not in devices:
                devices[node.device] = message.step_stats.dev_stats.add(device=node.device)
            stats = devices[node.device].node_stats.add(
                node_name=node.name, all_start_micros=node.start + 1, all_end_rel_micros=node.duration
            )
            if node.nbytes:
                stats.memory.add(total_bytes=node.nbytes)

    @classmethod
    def decode(cls, run_metadata: bytes) -> GraphProfile:
        """The costs in a serialized ``RunMetadata``, device by device."""
        return cls.of(proto.RunMetadata.FromString(run_metadata))

    @classmethod
    def of(cls, message: Any) -> GraphProfile:
        """The costs in a ``RunMetadata`` message, device by device."""
        return cls(
            tuple(
                NodeStats(
                    stats.node_name,
                    device.device,
                    max(0, stats.all_start_micros - 1),
                    max(0, stats.all_end_rel_micros),
                    sum(memory.total_bytes for memory in stats.memory),
                )
                for device in message.step_stats.dev_stats
                for stats in device.node_stats
            )
        )
