"""The model's graphs, from passes and a step that really ran, on their way to the log."""

from __future__ import annotations

from torch import nn

from torchboard.capture.models import Models, models_in
from torchboard.errors import InvalidValueError
from torchboard.graph.eager import compiled_modules
from torchboard.graph.joined import joined
from torchboard.graph.layer_costs import LayerCosts, layer_costs
from torchboard.graph.nodes import Graph
from torchboard.graph.observed import GraphRecorder
from torchboard.graph.observed_step import StepRecorder
from torchboard.graph.recorded import RecordedGraph, RecordedStep
from torchboard.graph.spans import PATIENCE, known


def check_write_graph(value: object) -> None:
    """Refuses what is no choice of graphs.

    Raises:
        InvalidValueError: it is neither a truth value nor ``"step"``.
    """
    if not isinstance(value, bool) and value != "step":
        raise InvalidValueError(
            f"write_graph={value!r}", "there is no such graph", "give True, False, or 'step' for the backward pass too"
        )


class FirstPassGraph:
    """Records the first forward pass that the user's code makes, once; then nothing of it is left on the model.

    Of several models it records the first pass of each, and gives a graph of those that have run so far.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._recorders = {key: GraphRecorder(part) for key, part in models_in(model).items()}
        self._recorded: set[str] = set()
        self._graphs: dict[str, Graph] = {}
        self._costs: LayerCosts | None = None
        self._has_news = False
        self.listen(True)

    @property
    def error(self) -> BaseException | None:
        """What went wrong in a recorder, if anything did."""
        return next((recorder.error for recorder in self._recorders.values() if recorder.error is not None), None)

    @property
    def waits(self) -> bool:
        """Whether there is a pass to be recorded still, and hooks sit on the model for it."""
        return bool(self.awaited)

    @property
    def awaited(self) -> list[str]:
        """The keys of the models of which a pass is to be recorded still."""
        return [key for key, recorder in self._recorders.items() if recorder.waits]

    @property
    def costs(self) -> LayerCosts:
        """What the layers cost in the recorded pass; before that, their parameters alone."""
        if self._take(last=False):
            self._costs = layer_costs(self._model, self._graph())
        if self._costs is None:
            return layer_costs(self._model, None)
        known(span for layer in self._costs.layers for span in layer.spans)
        return self._costs

    def listen(self, on: bool, eagerly: bool = True) -> None:
        """Whether the next pass may be recorded; it never is twice. That of a compiled model only where it runs ``eagerly``."""
        parts = models_in(self._model)
        for key, recorder in self._recorders.items():
            if not on or not eagerly and compiled_modules(parts[key]):
                recorder.detach()
            elif key not in self._recorded and recorder.graph is None and recorder.error is None:
                recorder.attach()

    def collect(self, last: bool = False) -> RecordedGraph | None:
        """The graph, once, if a pass was recorded and devices have told their times, which they do later.

        With ``last``, what ran of a pass that raised will do, and times that are not there in some seconds are left out.
        """
        self._take(last)
        if not self._has_news:
            return None
        graph = self._graph()
        if not _is_timed(graph, last):
            return None
        recorded = RecordedGraph.of(self._model, graph)
        self._costs, self._has_news = recorded.costs, False
        if len(self._recorded) == len(self._recorders):
            self._graphs.clear()
        return recorded

    def _take(self, last: bool) -> bool:
        """Takes over what was recorded since the last time; whether that was anything."""
        found = False
        for key, recorder in self._recorders.items():
            graph = recorder.graph or (recorder.partial if last else None)
            if graph is not None:
                self._graphs[key], found = graph, True
                self._recorded.add(key)
                recorder.graph = recorder.partial = None
        self._has_news = self._has_news or found
        return found

    def _graph(self) -> Graph:
        return joined(self._model, self._graphs) if isinstance(self._model, Models) else self._graphs[""]


def _is_timed(graph: Graph, last: bool) -> bool:
    """Whether devices have told the times of a graph; ``last`` waits for them some seconds, and goes without them then."""
    return known(graph.spans, PATIENCE if last else 0) or last


class StepGraph:
    """Records one training step, with its backward pass and optimizers, once: the second, when the first passes are seen."""

    def __init__(self, model: nn.Module) -> None:
        self._recorder = StepRecorder(model)
        self._is_first_step = True
        self._is_done = False

    @property
    def error(self) -> BaseException | None:
        """What went wrong in the recorder, if anything did."""
        return self._recorder.error

    @property
    def waits(self) -> bool:
        """Whether the step that runs is to be recorded."""
        return self._recorder.waits

    def listen(self, on: bool) -> None:
        """Whether passes belong to training."""
        if not on:
            self._recorder.detach()
        elif not self._is_first_step and not self._is_done and self.error is None:
            self._recorder.attach()

    def end_step(self) -> None:
        """A training step has ended."""
        self._recorder.end()
        self._is_done = self._is_done or self._recorder.graph is not None
        self._is_first_step = False
        self.listen(True)

    def collect(self, last: bool = False) -> RecordedStep | None:
        """The graph, once, if a step was recorded; with ``last`` and for device times as of a first pass."""
        graph = self._recorder.graph
        if graph is not None and _is_timed(graph, last):
            self._recorder.graph = None
        else:
            graph = None
        if self._is_done or self.error is not None:
            self._recorder.close()
        return None if graph is None else RecordedStep(graph)

    def close(self) -> None:
        """Takes every hook away."""
        self._recorder.close()
