"""Work of ours that the user's modes do not see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from torchboard.graph.undone_writes import no_modes

_dispatch_modes = torch._C._len_torch_dispatch_stack
function_modes = torch._C._len_torch_function_stack
"""How many function modes are on."""
_transform = torch._C._functorch.maybe_current_level


def transformed() -> bool:
    """Whether a function transform of ``torch.func`` is running on this thread."""
    return _transform() is not None


def unseen() -> AbstractContextManager[None]:
    """A context in which torch's function and dispatch modes and function transforms are off; free where none is on.

    A FLOP counter or a graph recorder that watches the model must not find our reductions in it, and they are neither
    batched nor differentiated.
    """
    return _modes_off() if any_on() else nullcontext()


def any_on() -> bool:
    """Whether a function mode, a dispatch mode or a function transform is on."""
    return _dispatch_modes() > 0 or function_modes() > 0 or _transform() is not None


@contextmanager
def _modes_off() -> Iterator[None]:
    with no_modes():
        if not transformed():
            yield
            return
        with temporarily_clear_interpreter_stack():
            yield
