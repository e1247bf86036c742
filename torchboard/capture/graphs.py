"""The model's graph in a phase, from a pass that really ran, on its way to the log."""

from __future__ import annotations

from torch import nn

from torchboard.graph.layer_costs import LayerCosts, layer_costs
from torchboard.graph.observed import GraphRecorder
from torchboard.graph.recorded import RecordedGraph


class FirstPassGraph:
    """Records the first forward pass that the user's code makes, once; then nothing of it is left on the model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._recorder = GraphRecorder(model)
        self._costs: LayerCosts | None = None
        self.listen(True)

    @property
    def error(self) -> BaseException | None:
        """What went wrong in the recorder, if anything did."""
        return self._recorder.error

    @property
    def costs(self) -> LayerCosts:
        """What the layers cost in the recorded pass; before that, their parameters alone."""
        if self._costs is None:
            graph = self._recorder.graph
            if graph is None:
                return layer_costs(self._model, None)
            self._costs = layer_costs(self._model, graph)
        return self._costs

    def listen(self, on: bool) -> None:
        """Whether the next pass may be recorded; it never is twice."""
        if not on:
            self._recorder.detach()
        elif self._costs is None and self._recorder.graph is None and self._recorder.error is None:
            self._recorder.attach()

    def collect(self, last: bool = False) -> RecordedGraph | None:
        """The graph, once, if a pass was recorded; with ``last``, what ran of one that raised will do."""
        graph = self._recorder.graph or (self._recorder.partial if last else None)
        if graph is None:
            return None
        recorded = RecordedGraph.of(self._model, graph)
        self._costs = recorded.costs
        self._recorder.graph = self._recorder.partial = None
        return recorded
