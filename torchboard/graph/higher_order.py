"""Operators that take functions, and compile themselves for it: ``torch.cond``, ``scan``, ``map``, ``while_loop`` and their like.

Called in code that is not compiled, such an operator calls ``torch.compile`` on itself, to find the tensors that its functions
refer to. Where the compiler is told to run everything eagerly, or a dispatch mode is on, it finds none: ``cond`` raises, others
lose gradients. So while either is so for our sake, that one call to ``torch.compile`` is met, and what stands in its way steps
aside for it. Torch has no other place where all of these operators can be met before they begin.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from threading import RLock
from types import FrameType
from typing import Any, NamedTuple

import torch

_HOMES = "torch._higher_order_ops", "torch.nn.attention.flex_attention"
"""Modules in which these operators are."""


class OperatorRun(NamedTuple):
    """A call of such an operator: ``run()`` makes it.

    Attributes:
        name: what the user called, such as ``cond``.
        args: what the operator was given, the functions among it.
    """

    name: str
    args: tuple[Any, ...]
    run: Callable[[], Any]


Around = Callable[[OperatorRun], Any]
"""Makes a call and returns what it returned."""


class _Meeting:
    """What is done around each call of these operators, while there is anything to be done."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._around: Counter[Around] = Counter()
        self._compile: Callable[..., Any] | None = None
        self._ours: Callable[..., Any] | None = None

    def begin(self, around: Around) -> None:
        """From now on ``around`` makes these calls, within what others have begun before."""
        with self._lock:
            self._around[around] += 1
            if torch.compile is not self._ours and len(self._around) == 1:
                if torch.compile is not self._compile:
                    self._compile = torch.compile
                    self._ours = self._meets(torch.compile)
                torch.compile = self._ours

    def end(self, around: Around) -> None:
        """As often as it was begun."""
        with self._lock:
            self._around[around] -= 1
            if not self._around[around]:
                del self._around[around]
            if not self._around:
                if torch.compile is self._ours:
                    torch.compile = self._compile

    def _meets(self, compiles: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(compiles)
        def compile(*args: Any, **kwargs: Any) -> Any:
            compiled, name = compiles(*args, **kwargs), _operator(sys._getframe(1))
            return compiled if name is None else functools.partial(self._call, name, compiled)

        return compile

    def _call(self, name: str, compiled: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        run = functools.partial(compiled, *args, **kwargs)
        for around in [*self._around]:
            run = functools.partial(around, OperatorRun(name, args, run))
        return run()


meeting = _Meeting()
"""The one of this process."""


def _operator(frame: FrameType | None) -> str | None:
    """The function of torch's that the user called, if ``torch.compile`` is called for such an operator from this frame."""
    name = None
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(_HOMES):
        name, frame = frame.f_code.co_name, frame.f_back
    return name
