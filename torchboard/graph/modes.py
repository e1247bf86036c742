"""Two modes that tell a listener about every torch function and every operator between ``enter`` and ``leave``.

The function mode sees what the user calls, the dispatch mode what that comes down to. Both pass every call on unchanged
and return what it returned. They act on the thread that enters them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

from torchboard.graph.device_clock import DeviceClock
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
    """Reports the outermost torch functions."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener

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
        self._listener = listener
        self._device_clock = device_clock
        self._empty_call = _empty_call()

    def __torch_dispatch__(self, func: Any, types: Any, args: Arguments = (), kwargs: Keywords | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and _is_plain_composite(func, args, kwargs):
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        given = given_tensors(args, kwargs)
        token = self._listener.operator_begins(given)
        started = None if token is None else self._device_clock.start(func, given, kwargs)
        began = time.perf_counter()
        result = func(*args, **kwargs)
        seconds = max(time.perf_counter() - began - self._empty_call, _LEAST)
        span = None if started is None else self._device_clock.stop(started)
        self._listener.operator_ends(token, OperatorCall(func, args, kwargs, result, given, seconds, span))
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
    return function_mode, operator_mode


def enter_under(listener: Listener, device_clock: DeviceClock) -> Modes:
    """Puts both modes on this thread's stacks below all others, which may come off before these do.

    So they can stay on while the user's own code leaves contexts that it had entered before.
    """
    function_mode, operator_mode = FunctionMode(listener), OperatorMode(listener, device_clock)
    _put_under(operator_mode, _user_modes(), TorchDispatchMode)
    _put_under(function_mode, _get_current_function_mode_stack(), TorchFunctionMode)
    return function_mode, operator_mode


def is_on(modes: Modes) -> bool:
    """Whether the modes are on this thread's stacks."""
    return any(mode is modes[1] for mode in _get_current_dispatch_mode_stack())


def leave(modes: Modes) -> None:
    """Takes both modes off this thread's stacks, wherever in them they are; others stay in their order."""
    function_mode, operator_mode = modes
    _take_off(function_mode, _get_current_function_mode_stack(), TorchFunctionMode)
    _take_off(operator_mode, _user_modes(), TorchDispatchMode)


def _user_modes() -> list[Any]:
    """The dispatch modes of this thread but those of torch's own machinery, which have places of their own."""
    return [mode for mode in _get_current_dispatch_mode_stack() if getattr(mode, "_mode_key", None) is None]


def _put_under(mode: Any, stack: list[Any], base: Any) -> None:
    """The modes of a stack go off and on again by their base class, so that nothing of theirs runs."""
    for entry in reversed(stack):
        base.__exit__(entry, None, None, None)
    base.__enter__(mode)
    for entry in stack:
        base.__enter__(entry)


def _take_off(mode: Any, stack: list[Any], base: Any) -> None:
    """Modes entered later and not yet left go off and on again by their base class, so that nothing of theirs runs."""
    if not any(entry is mode for entry in stack):
        return
    above = []
    while stack[-1] is not mode:
        above.append(stack.pop())
        base.__exit__(above[-1], None, None, None)
    base.__exit__(mode, None, None, None)
    for entry in reversed(above):
        base.__enter__(entry)
