"""The model's graphs, from passes and a step that really ran, on their way to the log."""

from __future__ import annotations

from collections import Counter

from torch import nn

from torchboard.capture.models import Models, models_in
from torchboard.errors import InvalidValueError
from torchboard.graph.eager import compiled_modules
from torchboard.graph.joined import joined
from torchboard.graph.layer_costs import LayerCosts, layer_costs
from torchboard.graph.module_names import class_name, unwrapped
from torchboard.graph.nodes import Graph
from torchboard.graph.observed import GraphRecorder
from torchboard.graph.observed_step import StepRecorder
from torchboard.graph.recorded import RecordedGraph, RecordedStep
from torchboard.graph.spans import PATIENCE, known

_PATIENCE = 8
"""Captured steps in which a model has to be called."""


def check_write_graph(value: object) -> None:
    """Refuses what is no choice of graphs.

    Raises:
        InvalidValueError: it is neither a truth value nor ``"step"``.
    """
    if not isinstance(value, bool) and not (isinstance(value, str) and value == "step"):
        raise InvalidValueError(
            f"write_graph={value!r:.80}",
            "there is no such graph",
            "give True, False, or 'step' for the backward pass too",
        )


class FirstPassGraph:
    """Records the first forward pass that the user's code makes, once; then nothing of it is left on the model.

    Of several models it records the first pass of each, and gives a graph of those that have run so far.
    """

    def __init__(self, model: nn.Module, of_training: bool = False) -> None:
        self._model = model
        self._recorders = {key: GraphRecorder(part, of_training) for key, part in models_in(model).items()}
        self._recorded: set[str] = set()
        self._bypassed: Exception | None = None
        self._turns: Counter[str] = Counter()
        self._graphs: dict[str, Graph] = {}
        self._costs: LayerCosts | None = None
        self._has_news = False
        self.listen(True)

    @property
    def error(self) -> BaseException | None:
        """What went wrong in a recorder, if anything did."""
        errors = (recorder.error for recorder in self._recorders.values())
        return next((error for error in errors if error is not None), self._bypassed)

    @property
    def waits(self) -> bool:
        """Whether there is a pass to be recorded still, and hooks sit on the model for it."""
        return bool(self.awaited)

    @property
    def is_pending(self) -> bool:
        """Whether there is a pass to be recorded still, whether hooks sit on the model for it or not."""
        return any(map(self._is_pending, self._recorders))

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
        """Whether the next pass may be recorded; it never is twice.

        That of a compiled model may be only where it runs ``eagerly``, and so may that of a model of which layers have been
        called by themselves: where nothing but they ever is, steps that are not captured must be free of hooks.
        """
        parts = models_in(self._model)
        for key, recorder in self._recorders.items():
            if not on or not eagerly and (recorder.is_bypassed or compiled_modules(parts[key])):
                recorder.detach()
            elif self._is_pending(key):
                recorder.attach()

    def listen_on(self, on: bool, eagerly: bool) -> None:
        """As ``listen``, in a step of training behind the first. Some captured ones without a pass are enough to give it up."""
        for key, part in models_in(self._model).items():
            self._turns[key] += eagerly and self._recorders[key].is_bypassed and self._is_pending(key)
            if self._turns[key] > _PATIENCE:
                self._recorded.add(key)
                self._recorders[key].detach()
                self._bypassed = InvalidValueError(
                    f"a {class_name(unwrapped(part))}",
                    "its layers are called, but not it itself, so that there is no pass of it",
                    "give the module that is called, or a dict of those that are, or write_graph=False",
                )
        self.listen(on, eagerly)

    def _is_pending(self, key: str) -> bool:
        recorder = self._recorders[key]
        return key not in self._recorded and recorder.graph is None and recorder.error is None

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

    def give_up(self) -> None:
        """No step is recorded from now on; one that was is still there."""
        self._is_done = True
        self._recorder.detach()

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
