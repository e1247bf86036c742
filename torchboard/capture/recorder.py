"""Layer outputs and their gradients, from forward hooks that sit on the model in armed windows only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchboard.capture.gradient_tap import graph_task, tap
from torchboard.capture.modes import unseen
from torchboard.capture.options import Capture
from torchboard.capture.overhead import Overhead
from torchboard.capture.select import check_include, layers, tag
from torchboard.capture.sketches import Row, Sketches, SketchSnapshot
from torchboard.capture.tensors import measurable, tensors_in
from torchboard.graph.eager import compiled_modules, eager_windows
from torchboard.graph.inert import InertWhenCopied

TRAIN = "train"
"""The phase of the training passes."""


class Recorder:
    """Sketches what every selected layer puts out, and what comes back to it in the backward pass.

    Armed, each layer carries one forward hook; disarmed, none. A hook folds each output into a row on its device and
    leaves; outputs, their history and the random state stay as they are. A fault of ours never leaves a hook: it is kept
    in ``error`` and the recorder stays silent from then on.

    Args:
        model: hooks go on its layers, and only while armed.
        options: which layers, and whether outputs and gradients are wanted.
        overhead: measures the time that hooks take.

    Raises:
        InvalidValueError: what ``options`` include is not there.

    Attributes:
        phase: the phase that passes belong to now. In the training phase, a pass of a layer in evaluation mode without
            gradients is somebody's evaluation and is not recorded.
        error: what went wrong inside a hook, if anything did.
    """

    def __init__(self, model: nn.Module, options: Capture, overhead: Overhead | None = None) -> None:
        check_include(model, options)
        self._overhead = overhead or Overhead()
        self.phase = TRAIN
        self.error: Exception | None = None
        self._model = model
        self._options = options
        self._sketches: dict[str, Sketches] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._window = 0
        self._runs_eagerly = False

    @property
    def armed(self) -> bool:
        """Whether hooks sit on the model."""
        return bool(self._handles)

    def arm(self, on: bool) -> None:
        """Puts the hooks on, or takes them off; about 1.5 us a layer.

        Layers are looked up when hooks are put on: those that are added to the model later are seen from then on.
        Compiled code runs eagerly in between, if the options say so. Called while such code runs compiled, it puts no
        hooks on.
        """
        if on == self.armed:
            return
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._runs_eagerly:
            self._runs_eagerly = False
            eager_windows.leave()
        if on and self.error is None and (self._options.activations or self._options.gradients):
            self._put_on()

    def arm_for_one_pass(self) -> None:
        """Puts the hooks on until the model's next forward pass has ended."""
        self.arm(True)
        if self.armed:
            self._handles.append(self._model.register_forward_hook(_PassEnd(self)))

    def phases(self) -> list[str]:
        """The phases seen so far."""
        return list(self._sketches)

    def collect(self, phase: str) -> list[SketchSnapshot]:
        """The sketches of one phase since the last call, on their way to the host."""
        sketches = self._sketches.get(phase)
        return sketches.collect() if sketches else []

    def observe_output(self, hook: _ForwardHook, module: nn.Module, output: object) -> None:
        """Records one output of one layer; never raises."""
        try:
            if self.phase == TRAIN and not module.training and not torch.is_grad_enabled():
                return
            with self._overhead, unseen():
                for suffix, tensor in tensors_in(output):
                    self._observe(hook, suffix, tensor)
        except Exception as error:
            self.error = error

    def _put_on(self) -> None:
        left_out: set[nn.Module] = set()
        if self._options.compiled == "skip":
            left_out = compiled_modules(self._model)
        elif eager_windows.enter():
            self._runs_eagerly = True
        else:
            return
        self._window += 1
        for name, module in layers(self._model, self._options):
            if module not in left_out:
                self._handles.append(module.register_forward_hook(_ForwardHook(self, name)))

    def _observe(self, hook: _ForwardHook, suffix: str, tensor: Tensor) -> None:
        recomputed = graph_task() != -1  # activation checkpointing runs the forward pass again inside the backward pass
        if self._options.activations and not recomputed:
            local = measurable(tensor)
            if local is not None:
                hook.row("activations", suffix, local.device).observe_(local)
        if self._options.gradients and tensor.grad_fn is not None:
            tap(tensor, _Report(self, hook, suffix))

    def observe_gradient(self, report: _Report, gradient: Tensor) -> None:
        """Records one gradient, unless its window has closed since; never raises."""
        try:
            if self.armed and report.window == self._window and self.error is None:
                with self._overhead:
                    row = report.hook.row("activation_gradients", report.suffix, gradient.device)
                    row.observe_(gradient)
        except Exception as error:
            self.error = error

    def sketches(self) -> Sketches:
        """The sketches of the current phase."""
        return self._sketches.setdefault(self.phase, Sketches())


class _ForwardHook(InertWhenCopied):
    """What sits on a layer while armed."""

    __slots__ = ("_recorder", "_name", "_rows")

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder = recorder
        self._name = name
        self._rows: dict[tuple, Row] = {}

    def __call__(self, module: nn.Module, args: tuple, output: object) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or self._recorder.error is not None:
            return
        self._recorder.observe_output(self, module, output)

    def row(self, kind: str, suffix: str, device: torch.device) -> Row:
        """The row of one of the layer's outputs, remembered for the window."""
        key = (kind, suffix, device, self._recorder.phase)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = self._recorder.sketches().row(tag(kind, self._name) + suffix, device)
        return row


class _PassEnd(InertWhenCopied):
    """Disarms when the model's forward pass has ended."""

    __slots__ = ("_recorder",)

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, module: nn.Module, args: tuple, output: object) -> None:
        if not torch.compiler.is_compiling():
            self._recorder.arm(False)


class _Report:
    """Takes one gradient to the recorder, with the window it belongs to."""

    __slots__ = ("_recorder", "hook", "suffix", "window")

    def __init__(self, recorder: Recorder, hook: _ForwardHook, suffix: str) -> None:
        self._recorder = recorder
        self.hook = hook
        self.suffix = suffix
        self.window = recorder._window

    def __call__(self, gradient: Tensor) -> None:
        self._recorder.observe_gradient(self, gradient)
