"""All that looks at one model: armed together for the window of a step, read together at the end of an epoch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from torchboard.capture.faults import Faults
from torchboard.capture.figures import Figures
from torchboard.capture.late_changes import LateChanges
from torchboard.capture.left_out import LeftOut
from torchboard.capture.loss_scale import LossScale
from torchboard.capture.modes import unseen
from torchboard.capture.options import Capture
from torchboard.capture.overhead import Overhead
from torchboard.capture.parameters import Parameters
from torchboard.capture.phase_graphs import PhaseGraphs, stays_compiled
from torchboard.capture.pictures.feature_maps import FeatureMaps
from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.pooled import pooled
from torchboard.capture.rates import LearningRates, rate_of
from torchboard.capture.recorder import TRAIN, Recorder
from torchboard.capture.step_order import StepOrder
from torchboard.capture.steps import StepWatcher
from torchboard.capture.weights_version import WeightsVersion
from torchboard.graph.eager import eager_windows
from torchboard.graph.layer_costs import LayerCosts
from torchboard.graph.recorded import RecordedGraph, RecordedStep
from torchboard.values import Pending, Scalar


class Collector(Protocol):
    """Looks at a model when it is asked to."""

    def collect(self) -> Sequence[Pending]:
        """What there is to see now, on its way to the host."""


class ModelWatch:
    """The collectors of one model, and the boundary of its training steps.

    ``StepOrder`` says when a step ends; it ends, too, when a batch does and the weights have changed. What it is made of has
    passed ``check_watched``.

    Args:
        model: what to look at. It is as it was, but for hooks, and after ``release`` without exception.
        options: which tensors are captured.
        optimizer: one that is known before it has stepped.
        feature_maps: whether convolutions are shown, or the input to show them for.
        graph: whether the first pass of each phase is recorded; ``"step"`` for one training step, too.
        on_step: called when a training step has ended, and says whether the next one is captured, which it is not where that
            raises; held weakly, a bound method.

    Attributes:
        phase: what forward passes belong to now.
        lag: by how many steps captured ones come later than a number in ``Capture.every`` has them: by one more behind each
            in which an optimizer did not step, so that one whose turn is every fifth step is met by one captured in ten, too.
    """

    def __init__(
        self,
        model: nn.Module,
        options: Capture,
        on_step: Callable[[], bool],
        *,
        optimizer: Optimizer | None = None,
        feature_maps: bool | Tensor = True,
        graph: bool | str = True,
    ) -> None:
        self._owner, self._asks = weakref.ref(on_step.__self__), on_step.__func__
        self.phase, self.lag = TRAIN, 0
        self.overhead = Overhead(options.max_overhead)
        self._faults, self._rates = Faults(), LearningRates()
        self._parameters = Parameters(model, options, self.overhead)
        self._recorder = Recorder(model, options, self.overhead, self._parameters.backward_end)
        probe = feature_maps if isinstance(feature_maps, Tensor) else None
        shown = feature_maps is not False and not stays_compiled(model, options.compiled)
        self._feature_maps = FeatureMaps(model, options, probe) if shown else None
        self._model, self._options = model, options
        self._graphs = PhaseGraphs(model, graph, options.compiled, self._faults.of("the graph"))
        changed = self._leave_compiled, self._choose_again
        self._late = LateChanges(model, options.compiled, *changed, self._faults.of("layers"))
        self._more: list[Collector] = [LeftOut(model, options, self._recorder.unread, self._recorder.ran_fused)]
        self._is_idle = self._runs_eagerly = False
        self._weights = WeightsVersion(model)
        self._loss_scale = LossScale()
        self._was_captured = self._reads = self._is_due = False
        actions = self._before_step, self._after_step, self._count_step
        self._setups: set[int] = set()  # optimizers in a step that is none of the training, by their ``id``
        self._steps = StepWatcher(model, *actions, optimizer=optimizer)
        self._order = StepOrder(self._steps)

    def add(self, collector: Collector) -> None:
        """One more collector, read with the others in epochs that write histograms."""
        self._more.append(collector)

    def arm(self, on: bool) -> None:
        """Opens or closes the window of the next step. Never raises: it is called within the optimizer's step."""
        self._order.takes_more = False
        if on or not self._is_idle or self._graphs.of_step is not None:
            self._order.wake()
            with self.overhead:
                try:
                    self._arm(on)
                except Exception as error:  # of a user's predicate, say
                    self._faults.keep("layers", error)
                    self._arm(False)
            self._is_idle = not on and not self._runs_eagerly

    def begin_epoch(self, on: bool) -> None:
        """As ``arm``; what is done to the model before the next pass is found, too: another layer, a new head."""
        self._is_due = self._is_due and on
        self.arm(on)
        self._late.looks_for_layers = on
        self._late.listen(self._recorder.armed and self.phase == TRAIN)

    def _arm(self, on: bool) -> None:
        if on:
            self._steps.look_again()
            self._weights.look_again()
            self._late.look()
        if self.phase == TRAIN:
            self._recorder.arm(on)
        self._parameters.arm(on)
        if self._feature_maps is not None:
            self._feature_maps.arm(on)
        waits = self._graphs.begin_step(on) or self._feature_maps is not None and self._feature_maps.waits
        self._run_eagerly(waits and self._options.compiled != "skip")
        self._late.looks_for_layers = False
        self._late.listen((waits or self._recorder.armed) and self.phase == TRAIN)

    def enter(self, phase: str, capture: bool) -> str:
        """Forward passes belong to ``phase`` from now on, and the first one is captured if asked for; gives the phase before."""
        self._late.look()
        before, self.phase = self.phase, phase
        self._recorder.phase = phase
        self._recorder.arm(False)
        if self._parameters.armed if phase == TRAIN else capture:
            self._hook_layers()
        self._graphs.enter(phase)
        self._late.listen(self._parameters.armed and phase == TRAIN)
        return before

    @contextmanager
    def looking_away(self) -> Iterator[nn.Module]:
        """The model, for a pass inside that nothing here sees; what waited for a pass waits on afterwards."""
        armed, waits = self._recorder.armed, self._feature_maps is not None and self._feature_maps.waits
        self._recorder.arm(False)
        if waits:
            self._feature_maps.arm(False)
        try:
            with self._graphs.looking_away():
                yield self._model
        finally:
            if waits:
                self._feature_maps.arm(True)
            if armed:
                self._hook_layers()

    def end_batch(self) -> None:
        """A batch of training has ended: a step has too, if the weights changed since the last one ended."""
        self._order.takes_more = False
        if self._weights.changed() or self._order.stepped:
            self._end_step()
        elif self._parameters.armed and self.phase == TRAIN and not self._recorder.armed:
            self._hook_layers()  # a window cannot open inside compiled code

    def learning_rates(self) -> dict[str, float | Tensor]:
        """Tag suffix -> learning rate, of every optimizer seen so far that has one, as its last step since the last call used it;
        of one that wraps another its own, if it has one. Never raises."""
        return self._rates.take(self._steps.live_optimizers(), self._order.inner)

    def collect(self, ranks: Ranks | None = None) -> dict[str, tuple[Pending, ...]]:
        """Phase -> what was captured in it since the last call, on its way to the host.

        With ``ranks`` it is on rank 0 what all of them captured, and on the others nothing; all call it at the same time.
        What a collector raises is kept for ``errors``, and there is nothing of it.
        """
        seen = self._faults.seen
        with self.overhead:
            self._late.look()
            self._recorder.arm(False)  # armed again, it finds layers that came since
            phases = {
                phase: seen("activations", partial(self._recorder.collect, phase)) for phase in self._recorder.phases()
            }
            train = phases.setdefault(TRAIN, [])
            train += seen("dead units", self._recorder.dead_units.collect)
            train += seen("gradients and updates", partial(self._parameters.collect, self._recorder.in_stage))
            train += seen("skipped steps", self._loss_scale.collect)
            if self._feature_maps is not None:
                train += seen("feature maps", self._feature_maps.collect)
            for collector in self._more:
                train += seen("weight images and notes", collector.collect)
        if self.overhead.limit is not None:
            train.append(Figures((("monitor/overhead", Scalar(self.overhead.take())),)))
            if ranks is not None:
                self.overhead.agree(ranks)
        if ranks is not None:
            return pooled(phases, ranks, self._model)
        return {phase: tuple(pending) for phase, pending in phases.items() if pending}

    def take_graphs(self, last: bool = False) -> Iterator[tuple[str, RecordedGraph | RecordedStep]]:
        """Phase and graph of the first passes and a step, each once; with ``last``, of passes that raised half-way too."""
        return self._graphs.take(self._faults, last)

    def costs(self) -> LayerCosts:
        """What the layers cost in the first training pass; of a model not seen running their parameters alone."""
        return self._graphs.costs()

    def errors(self) -> Iterator[tuple[str, BaseException]]:
        """What could not be captured, and why."""
        collectors = ("activations", self._recorder), ("gradients and updates", self._parameters)
        collectors += ("feature maps", self._feature_maps), *((what, graph) for what, _, graph in self._graphs.kinds())
        errors = [(what, collector.error) for what, collector in collectors if collector is not None]
        errors += ("some activations", self._recorder.lost), ("parameters and their gradients", self._parameters.lost)
        yield from ((what, error) for what, error in errors if error is not None)
        yield from self._faults.items()

    def release(self) -> None:
        """Takes every hook away."""
        self._late.listen(False)
        self._steps.close()
        self._recorder.release()
        self._parameters.arm(False)
        self._run_eagerly(False)
        if self._feature_maps is not None:
            self._feature_maps.arm(False)
        self._graphs.close()

    def _hook_layers(self) -> None:
        """For the rest of a window of training, or for one pass of another phase. Never raises."""
        try:
            if self.phase == TRAIN:
                self._recorder.arm(True)
            else:
                self._recorder.arm_for_one_pass()
        except Exception as error:  # of a user's predicate, say
            self._faults.keep("layers", error)
            self._recorder.arm(False)
            self._late.looks_for_layers = False

    def _choose_again(self) -> None:
        """The first pass of an epoch begins: layers may have come or gone, and hooks that are gone have cost nothing."""
        if self._recorder.armed:
            self._hook_layers()
            self._recorder.nothing_lost()

    def _leave_compiled(self) -> None:
        """Modules have been compiled, and stay so: the hooks that sit on them and wait for passes come off."""
        self._graphs.leave_compiled()
        if self._feature_maps is not None:
            self._feature_maps.arm(False)
            self._feature_maps = None
        if self._recorder.armed:
            self._hook_layers()

    def _run_eagerly(self, on: bool) -> None:
        """Whether compiled code runs eagerly for the hooks that wait for one pass."""
        if on and not self._runs_eagerly:
            self._runs_eagerly = eager_windows.enter()
        elif not on and self._runs_eagerly:
            self._runs_eagerly = False
            eager_windows.leave()

    def _before_step(self, optimizer: Optimizer, closure: bool) -> None:
        if not closure and self._parameters.is_setup(optimizer):
            self._setups.add(id(optimizer))
            return
        has_ended = self._order.begin(optimizer)
        if has_ended is None:
            return
        if has_ended:
            self._weights.report(self._captures)
            self._end_step()
        scale = self._loss_scale.before_step(optimizer, self._parameters.armed)
        self._reads = self._captures and (self._was_captured or not self._order.is_late)
        if self._reads:
            with self.overhead:
                self._parameters.before_step(optimizer, closure, scale)

    @property
    def _captures(self) -> bool:
        """Whether the present step is a captured one: one taken in another phase leaves the window to training."""
        return self._parameters.armed and self.phase == TRAIN

    def _after_step(self, optimizer: Optimizer, closure: bool) -> None:
        if id(optimizer) in self._setups:
            self._setups.discard(id(optimizer))
            return
        self._rates.note(optimizer)
        captured = self._captures
        ends = self._order.end(optimizer)
        if self._reads and ends is not None:
            with self.overhead:
                self._parameters.after_step(optimizer, closure)
        if ends:
            self._weights.report(captured)
            self._end_step()
            self._order.takes_more, self._was_captured = True, captured
            looks = self._graphs.of_step is not None or self._loss_scale.is_watched or self._rates.are_tensors
            if self._is_idle and not looks:
                self._order.rest()
        elif ends is not None and self._order.is_late:
            self._weights.report(captured)

    def _count_step(self, optimizer: Optimizer) -> None:
        """A step that nothing looks at has ended, and a training step with it: as ``_after_step``, in as few calls as can be."""
        self._weights.report(False)
        self._rates.used[id(optimizer)] = [*map(rate_of, optimizer.param_groups)]
        owner = self._owner()
        try:
            is_next = owner is not None and self._asks(owner)
        except Exception as error:
            is_next = self._schedule_failed(error)
        if is_next:
            self._is_due = isinstance(self._options.every, int)
            with unseen():
                self.arm(True)
        self._order.takes_more, self._was_captured = True, False

    def _end_step(self) -> None:
        captures = self._captures
        lags = captures and self._is_due and not self._order.have_all_stepped()
        self._order.stepped.clear()
        self._order.is_first = False
        self._graphs.end_step()
        if captures:
            self._recorder.end_step()
            self.overhead.captured()
        owner = self._owner()
        if owner is None:
            return
        try:
            due = bool(self._asks(owner))
        except Exception as error:
            due = self._schedule_failed(error)
        self.lag += lags  # only now, or the next step would be the one that is due
        self._is_due = due and isinstance(self._options.every, int)
        self.arm(due or self._parameters.armed and not captures)

    def _schedule_failed(self, error: Exception) -> bool:
        """Keeps what a user's schedule raised, and says that the next step is not captured."""
        self._faults.keep("some scheduled steps", error)
        return False
