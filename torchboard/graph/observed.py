"""The graph of a forward pass that the user's own training makes: no extra pass, no tracing, nothing changed.

A ``GraphRecorder`` puts hooks on the model's modules and waits. When the model is called, the root's pre hook enters a
function mode and a dispatch mode on that thread and its post hook leaves them; what happens in between is written down
by a ``Tape``. Then everything takes itself off. Outputs, gradients, buffers and random state are what they would have
been, bit for bit: where torch itself takes another path in the presence of hooks or modes, they step aside. A pass while the
model is compiled or traced is left alone, and so is the recomputation of a checkpoint.

The cost is about a hundred microseconds an operator, in that one pass. Nothing of the recorder's can make the pass
fail: an error of its own ends the recording, is kept, and the pass goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from torchboard.errors import InvalidValueError
from torchboard.graph import modes
from torchboard.graph.drafts import Function
from torchboard.graph.fused import FusedLayers
from torchboard.graph.hooks import GuardedHook, in_backward
from torchboard.graph.module_names import module_names, unwrapped
from torchboard.graph.nodes import Graph, Source
from torchboard.graph.tape import Tape


class GraphRecorder:
    """Records the graph of the model's next forward pass.

    Args:
        model: any module, wrapped or not. Modules compiled by TorchScript are seen by their operators only. A model
            that ``torch.compile`` has compiled is recorded if that pass runs eagerly.
        of_training: whether a pass in evaluation mode without gradients is only what there is before another one comes.

    Attributes:
        graph: what was recorded; None until a pass has gone through to its end.
        partial: what ran of the last pass that raised, or of one that is only something for now; None if there was none.
            The recorder waits for the next pass.
        error: what ended the recording before that; None as a rule.
        is_bypassed: whether layers were called while the model itself was not.
    """

    def __init__(self, model: nn.Module, of_training: bool = False) -> None:
        self._of_training = of_training
        self.is_bypassed = False
        self.graph: Graph | None = None
        self.partial: Graph | None = None
        self.error: Exception | None = None
        self._model = model
        self._pass: _Pass | None = None
        self._handles: list[RemovableHandle | FusedLayers] = []
        self._turn = [True]

    @property
    def waits(self) -> bool:
        """Whether the hooks are on."""
        return bool(self._handles)

    def attach(self) -> None:
        """Puts the hooks on; does nothing while they are on. After a recording it starts a new one."""
        if self._handles:
            return
        self.error = None
        names, root = module_names(self._model), unwrapped(self._model)
        if isinstance(root, torch.jit.ScriptModule):
            self.error = InvalidValueError(
                f"a {type(root).__name__}", "TorchScript takes no hooks", "record it unscripted"
            )
            return
        fused = FusedLayers(names)
        fused.put_on()
        self._handles.append(fused)
        for module, name in names.items():
            if not isinstance(module, torch.jit.ScriptModule):
                self._hook(module, name, module is root)

    def detach(self) -> None:
        """Takes the hooks off and ends a recording that runs; if that is on another thread, when its pass ends."""
        running = self._pass
        if running is not None and not running.end():
            return
        self._over()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, module: nn.Module, name: str, is_root: bool) -> None:
        begins = self._root_begins if is_root else functools.partial(self._begins, name)
        ends = self._root_ends if is_root else functools.partial(self._ends, name)
        hook = GuardedHook(begins, self._failed)
        # A layer's comes before all others, so that what they do for its call, such as to gather its weights, is in its box.
        self._handles.append(module.register_forward_pre_hook(hook, prepend=not is_root, with_kwargs=is_root))
        self._handles.append(module.register_forward_hook(GuardedHook(ends, self._failed), always_call=True))

    def _begins(self, name: str, module: nn.Module, args: Any) -> None:
        if (running := self._running()) is not None:
            running.tape.enter(module, name)
        elif self._pass is None and not in_backward() and not _is_evaluation(module):
            self.is_bypassed = True

    def _ends(self, name: str, module: nn.Module, args: Any, result: Any) -> None:
        if (running := self._running()) is not None:
            running.tape.leave(name)

    def _root_begins(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        running = self._pass
        if in_backward() or kwargs is None:  # a hook in front of this one has taken it off
            return
        if running is not None and running.is_alive():
            self._begins("", module, args)
        elif (self.partial is None or not self._is_makeshift(module)) and self._may_start():
            self._pass = _Pass(Tape(module, module_names(self._model)))
            self._pass.tape.give(module, args, kwargs)
            self._pass.tape.enter(module, "")
            self._pass.begin()

    def _is_makeshift(self, module: nn.Module) -> bool:
        return self._of_training and _is_evaluation(module)

    def _may_start(self) -> bool:
        """Whether a pass may begin now. Of several threads that call the model at once (``DataParallel``) one may."""
        if self._pass is not None:
            if not self._pass.end():
                return False
            self._over()
        try:
            return self._turn.pop()
        except IndexError:
            return False

    def _over(self) -> None:
        self._pass = None
        self._turn[:] = [True]

    def _root_ends(self, module: nn.Module, args: Any, result: Any) -> None:
        running = self._pass
        if running is None or not running.is_mine() or in_backward():
            return
        if running.is_alive():
            running.guarded(running.tape.leave, "")
            if running.tape.depth and running.error is None:
                return
        alive, wanted, raised = running.is_alive(), not running.over, running.raised(result)
        complete = alive and raised is None
        running.end()
        self._over()
        self.error = running.error or self.error
        if complete and self._is_makeshift(module):
            running.tape.take(result)
            self.partial, complete = running.tape.graph(), False
        elif complete:
            running.tape.take(result)
            self.graph = running.tape.graph()
        elif alive:
            note, graph = f"the pass raised {type(raised).__name__}, and this is what ran before", running.tape.graph()
            self.partial = dataclasses.replace(graph, note="; ".join(filter(None, (note, graph.note))))
        if complete or not wanted or self.error is not None:
            self.detach()

    def _failed(self, error: Exception) -> None:
        """An error of ours in a hook: recording is over, and the model goes on."""
        self.error = error
        if self._pass is not None:
            self._pass.error = error
        else:
            self.detach()

    def _running(self) -> _Pass | None:
        """The pass that is being recorded, if this is a call within it."""
        running = self._pass
        return running if running is not None and running.is_listening() and not in_backward() else None


class _Pass:
    """One pass that is being recorded: the listener of the two modes.

    It ends with the frame that called the model. Normally the root's post hook says so, but a ``KeyboardInterrupt``
    runs no hooks; so every report first asks whether that frame is still running. After an interrupt the modes stay on
    the thread and do nothing, until the model's next pass or ``detach``.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.over = False
        self.error: Exception | None = None
        self._frame: FrameType | None = _calling_frame()
        self._handled = sys.exc_info()[1]
        self._modes: modes.Modes | None = None

    def begin(self) -> None:
        self._modes = modes.enter(self, self.tape.device_clock)

    def end(self) -> bool:
        """Leaves the modes and returns True; but if the pass goes on, on another thread, it only ends the recording."""
        self.over = True
        if self._runs() and not self.is_mine():
            return False
        if self._modes is not None:
            modes.leave(self._modes)
        self._modes = self._frame = self._handled = None
        return True

    def is_mine(self) -> bool:
        """Whether what happens now happens within the pass: the frame that called the model is below this one."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame is not self._frame:
            frame = frame.f_back
        return frame is not None

    def is_alive(self) -> bool:
        """Whether it is being recorded still, on whatever thread."""
        return not self.over and self.error is None and self._runs()

    def is_listening(self) -> bool:
        """Whether what happens now is to be recorded."""
        return not self.over and self.error is None and self.is_mine()

    def raised(self, result: Any) -> BaseException | None:
        """What the model raised: then its post hooks get None, while an exception is handled that was not before."""
        handled = sys.exc_info()[1]
        return handled if result is None and handled is not self._handled else None

    def function_begins(
        self, function: Callable[..., Any], args: modes.Arguments, kwargs: modes.Keywords
    ) -> Function | None:
        return self.guarded(self.tape.begin, function, args, kwargs) if self.is_listening() else None

    def function_ends(self, token: Function | None, result: Any) -> None:
        if token is not None:
            self.guarded(self.tape.end, token, result)

    def operator_begins(self, given: list[torch.Tensor]) -> tuple[Source, ...] | None:
        """Operators of a backward pass inside this one may run on a thread of autograd's, which has the modes too."""
        return self.guarded(self.tape.sources, given) if self.is_alive() else None

    def operator_ends(self, token: tuple[Source, ...] | None, call: modes.OperatorCall) -> None:
        if token is not None:
            self.guarded(self.tape.ran, call, token)

    def guarded(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """What ``action`` returns; an exception ends the recording instead, and None comes back."""
        try:
            return action(*arguments)
        except Exception as error:
            self.error = error
            return None

    def _runs(self) -> bool:
        """Whether the frame that called the model is still running: a running frame refuses to be cleared."""
        if self._frame is None:
            return False
        try:
            self._frame.clear()
        except RuntimeError:
            return True
        self._frame = None
        return False


def _is_evaluation(module: nn.Module) -> bool:
    return not module.training and not torch.is_grad_enabled()


def _calling_frame() -> FrameType | None:
    """The outermost of the frames in which torch calls the model and its hooks, those after an exception included."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals["__name__"] in (__name__, GuardedHook.__module__):
        frame = frame.f_back
    while frame is not None and frame.f_back is not None and frame.f_back.f_globals is frame.f_globals:
        frame = frame.f_back
    return frame
