"""Two modes that tell a listener about every torch function and every operator between ``enter`` and ``leave``.

The function mode sees what the user calls, the dispatch mode what that comes down to. Both pass every call on unchanged
and return what it returned. They act on the thread that enters them. As some code of torch's takes another way while there is a
mode at all, they step aside for it: the function mode for modules that may run fused, both for operators that compile themselves.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from torchboard.graph.device_clock import DeviceClock
from torchboard.graph.fused import may_run_fused
from torchboard.graph.higher_order import OperatorRun, meeting
from torchboard.graph.spans import Span
from torchboard.graph.tensors import given_tensors, is_plain
from torchboard.graph.undone_writes import UndoneWrites

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_NOTHING = torch.ops.aten.is_same_size.default
"""An operator that compares two shapes and makes nothing."""
_TRIES = 10
_LEAST = 1e-9
"""Seconds that an operator on the host takes at least: 0 says that nobody knows."""


class OperatorCall(NamedTuple):
    """An operator that ran, with what it was given and what it returned.

    Attributes:
        given: the tensors among its arguments.
        seconds: that the call took on the host, without what the measurement itself takes.
        span: the time that it takes on a device; None if it ran on the CPU, or nobody can tell.
    """

    operator: Any
    args: Arguments
    kwargs: Keywords
    result: Any
    given: list[torch.Tensor]
    seconds: float = 0.0
    span: Span | None = None


class Listener(Protocol):
    """What the modes report to. No method may raise."""

    def function_begins(self, function: Callable[..., Any], args: Arguments, kwargs: Keywords) -> Any:
        """A torch function is about to run; what this returns comes back in ``function_ends``."""

    def function_ends(self, token: Any, result: Any) -> None:
        """It returned ``result``, or raised and ``result`` is None."""

    def operator_begins(self, given: list[torch.Tensor]) -> Any:
        """An operator is about to run on these tensors; what this returns comes back in ``operator_ends``.

        None if nobody wants to know of it.
        """

    def operator_ends(self, token: Any, call: OperatorCall) -> None:
        """It ran."""


class FunctionMode(TorchFunctionMode):
    """Reports the outermost torch functions, but for those in modules that would not run fused while it is on."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener
        self._aside: tuple[nn.Module, int, int] | None = None  # for which module, on which thread, from which place
        before, after = register_module_forward_pre_hook, register_module_forward_hook
        self._handles = before(self._step_aside), after(self._step_back, always_call=True)

    def close(self) -> None:
        """It is off, and steps aside no longer."""
        self._aside = None
        for handle in self._handles:
            handle.remove()

    def _step_aside(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or self._aside is not None or not may_run_fused(module):
            return
        stack = _get_current_function_mode_stack()
        place = next((place for place, mode in enumerate(stack) if mode is self), None)
        if place is not None:
            self._aside = module, get_ident(), place
            _take_off(self, stack, TorchFunctionMode)

    def _step_back(self, module: nn.Module, args: Any, result: Any) -> None:
        if torch.compiler.is_compiling() or self._aside is None:
            return
        whose, thread, place = self._aside
        if whose is module and thread == get_ident():
            self._aside = None
            _put_under(self, _get_current_function_mode_stack()[place:], TorchFunctionMode)

    def __torch_function__(self, func: Any, types: Any, args: Arguments = (), kwargs: Keywords | None = None) -> Any:
        kwargs = kwargs or {}
        token = self._listener.function_begins(func, args, kwargs)
        result = None
        try:
            result = func(*args, **kwargs)
        finally:
            self._listener.function_ends(token, result)
        return result


class OperatorMode(TorchDispatchMode):
    """Reports the operators that reach the dispatcher.

    In inference mode, composite operators such as ``linear`` arrive whole. They are run by their parts, as everywhere
    else, so that a pass has the same operators in every mode.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No to a wrapper around every call, which keeps the compiler out of it and imports the compiler for that: a second.

        Where code is compiled, a recorded pass runs in the stance ``force_eager``, which keeps it out as well.
        """
        return False

    def __init__(self, listener: Listener, device_clock: DeviceClock) -> None:
        super().__init__()
        self.listener = listener
        self._device_clock = device_clock
        self._empty_call = _empty_call()

    def __torch_dispatch__(self, func: Any, types: Any, args: Arguments = (), kwargs: Keywords | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and _is_plain_composite(func, args, kwargs):
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        given = given_tensors(args, kwargs)
        token = self.listener.operator_begins(given)
        started = None if token is None else self._device_clock.start(func, given, kwargs)
        began = time.perf_counter()
        result = func(*args, **kwargs)
        seconds = max(time.perf_counter() - began - self._empty_call, _LEAST)
        span = None if started is None else self._device_clock.stop(started)
        self.listener.operator_ends(token, OperatorCall(func, args, kwargs, result, given, seconds, span))
        return result


def _empty_call() -> float:
    """Seconds that the clock shows for an operator that does nothing, the least of some; no mode sees it."""
    spent = []
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        empty = torch.empty(0, device="cpu")
        for _ in range(_TRIES):
            began = time.perf_counter()
            _NOTHING(empty, empty)
            spent.append(time.perf_counter() - began)
    return min(spent)


def _is_plain_composite(operator: Any, args: Arguments, kwargs: Keywords) -> bool:
    """Whether an operator is made of others on tensors like these; nested, sparse and wrapped ones have their own ways."""
    if not isinstance(operator, torch._ops.OpOverload):
        return False
    if not torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), _COMPOSITE):
        return False
    tensors = given_tensors(args, kwargs)
    return all(map(is_plain, tensors))


Modes = tuple[FunctionMode, OperatorMode]


def enter(listener: Listener, device_clock: DeviceClock) -> Modes:
    """Puts both modes on this thread's stacks; operators on devices are timed by that clock.

    The mode of a quiet pass stays above, so that its time is no operator's.
    """
    function_mode, operator_mode = FunctionMode(listener), OperatorMode(listener, device_clock)
    _put_under(
        operator_mode, [mode for mode in _user_modes()[-1:] if isinstance(mode, UndoneWrites)], TorchDispatchMode
    )
    function_mode.__enter__()
    meeting.begin(run_aside)
    return function_mode, operator_mode


def enter_under(listener: Listener, device_clock: DeviceClock) -> Modes:
    """Puts both modes on this thread's stacks below all others, which may come off before these do.

    So they can stay on while the user's own code leaves contexts that it had entered before.
    """
    function_mode, operator_mode = FunctionMode(listener), OperatorMode(listener, device_clock)
    _put_under(operator_mode, _user_modes(), TorchDispatchMode)
    _put_under(function_mode, _get_current_function_mode_stack(), TorchFunctionMode)
    meeting.begin(run_aside)
    return function_mode, operator_mode


def is_on(modes: Modes) -> bool:
    """Whether the modes are on this thread's stacks."""
    return any(mode is modes[1] for mode in _get_current_dispatch_mode_stack())


def leave(modes: Modes) -> None:
    """Takes both modes off this thread's stacks, wherever in them they are; others stay in their order."""
    function_mode, operator_mode = modes
    _take_off(function_mode, _get_current_function_mode_stack(), TorchFunctionMode)
    _take_off(operator_mode, _user_modes(), TorchDispatchMode)
    function_mode.close()
    meeting.end(run_aside)


def run_aside(call: OperatorRun) -> Any:
    """Makes a call with the modes of this package off, and reports it as one operator."""
    listeners = [mode.listener for mode in _user_modes() if isinstance(mode, OperatorMode)]
    if listeners:
        _let_in()
    given = given_tensors(call.args, {})
    tokens = [listener.operator_begins(given) for listener in listeners]
    began = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(_without_ours(_get_current_function_mode_stack(), TorchFunctionMode))
        stack.enter_context(_without_ours(_user_modes(), TorchDispatchMode))
        result = call.run()
    seconds = time.perf_counter() - began
    for listener, token in zip(listeners, tokens):
        done = OperatorCall(_named(call.name), call.args, {}, result, given, seconds)
        listener.operator_ends(token, done)
    return result


def _let_in() -> None:
    """For what runs in a backward pass: older versions of torch ask each such operator for a rule, later ones the mode."""
    for operator in getattr(torch._ops, "_higher_order_ops", {}).values():
        operator.python_key_table.setdefault(OperatorMode, functools.partial(_dispatched, operator))


def _dispatched(operator: Any, mode: OperatorMode, *args: Any, **kwargs: Any) -> Any:
    return mode.__torch_dispatch__(operator, (), args, kwargs)


class _Named:
    """What stands for an operator that has a name and no schema."""

    def __init__(self, name: str) -> None:
        self.__name__ = name


_named = functools.cache(_Named)


@contextmanager
def _without_ours(stack: list[Any], base: Any) -> Iterator[None]:
    """The modes of this package are off; those of others stay, and so does the order of all."""
    others = [mode for mode in stack if not type(mode).__module__.startswith(__package__.partition(".")[0] + ".")]
    if len(others) == len(stack):
        yield
        return
    _exchange(stack, others, base)
    try:
        yield
    finally:
        _exchange(others, stack, base)


def _exchange(off: list[Any], on: list[Any], base: Any) -> None:
    for entry in reversed(off):
        base.__exit__(entry, None, None, None)
    for entry in on:
        base.__enter__(entry)


def _user_modes() -> list[Any]:
    """The dispatch modes of this thread but those of torch's own machinery, which have places of their own."""
    return [mode for mode in _get_current_dispatch_mode_stack() if getattr(mode, "_mode_key", None) is None]


def _put_under(mode: Any, stack: list[Any], base: Any) -> None:
    """The modes of a stack go off and on again by their base class, so that nothing of theirs runs."""
    _exchange(stack, [mode, *stack], base)


def _take_off(mode: Any, stack: list[Any], base: Any) -> None:
    """Modes entered later and not yet left go off and on again by their base class, so that nothing of theirs runs."""
    place = next((place for place, entry in enumerate(stack) if entry is mode), None)
    if place is not None:
        _exchange(stack[place:], stack[place + 1 :], base)
