"""All that looks at one model: armed together for the window of a step, read together at the end of an epoch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.optim import Optimizer

from torchboard.capture.feature_maps import FeatureMaps
from torchboard.capture.graphs import FirstPassGraph, GraphSnapshot
from torchboard.capture.options import Capture
from torchboard.capture.parameters import Parameters
from torchboard.capture.recorder import TRAIN, Recorder
from torchboard.capture.steps import StepWatcher, WeightsVersion, learning_rates
from torchboard.values import Pending


class ModelWatch:
    """The collectors of one model, and the boundary of its training steps.

    A step ends when every optimizer that was seen has stepped in it, or one of them steps again, or, where none shows
    itself, when a batch ends and the weights have changed.

    Args:
        model: what to look at. It is as it was, but for hooks, and after ``release`` without exception.
        options: which tensors are captured.
        optimizer: one that is known before it has stepped.
        feature_maps: whether convolutions are shown, or the input to show them for.
        graph: whether the first pass is recorded.
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
        graph: bool = True,
    ) -> None:
        self._on_step = weakref.WeakMethod(on_step)
        self._recorder = Recorder(model, options)
        self._parameters = Parameters(model, options)
        probe = feature_maps if isinstance(feature_maps, Tensor) else None
        self._feature_maps = FeatureMaps(model, options, probe) if feature_maps is not False else None
        self._graph = FirstPassGraph(model) if graph else None
        self._graph_taken = False
        self._weights = WeightsVersion(model)
        self._stepped: list[int] = []
        self._steps = StepWatcher(model, self._parameters.before_step, self._after_step, optimizer)

    @property
    def phase(self) -> str:
        """What forward passes belong to now."""
        return self._recorder.phase

    def arm(self, on: bool) -> None:
        """Opens or closes the window of the next step."""
        if self.phase == TRAIN:
            self._recorder.arm(on)
        self._parameters.arm(on)
        if self._feature_maps is not None:
            self._feature_maps.arm(on)

    def enter(self, phase: str, capture: bool) -> str:
        """Forward passes belong to ``phase`` from now on, and the first one is captured if asked for; gives the phase before."""
        before, self._recorder.phase = self._recorder.phase, phase
        self._recorder.arm(False)
        if phase == TRAIN:
            self._recorder.arm(self._parameters.armed)
        elif capture:
            self._recorder.arm_for_one_pass()
        return before

    def end_batch(self) -> None:
        """A batch of training has ended: a step has too, if the weights changed and no optimizer showed itself."""
        if self._weights.changed():
            self._end_step()
        elif self.phase == TRAIN:
            self._recorder.arm(self._parameters.armed)  # a window cannot open inside compiled code

    def learning_rates(self) -> dict[str, object]:
        """Tag suffix -> learning rate, of every optimizer seen so far."""
        return learning_rates(self._steps.live_optimizers())

    def collect(self) -> dict[str, tuple[Pending, ...]]:
        """Phase -> what was captured in it since the last call, on its way to the host."""
        phases: dict[str, list[Pending]] = {
            phase: [*self._recorder.collect(phase)] for phase in self._recorder.phases()
        }
        train = phases.setdefault(TRAIN, [])
        train += self._parameters.collect()
        if self._feature_maps is not None:
            train += self._feature_maps.collect()
        return {phase: tuple(pending) for phase, pending in phases.items() if pending}

    def take_graph(self) -> GraphSnapshot | None:
        """The graph of the first pass, once, when there has been one."""
        if self._graph is None or self._graph_taken:
            return None
        graph = self._graph.collect()
        self._graph_taken = graph is not None
        return graph

    def errors(self) -> Iterator[tuple[str, BaseException]]:
        """What could not be captured, and why."""
        collectors = ("activations", self._recorder), ("feature maps", self._feature_maps), ("the graph", self._graph)
        for lost, collector in collectors:
            if collector is not None and collector.error is not None:
                yield lost, collector.error

    def release(self) -> None:
        """Takes every hook away."""
        self._steps.close()
        self._recorder.arm(False)
        self._parameters.arm(False)
        if self._feature_maps is not None:
            self._feature_maps.arm(False)
        if self._graph is not None:
            self._graph.close()

    def _after_step(self, optimizer: Optimizer) -> None:
        self._parameters.after_step(optimizer)
        again = id(optimizer) in self._stepped
        self._stepped.append(id(optimizer))
        if again or {id(other) for other in self._steps.live_optimizers()} <= set(self._stepped):
            self._end_step()

    def _end_step(self) -> None:
        self._weights.changed()
        self._stepped.clear()
        on_step = self._on_step()
        if on_step is not None:
            on_step()
