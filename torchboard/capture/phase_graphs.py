"""When the graphs of a model are recorded: of the first pass of each phase, and of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn

from torchboard.capture.faults import Faults
from torchboard.capture.graphs import FirstPassGraph, StepGraph
from torchboard.capture.models import models_in
from torchboard.capture.one_pass import NextPasses
from torchboard.capture.recorder import TRAIN
from torchboard.graph.eager import compiled_modules, eager_windows
from torchboard.graph.layer_costs import LayerCosts, layer_costs
from torchboard.graph.recorded import RecordedGraph, RecordedStep


class PhaseGraphs:
    """The graphs of the first pass of each phase and, if wanted, of one training step, each recorded once.

    Hooks wait for a pass only where it can be recorded: code under ``torch.compile`` must not meet them, so that it runs eagerly
    in the first step, in captured ones and in the first pass of a phase, or is left alone.

    Args:
        model: whose graphs. It is as it was, but for hooks, and after ``close`` without exception.
        write_graph: whether there are any; ``"step"`` for one of a training step, too.
        compiled: what a captured step does with compiled code, as in ``Capture``.
        failed: called with what a hook raises.

    Attributes:
        of_step: that of a training step, if wanted.
    """

    def __init__(
        self, model: nn.Module, write_graph: bool | str, compiled: str, failed: Callable[[Exception], object]
    ) -> None:
        self._model = model
        self._compiled = compiled
        self._failed = failed
        self._stays_compiled = stays_compiled(model, compiled)
        wanted = write_graph and not self._stays_compiled
        self._first = {TRAIN: FirstPassGraph(model, of_training=True)} if wanted else {}
        self.of_step = StepGraph(model) if write_graph == "step" and wanted else None
        self._phase = TRAIN
        self._is_first_step = True
        self._is_captured = False
        self._awaiting: NextPasses | None = None

    def begin_step(self, captured: bool) -> bool:
        """A training step begins, a captured one or not; whether it runs eagerly for a graph: the first one does, and, as not all
        of several models may run in that, captured ones, until they have."""
        self._is_captured = captured
        return self._waits_for_pass() or self.of_step is not None and self.of_step.waits

    def _waits_for_pass(self) -> bool:
        if not self._first or self._is_first_step:
            return bool(self._first)
        graph, eagerly = self._first[TRAIN], self._runs_eagerly
        if graph.is_pending:
            graph.listen_on(self._phase == TRAIN, eagerly)
        return eagerly and graph.waits

    def end_step(self) -> None:
        """A training step has ended."""
        self._is_first_step = False
        if self.of_step is not None:
            self.of_step.end_step()

    def enter(self, phase: str) -> None:
        """Passes belong to ``phase`` from now on, and its first one is the next to be recorded."""
        before, self._phase = self._phase, phase
        self._end_awaiting()
        if self.of_step is not None:
            self.of_step.listen(phase == TRAIN)
        if before in self._first:
            self._first[before].listen(False)
        if phase in self._first:
            self._first[phase].listen(True, self._runs_eagerly or phase != TRAIN and not self._stays_compiled)
        elif self._first and not self._stays_compiled:
            self._first[phase] = FirstPassGraph(self._model)
        if phase != TRAIN and phase in self._first:
            self._await_pass(self._first[phase])

    def leave_compiled(self) -> None:
        """Modules have been compiled, and stay so: nothing waits for a pass of theirs from now on."""
        self._stays_compiled = True
        for graph in self._first.values():
            graph.listen(graph.waits, eagerly=False)
        if self.of_step is not None:
            self.of_step.give_up()

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """A pass inside is not recorded; what waited for one waits on afterwards."""
        graphs = [self._first.get(self._phase), self.of_step if self._phase == TRAIN else None]
        for graph in filter(None, graphs):
            graph.listen(False)
        try:
            yield
        finally:
            if self._phase in self._first:
                self._first[self._phase].listen(True, self._runs_eagerly)
            if self.of_step is not None and self._phase == TRAIN:
                self.of_step.listen(True)

    def kinds(self) -> Iterator[tuple[str, str, FirstPassGraph | StepGraph]]:
        """What it is, its phase and what records it, of each graph there is or may be."""
        yield from (("the graph", phase, graph) for phase, graph in self._first.items())
        if self.of_step is not None:
            yield "the graph of a step", TRAIN, self.of_step

    def take(self, faults: Faults, last: bool) -> Iterator[tuple[str, RecordedGraph | RecordedStep]]:
        """Phase and graph of those that are there since the last call; with ``last``, of passes that raised half-way too."""
        for what, phase, graph in self.kinds():
            for recorded in faults.seen(what, lambda graph=graph: [graph.collect(last)]):
                if recorded is not None:
                    yield phase, recorded

    def costs(self) -> LayerCosts:
        """What the layers cost in the first training pass; of a model not seen running their parameters alone."""
        return self._first[TRAIN].costs if self._first else layer_costs(self._model, None)

    def close(self) -> None:
        """Takes every hook away."""
        self._end_awaiting()
        for graph in self._first.values():
            graph.listen(False)
        if self.of_step is not None:
            self.of_step.close()

    @property
    def _runs_eagerly(self) -> bool:
        """Whether compiled code runs eagerly now where a graph may wait for it."""
        if self._phase != TRAIN:
            return self._awaiting is not None
        return self._is_first_step and not self._stays_compiled or self._is_captured and self._compiled == "eager"

    def _await_pass(self, graph: FirstPassGraph) -> None:
        """Compiled code runs eagerly until the passes have ended that a graph waits for."""
        if not graph.waits or self._compiled == "skip":
            return
        if eager_windows.enter():
            passed = partial(self._passed, graph)
            self._awaiting = NextPasses(models_in(self._model), graph.awaited, passed, self._failed)
        else:
            graph.listen(False)

    def _passed(self, graph: FirstPassGraph, key: str | None) -> None:
        if key is None:
            self._end_awaiting()
            graph.listen(True, eagerly=False)  # what did not come is waited for in the next phase of that name

    def _end_awaiting(self) -> None:
        awaiting, self._awaiting = self._awaiting, None
        if awaiting is not None:
            awaiting.close()
            eager_windows.leave()


def stays_compiled(model: nn.Module, compiled: str) -> bool:
    """Whether a model has compiled code that never runs eagerly for us, which is what ``Capture(compiled="skip")`` asks for."""
    return compiled == "skip" and bool(compiled_modules(model))
