"""A graph with what it cost, under a tag: for a run that has more than one, beside the run's own ``OpGraph``.

The Graphs dashboard lists the tag twice, as an op graph and as its profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torchboard import proto
from torchboard.values.graph import OpGraph
from torchboard.values.graph_profile import GraphProfile
from torchboard.values.value import BLOB_SEQUENCE, metadata, string_tensor


@dataclass(frozen=True)
class ProfiledGraph:
    """The operations of something that ran, and what they cost.

    Attributes:
        graph: what ran.
        profile: its costs, by the names in ``graph``.
    """

    graph: OpGraph
    profile: GraphProfile

    plugin: ClassVar[str] = "graph_run_metadata"

    @property
    def nbytes(self) -> int:
        return self.graph.nbytes + self.profile.nbytes

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as a serialized ``RunMetadata`` in a string tensor ``[1]``; the graph is that of its only function."""
        content = proto.RunMetadata()
        self.profile.fill(content)
        self.graph.fill(content.function_graphs.add().pre_optimization_graph)
        message = event.summary.value.add(tag=tag)
        message.metadata.CopyFrom(metadata(self.plugin, BLOB_SEQUENCE, b"1"))
        message.tensor.CopyFrom(string_tensor([content.SerializeToString(deterministic=True)], (1,)))

    @classmethod
    def decode(cls, message: Any) -> ProfiledGraph:
        """The graph and costs of a ``Summary.Value``; of several functions the first."""
        content = proto.RunMetadata.FromString(message.tensor.string_val[0])
        graphs = [functions.pre_optimization_graph for functions in content.function_graphs]
        return cls(OpGraph.of(graphs[0]) if graphs else OpGraph(()), GraphProfile.of(content))
