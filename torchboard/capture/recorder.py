"""Layer outputs and their gradients, from forward hooks that sit on the model in armed windows only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import partial
from threading import RLock

import torch
from torch import Tensor, nn

from torchboard.capture.compiled.in_graph import GRADIENTS, OUTPUTS, GraphRow, InGraph
from torchboard.capture.forward_hook import ForwardHook, Read
from torchboard.capture.gradient_tap import BackwardEnd, Report, tap, untraced
from torchboard.capture.layer_hooks import LayerHooks
from torchboard.capture.models import models_in
from torchboard.capture.modes import any_on, function_modes, transformed, unseen
from torchboard.capture.one_pass import NextPasses
from torchboard.capture.options import Capture
from torchboard.capture.overhead import Overhead
from torchboard.capture.pictures.dead_units import DeadUnits
from torchboard.capture.select import layers, tag
from torchboard.capture.sketches import Row, Sketches
from torchboard.capture.snapshot import Snapshot
from torchboard.capture.taken import hooks_taken
from torchboard.capture.tensors import observable, tensors_in
from torchboard.graph.eager import compiled_modules, eager_windows
from torchboard.graph.hooks import in_backward
from torchboard.graph.job import STAGES, is_probe

_no_subclasses = torch._C.DisableTorchFunctionSubclass
_imported = sys.modules
TRAIN = "train"
"""The phase of the training passes."""


class Recorder:
    """Sketches what every selected layer puts out, and what comes back to it in the backward pass.

    Armed, each layer carries one forward hook; disarmed, none. A hook folds each output into a row on its device and
    leaves; outputs, their history and the random state stay as they are. A fault of ours never leaves a hook: the
    output is in ``unread``; where memory is short it is kept in ``error``, and the recorder stays silent from then on.

    Args:
        model: hooks go on its layers, and only while armed.
        options: which layers, and whether outputs and gradients are wanted.
        overhead: measures the time that hooks take.
        backward_end: told in each backward pass in a window that it will end.

    Attributes:
        dead_units: what the units of activation layers did in training.
        phase: the phase that passes belong to now. In the training phase, a pass of a layer in evaluation mode without
            gradients is somebody's evaluation and is not recorded.
        error: what went wrong inside a hook, if anything did.
        unread: tag of an output that cannot be measured, or raises where it is read -> what it is.
        in_stage: whether a stage of a pipeline was seen to run a layer.
    """

    def __init__(
        self,
        model: nn.Module,
        options: Capture,
        overhead: Overhead | None = None,
        backward_end: BackwardEnd | None = None,
    ) -> None:
        self._backward_end = backward_end
        self._report_gradient = untraced(self._observe_gradient, options.compiled)
        self._overhead = overhead or Overhead()
        self.phase = TRAIN
        self.error: Exception | None = None
        self.unread: dict[str, str] = {}
        self._unreadable: Exception | None = None
        self.in_stage = False
        self._lock = RLock()  # replicas run in threads
        self._model = model
        self._options = options
        self._sketches: dict[str, Sketches] = {}
        self.dead_units = DeadUnits(options, model)
        self._hooks = LayerHooks(model, options, lambda name: ForwardHook(self, name))
        self._passes: NextPasses | None = None
        self._window = 0
        self._open = 0  # the window in which gradients are recorded, if any
        self._runs_eagerly = False
        self._in_graph = self._hooks_in_graph() if options.compiled == "graph" and self._wanted else None

    @property
    def armed(self) -> bool:
        """Whether hooks record what layers put out."""
        if self._in_graph is not None:
            return self._in_graph.armed
        return self._hooks.are_on

    @property
    def lost(self) -> Exception | None:
        """Which layers are not seen in compiled steps, or have lost their hook, or why an output cannot be read, if it is so."""
        if self._in_graph is not None:
            return self._in_graph.lost or self._unreadable
        taken = hooks_taken(self._hooks.taken, "in a captured step, so that nothing was seen of these layers")
        return taken or self._unreadable

    @property
    def ran_fused(self) -> Collection[nn.Module]:
        """The encoder layers that ran as one kernel in a window, without calls of the layers in them."""
        return self._hooks.ran_fused

    @property
    def _wanted(self) -> bool:
        return self.error is None and (self._options.activations or self._options.gradients)

    def arm(self, on: bool) -> None:
        """Puts the hooks on, or takes them off; about 0.7 us a layer.

        Layers are looked up when hooks are put on: those that are added to the model later are seen from then on.
        Compiled code runs eagerly in between, if the options say so. Called while such code runs compiled, it puts no
        hooks on. Where captured steps stay compiled the hooks are there, and only told.
        """
        if self._in_graph is not None:
            self._arm_in_graph(self._in_graph, on)
            return
        if on == self.armed and not (on and self._hooks.are_others()):
            return
        self._take_off()
        if on and self._wanted and self._opens():
            self._hooks.put_on()

    def nothing_lost(self) -> None:
        """Hooks that are gone by now were gone before a layer ran."""
        self._hooks.taken.clear()

    def arm_for_one_pass(self) -> None:
        """Puts the hooks on until the model's next forward pass has ended; of several models on each until its own has.

        A model that does not run keeps its hooks until ``arm`` takes them off, or, where one of the models is compiled, until
        another has run eight times: compiled code runs eagerly meanwhile.
        """
        self.arm(False)
        if self._in_graph is not None:
            self._arm_in_graph(self._in_graph, True)
        elif self._wanted and self._opens():
            self._hooks.put_on()
        if self.armed:
            hooked = self._in_graph or self._hooks
            left_out = compiled_modules(self._model) if self._options.compiled == "skip" else ()
            passed = partial(self._passed, hooked.take_off)
            self._passes = NextPasses(models_in(self._model), hooked.keys, passed, self._fail, left_out)

    def phases(self) -> list[str]:
        """The phases seen so far."""
        return list(dict.fromkeys([TRAIN, *self._sketches] if self._in_graph is not None else self._sketches))

    def collect(self, phase: str) -> list[Snapshot]:
        """The sketches of one phase since the last call, on their way to the host."""
        for hook in self._hooks:
            hook.forget()
        sketches = self._sketches.get(phase)
        found: list[Snapshot] = [*sketches.collect()] if sketches else []
        return found + (self._in_graph.collect() if self._in_graph is not None and phase == TRAIN else [])

    def end_step(self) -> None:
        """A training step has ended."""
        if self._in_graph is not None:
            self._in_graph.end_step(compiled=not self._runs_eagerly)

    def release(self) -> None:
        """Takes every hook away, those too that stay on between windows."""
        self.arm(False)
        if self._in_graph is not None:
            self._in_graph.remove()

    def observe_output(self, hook: ForwardHook, module: nn.Module, output: object) -> None:
        """Records one output of one layer; never raises."""
        try:
            if self.phase == TRAIN and not module.training and not torch.is_grad_enabled():
                return
            if STAGES in _imported and self._is_probe():
                return
            with self._lock:
                if self._overhead.limit is None and not any_on():
                    if type(output) is Tensor:
                        self._observe(hook, module, output, True)
                    else:  # or a container, which may hold tensors of the user's classes
                        with _no_subclasses():
                            self._observe(hook, module, output, True)
                elif not torch.compiler.is_compiling():
                    differentiable = not transformed()
                    with self._overhead, unseen(), _no_subclasses():
                        self._observe(hook, module, output, differentiable)
        except Exception as error:
            hook.give_up(OUTPUTS, "", output, error)

    def row(self, hook: ForwardHook, kind: str, suffix: str, like: Tensor, device: torch.device) -> Row | GraphRow:
        """The row of one output of a layer, or of its gradient, in the current phase.

        Args:
            hook: the layer's.
            kind: ``in_graph.OUTPUTS`` or ``GRADIENTS``.
            suffix: which of the layer's outputs.
            like: the tensor, or the whole of which it is a part.
            device: where it is.
        """
        if self._in_graph is not None and self.phase == TRAIN and type(like) is Tensor:
            row = self._in_graph.row(kind, hook.name, suffix, device)
            if row is not None:
                return row
        sketches = self._sketches.setdefault(self.phase, Sketches(self._options.max_elements))
        return sketches.row(tag(kind, hook.name) + suffix, device, like)

    def _is_probe(self) -> bool:
        probe = is_probe()
        self.in_stage |= probe is not None
        return bool(probe)

    def _hooks_in_graph(self) -> InGraph:
        called = {name: (module, ForwardHook(self, name)) for name, module in layers(self._model, self._options)}
        return InGraph(self._model, called, self._backward_end)

    def _arm_in_graph(self, hooks: InGraph, on: bool) -> None:
        """The first captured step runs eagerly, and passes of other phases."""
        on = on and self._wanted
        if on or hooks.armed:
            hooks.look()
        eagerly = on and not (self.phase == TRAIN and hooks.knows_rows)
        if eagerly == self._runs_eagerly and on == hooks.armed:
            return
        self._take_off()
        if eagerly:
            on = self._runs_eagerly = eager_windows.enter()
        self._window += 1
        self._open = self._window if on else 0
        hooks.arm(on, compiled=not eagerly)

    def _passed(self, take_off: Callable[[str], None], key: str | None) -> None:
        if key is None:
            self.arm(False)
        else:
            take_off(key)

    def _take_off(self) -> None:
        self._open = 0
        if self._hooks.are_on:
            self._hooks.take_off()
        if self._passes is not None:
            self._passes.close()
            self._passes = None
        if self._runs_eagerly:
            self._runs_eagerly = False
            eager_windows.leave()

    def _opens(self) -> bool:
        """Opens a window; False where there is no layer to put a hook on, or compiled code is running."""
        if not self._hooks.choose():
            return False
        if self._options.compiled != "skip":
            self._runs_eagerly = eager_windows.enter()
            if not self._runs_eagerly:
                return False
        self._window += 1
        self._open = self._window
        self.dead_units.begin()
        return True

    def _observe(self, hook: ForwardHook, module: nn.Module, output: object, differentiable: bool) -> None:
        options = self._options
        recomputed = in_backward()  # activation checkpointing runs the forward pass again inside the backward pass
        if self.dead_units.wanted and self.phase == TRAIN and not recomputed:
            try:
                self.dead_units.observe(hook.name, module, output)
            except Exception as error:
                hook.give_up("units_dead", "", output, error)
        for suffix, tensor in tensors_in(output):
            if options.activations and not recomputed:
                read = hook.reader(OUTPUTS, suffix)
                if read is None or not read(tensor):
                    hook.observe(OUTPUTS, suffix, tensor)
            if options.gradients and differentiable and not tensor.is_leaf:
                if self._in_graph is not None and (local := observable(tensor)) is not None:
                    hook.row(GRADIENTS, suffix, local.device, tensor)  # there has to be one before the code is compiled
                    if self._runs_eagerly and self.phase == TRAIN:
                        self._in_graph.see(hook.name, suffix, tensor)
                read = hook.reader(GRADIENTS, suffix)
                try:
                    tap(tensor, Report(self._report_gradient, hook, suffix, self._window, read))
                except Exception as error:
                    hook.give_up(GRADIENTS, suffix, tensor, error)

    def _observe_gradient(
        self, hook: ForwardHook, suffix: str, window: int, read: Read | None, gradient: Tensor | None
    ) -> None:
        """Records the gradient of one output of one layer, what of it is here, if its window is open; never raises."""
        if window != self._open or gradient is None:
            return
        try:
            with self._lock:
                seen = read is not None and self._overhead.limit is None and not function_modes() and read(gradient)
                if not seen:
                    with self._overhead, unseen():
                        seen = hook.observe(GRADIENTS, suffix, gradient)
                if seen and self._backward_end is not None:
                    self._backward_end.expect()
        except Exception as error:
            hook.give_up(GRADIENTS, suffix, gradient, error)

    def gave_up(self, output: str, what: str, error: Exception, is_plain: bool) -> None:
        """An output of a layer cannot be read, and is no more; the others are, unless memory is short.

        Args:
            output: its tag.
            what: what kind of object it is.
            error: why.
            is_plain: whether it is a tensor of torch's own class, so that the fault may be ours and is told in a warning.
        """
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            self._fail(error)
            return
        self.unread[output] = f"{what}, which raises {type(error).__name__}"
        if is_plain:
            self._unreadable = self._unreadable or error

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._open = 0
