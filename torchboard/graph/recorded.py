"""The graph of one pass with all that is shown of it, and how to get one without training.

``record`` makes one quiet forward pass of its own: evaluation mode, no gradients, nothing left behind in the model.
A ``RecordedGraph`` holds no tensor and no module; it can be printed, looked at and written by any writer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from torchboard.errors import InvalidValueError
from torchboard.graph.collapse import drawable
from torchboard.graph.conceptual import conceptual_graph
from torchboard.graph.layer_costs import LayerCosts, layer_costs
from torchboard.graph.nodes import Graph
from torchboard.graph.observed import GraphRecorder
from torchboard.graph.op_graph import graph_profile, op_graph
from torchboard.graph.quiet_pass import quiet_pass
from torchboard.graph.spans import PATIENCE, known
from torchboard.values import ConceptualGraph, GraphProfile, OpGraph, ProfiledGraph, Text, Value
from torchboard.values.graph import RUN_GRAPH_TAG

LAYERS_TAG = "model"
PROFILE_TAG = "step1"
"""The tag under which PyTorch's writer, too, has a profile."""
STEP_TAG = "train_step"
TABLE_TAG = "run/layers"


@dataclass(frozen=True)
class RecordedGraph:
    """What one forward pass did and what it cost. Printed, it is the table of its layers.

    It is a ``Pending``: written to a run it gives the graph of operations with compute time and memory, the graph of
    layers, and the table as a text.

    Attributes:
        operations: every operation that ran, with what it read, gave and cost.
        layers: the modules and the data between them; None where there is nothing that could be drawn.
        costs: what each layer cost.
    """

    operations: Graph
    layers: ConceptualGraph | None
    costs: LayerCosts

    @classmethod
    def of(cls, model: nn.Module, graph: Graph) -> RecordedGraph:
        """What a recording of ``model`` shows."""
        try:
            layers = conceptual_graph(model, graph)
        except InvalidValueError:
            layers = None
        return cls(graph, layers, layer_costs(model, graph))

    def __str__(self) -> str:
        return self.costs.markdown()

    @property
    def nbytes(self) -> int:
        return 300 * len(self.operations.nodes)

    @property
    def plugins(self) -> dict[str, str]:
        drawn = {RUN_GRAPH_TAG: OpGraph.plugin, PROFILE_TAG: GraphProfile.plugin} if self.operations.nodes else {}
        layers = {} if self.layers is None else {LAYERS_TAG: ConceptualGraph.plugin}
        return {**drawn, **layers, TABLE_TAG: Text.plugin}

    def settle(self) -> Iterable[tuple[str, Value]]:
        """The values to write; a graph too large to draw is collapsed to its modules."""
        if self.operations.nodes:
            graph = drawable(self.operations)
            yield RUN_GRAPH_TAG, op_graph(graph)
            yield PROFILE_TAG, graph_profile(graph)
        if self.layers is not None:
            yield LAYERS_TAG, self.layers
        yield TABLE_TAG, Text(self.costs.markdown())


@dataclass(frozen=True)
class RecordedStep:
    """What one training step did and what it cost: a ``Pending``, written as a graph under a tag of its own."""

    operations: Graph

    @property
    def nbytes(self) -> int:
        return 300 * len(self.operations.nodes)

    @property
    def plugins(self) -> dict[str, str]:
        return {STEP_TAG: ProfiledGraph.plugin}

    def settle(self) -> Iterable[tuple[str, Value]]:
        """The value to write; a graph too large to draw is collapsed to its modules."""
        graph = drawable(self.operations)
        yield STEP_TAG, ProfiledGraph(op_graph(graph), graph_profile(graph))


def record(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RecordedGraph:
    """The graph of ``model(*args, **kwargs)`` in evaluation mode; the model is left as it was.

    Of a model on a GPU it returns when the pass has run there, so that it has the times of its operators.

    Raises:
        InvalidValueError: ``model`` is not a module, or cannot be recorded.
        Exception: what the model itself raises; ``recording`` gives what ran before that.
    """
    recorded, error = recording(model, args, kwargs)
    if error is not None:
        raise error
    assert recorded is not None
    return recorded


def recording(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[RecordedGraph | None, Exception | None]:
    """As ``record``, but an error comes beside what ran before it, None where nothing did."""
    if not isinstance(model, nn.Module):
        return None, InvalidValueError(
            f"model of type {type(model).__name__}", "a graph is a module's", "give a torch.nn.Module"
        )
    recorder, error = GraphRecorder(model), None
    recorder.attach()
    try:
        quiet_pass(model, args, kwargs)
    except Exception as raised:
        error = raised
    finally:
        recorder.detach()
    graph = recorder.graph or recorder.partial
    if graph is None:
        return None, error or InvalidValueError(
            f"model {type(model).__name__}", f"its pass cannot be recorded ({recorder.error})", "leave the graph out"
        )
    known(graph.spans, PATIENCE)
    return RecordedGraph.of(model, graph), error


def recording_for_writer(model: Any, inputs: Any) -> tuple[RecordedGraph | None, Exception | None]:
    """As ``recording``, of inputs as writers take them: a tensor, a tuple of positional arguments, or a dict of keyword
    arguments. A ``RecordedGraph`` in place of the model comes back as it is.
    """
    if isinstance(model, RecordedGraph):
        return model, None
    if isinstance(inputs, dict):
        return recording(model, (), inputs)
    return recording(model, tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {})
