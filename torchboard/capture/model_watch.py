"""All that looks at one model: armed together for the window of a step, read together at the end of an epoch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from torchboard.capture.figures import Figures
from torchboard.capture.graphs import FirstPassGraph, StepGraph, check_write_graph
from torchboard.capture.left_out import LeftOut
from torchboard.capture.loss_scale import LossScale
from torchboard.capture.options import Capture
from torchboard.capture.overhead import Overhead
from torchboard.capture.parameters import Parameters
from torchboard.capture.pictures.feature_maps import FeatureMaps
from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.pooled import pooled
from torchboard.capture.recorder import TRAIN, Recorder
from torchboard.capture.steps import StepWatcher, WeightsVersion, learning_rates
from torchboard.graph.eager import compiled_modules, eager_windows
from torchboard.graph.layer_costs import LayerCosts, layer_costs
from torchboard.graph.recorded import RecordedGraph, RecordedStep
from torchboard.values import Pending, Scalar


class Collector(Protocol):
    """Looks at a model when it is asked to."""

    def collect(self) -> Sequence[Pending]:
        """What there is to see now, on its way to the host."""


class ModelWatch:
    """The collectors of one model, and the boundary of its training steps.

    A step ends when every optimizer that was seen has stepped in it; or, at the latest, before one of them steps again, or
    when a batch ends and the weights have changed. While trainable parameters are left that no optimizer seen so far holds,
    as in the first step of a GAN's training, another one is waited for.

    Args:
        model: what to look at. It is as it was, but for hooks, and after ``release`` without exception.
        options: which tensors are captured.
        optimizer: one that is known before it has stepped.
        feature_maps: whether convolutions are shown, or the input to show them for.
        graph: whether the first pass of each phase is recorded; ``"step"`` for one training step, too.
        on_step: called when a training step has ended; held weakly, a bound method.
    """

    def __init__(
        self,
        model: nn.Module,
        options: Capture,
        on_step: Callable[[], None],
        *,
        optimizer: Optimizer | None = None,
        feature_maps: bool | Tensor = True,
        graph: bool | str = True,
    ) -> None:
        check_write_graph(graph)
        self._on_step = weakref.WeakMethod(on_step)
        self._options = options
        self.overhead = Overhead(options.max_overhead)
        self._parameters = Parameters(model, options)
        self._recorder = Recorder(model, options, self.overhead, self._parameters.after_backward)
        probe = feature_maps if isinstance(feature_maps, Tensor) else None
        hidden = options.compiled == "skip" and bool(compiled_modules(model))
        self._feature_maps = FeatureMaps(model, options, probe) if feature_maps is not False and not hidden else None
        self._model = model
        self._graphs = {TRAIN: FirstPassGraph(model)} if graph and not hidden else {}
        self._step_graph = StepGraph(model) if graph == "step" and not hidden else None
        self._more: list[Collector] = [LeftOut(model, options)]
        self._is_first_step = True
        self._is_idle = False
        self._runs_eagerly = False
        self._weights = WeightsVersion(model)
        self._loss_scale = LossScale()
        self._stepped: set[int] = set()
        self._steps = StepWatcher(model, self._before_step, self._after_step, optimizer)

    @property
    def phase(self) -> str:
        """What forward passes belong to now."""
        return self._recorder.phase

    def add(self, collector: Collector) -> None:
        """One more collector, read with the others in epochs that write histograms."""
        self._more.append(collector)

    def arm(self, on: bool) -> None:
        """Opens or closes the window of the next step."""
        if on or not self._is_idle or self._step_graph is not None:
            with self.overhead:
                self._arm(on)
            self._is_idle = not on and not self._runs_eagerly

    def _arm(self, on: bool) -> None:
        if on:
            self._steps.look_again()
            self._weights.look_again()
        if self.phase == TRAIN:
            self._recorder.arm(on)
        self._parameters.arm(on)
        if self._feature_maps is not None:
            self._feature_maps.arm(on)
        waits = bool(self._graphs) and self._is_first_step
        waits = waits or self._feature_maps is not None and self._feature_maps.waits
        waits = waits or self._step_graph is not None and self._step_graph.waits
        self._run_eagerly(waits and self._options.compiled != "skip")

    def enter(self, phase: str, capture: bool) -> str:
        """Forward passes belong to ``phase`` from now on, and the first one is captured if asked for; gives the phase before."""
        before, self._recorder.phase = self._recorder.phase, phase
        self._recorder.arm(False)
        if phase == TRAIN:
            self._recorder.arm(self._parameters.armed)
        elif capture:
            self._recorder.arm_for_one_pass()
        self._record_phase(before, phase, capture)
        return before

    @contextmanager
    def looking_away(self) -> Iterator[nn.Module]:
        """The model, for a pass inside that nothing here sees; what waited for a pass waits on afterwards."""
        armed, waits = self._recorder.armed, self._feature_maps is not None and self._feature_maps.waits
        graphs = [self._graphs.get(self.phase), self._step_graph if self.phase == TRAIN else None]
        self._recorder.arm(False)
        if waits:
            self._feature_maps.arm(False)
        for graph in filter(None, graphs):
            graph.listen(False)
        try:
            yield self._model
        finally:
            for graph in filter(None, graphs):
                graph.listen(True)
            if waits:
                self._feature_maps.arm(True)
            if armed and self.phase == TRAIN:
                self._recorder.arm(True)
            elif armed:
                self._recorder.arm_for_one_pass()

    def end_batch(self) -> None:
        """A batch of training has ended: a step has too, if the weights changed since the last one ended."""
        if self._weights.changed() or self._stepped:
            self._end_step()
        elif self._parameters.armed and self.phase == TRAIN:
            self._recorder.arm(True)  # a window cannot open inside compiled code

    def learning_rates(self) -> dict[str, object]:
        """Tag suffix -> learning rate, of every optimizer seen so far."""
        return learning_rates(self._steps.live_optimizers())

    def collect(self, ranks: Ranks | None = None) -> dict[str, tuple[Pending, ...]]:
        """Phase -> what was captured in it since the last call, on its way to the host.

        With ``ranks`` it is on rank 0 what all of them captured, and on the others nothing; all call it at the same time.
        """
        with self.overhead:
            self._recorder.arm(False)  # armed again, it finds layers that came since
            phases: dict[str, list[Pending]] = {
                phase: [*self._recorder.collect(phase)] for phase in self._recorder.phases()
            }
            train = phases.setdefault(TRAIN, [])
            train += self._recorder.dead_units.collect()
            train += self._parameters.collect()
            train += self._loss_scale.collect()
            if self._feature_maps is not None:
                train += self._feature_maps.collect()
            for collector in self._more:
                train += collector.collect()
        if self.overhead.limit is not None:
            train.append(Figures((("monitor/overhead", Scalar(self.overhead.take())),)))
            if ranks is not None:
                self.overhead.agree(ranks)
        if ranks is not None:
            return pooled(phases, ranks, self._model)
        return {phase: tuple(pending) for phase, pending in phases.items() if pending}

    def take_graphs(self, last: bool = False) -> Iterator[tuple[str, RecordedGraph | RecordedStep]]:
        """Phase and graph of the first passes and a step, each once; with ``last``, of passes that raised half-way too."""
        for phase, graph in self._graphs.items():
            if (recorded := graph.collect(last)) is not None:
                yield phase, recorded
        if self._step_graph is not None and (step := self._step_graph.collect(last)) is not None:
            yield TRAIN, step

    def costs(self) -> LayerCosts:
        """What the layers cost in the first training pass; of a model not seen running their parameters alone."""
        return self._graphs[TRAIN].costs if self._graphs else layer_costs(self._model, None)

    def errors(self) -> Iterator[tuple[str, BaseException]]:
        """What could not be captured, and why."""
        graphs = [("the graph", graph) for graph in self._graphs.values()] + [("the graph of a step", self._step_graph)]
        parameters = ("gradients and updates", self._parameters)
        collectors = ("activations", self._recorder), parameters, ("feature maps", self._feature_maps), *graphs
        for lost, collector in collectors:
            if collector is not None and collector.error is not None:
                yield lost, collector.error
        lost = ("some activations", self._recorder.lost), ("parameters and their gradients", self._parameters.lost)
        yield from ((what, error) for what, error in lost if error is not None)

    def release(self) -> None:
        """Takes every hook away."""
        self._steps.close()
        self._recorder.release()
        self._parameters.arm(False)
        self._run_eagerly(False)
        if self._feature_maps is not None:
            self._feature_maps.arm(False)
        for graph in self._graphs.values():
            graph.listen(False)
        if self._step_graph is not None:
            self._step_graph.close()

    def _record_phase(self, before: str, phase: str, is_window: bool) -> None:
        """The first pass of the phase is the next to be recorded. That of compiled code can be seen in a window alone."""
        if self._step_graph is not None:
            self._step_graph.listen(phase == TRAIN)
        if before in self._graphs:
            self._graphs[before].listen(False)
        if phase in self._graphs:
            self._graphs[phase].listen(True)
        elif self._graphs and (is_window or not compiled_modules(self._model)):
            self._graphs[phase] = FirstPassGraph(self._model)

    def _run_eagerly(self, on: bool) -> None:
        """Whether compiled code runs eagerly for the hooks that wait for one pass."""
        if on and not self._runs_eagerly:
            self._runs_eagerly = eager_windows.enter()
        elif not on and self._runs_eagerly:
            self._runs_eagerly = False
            eager_windows.leave()

    def _before_step(self, optimizer: Optimizer, closure: bool) -> None:
        if id(optimizer) in self._stepped:
            self._end_step()
        scale = self._loss_scale.before_step(optimizer)
        if self._parameters.armed:
            with self.overhead:
                self._parameters.before_step(optimizer, closure, scale)

    def _after_step(self, optimizer: Optimizer, closure: bool) -> None:
        if self._parameters.armed:
            with self.overhead:
                self._parameters.after_step(optimizer, closure)
        self._stepped.add(id(optimizer))
        known = self._steps.optimizers
        all_stepped = len(known) == 1 or {id(other) for other in self._steps.live_optimizers()} <= self._stepped
        if all_stepped and (not self._is_first_step or self._steps.hold_all()):
            self._end_step()

    def _end_step(self) -> None:
        self._weights.changed()
        self._stepped.clear()
        self._is_first_step = False
        if self._step_graph is not None:
            self._step_graph.end_step()
        if self._parameters.armed:
            self._recorder.end_step()
            self.overhead.captured()
        on_step = self._on_step()
        if on_step is not None:
            on_step()
