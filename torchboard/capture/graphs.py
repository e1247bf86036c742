"""The model's graph, from a pass that really ran, on its way to the log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from torchboard.capture.probe import quiet_pass
from torchboard.errors import InvalidValueError
from torchboard.graph.conceptual import conceptual_graph
from torchboard.graph.nodes import Graph
from torchboard.graph.observed import GraphRecorder
from torchboard.graph.op_graph import op_graph
from torchboard.values import ConceptualGraph, OpGraph, Value
from torchboard.values.graph import RUN_GRAPH_TAG

LAYERS_TAG = "model"


@dataclass(frozen=True)
class GraphSnapshot:
    """A ``Pending`` that gives the graph of operations and the graph of layers."""

    graph: Graph
    layers: ConceptualGraph

    @property
    def nbytes(self) -> int:
        return 200 * len(self.graph.nodes)

    @property
    def plugins(self) -> dict[str, str]:
        return {RUN_GRAPH_TAG: OpGraph.plugin, LAYERS_TAG: ConceptualGraph.plugin}

    def settle(self) -> Iterable[tuple[str, Value]]:
        yield RUN_GRAPH_TAG, op_graph(self.graph)
        yield LAYERS_TAG, self.layers


class FirstPassGraph:
    """Records the first forward pass that the user's code makes, once; then nothing of it is left on the model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._recorder = GraphRecorder(model)
        self._recorder.attach()

    @property
    def error(self) -> BaseException | None:
        """What went wrong in the recorder, if anything did."""
        return self._recorder.error

    def collect(self) -> GraphSnapshot | None:
        """The graph, if a pass was recorded."""
        graph = self._recorder.graph
        return None if graph is None else GraphSnapshot(graph, conceptual_graph(self._model, graph))

    def close(self) -> None:
        """Takes the hooks away, if no pass came."""
        self._recorder.detach()


def graph_of(model: nn.Module, inputs: Any) -> GraphSnapshot:
    """The graph of one forward pass in evaluation mode; the model is left as it was.

    Args:
        inputs: a tensor, a tuple of positional arguments or a dict of keyword arguments.

    Raises:
        InvalidValueError: ``model`` is not a module, or cannot be recorded.
    """
    if not isinstance(model, nn.Module):
        raise InvalidValueError(
            f"model of type {type(model).__name__}", "a graph is a module's", "give a torch.nn.Module"
        )
    args, kwargs = (
        ((), inputs)
        if isinstance(inputs, dict)
        else (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {})
    )
    recorder = GraphRecorder(model)
    recorder.attach()
    try:
        quiet_pass(model, args, kwargs)
    finally:
        recorder.detach()
    if recorder.graph is None:
        raise InvalidValueError(
            f"model {type(model).__name__}", f"its pass cannot be recorded ({recorder.error})", "leave the graph out"
        )
    return GraphSnapshot(recorder.graph, conceptual_graph(model, recorder.graph))
