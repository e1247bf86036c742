"""Work of ours that the user's modes do not see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import _disable_current_modes


def unseen() -> AbstractContextManager[None]:
    """A context in which torch's function and dispatch modes are off; free where none is on.

    A FLOP counter or a graph recorder that watches the model must not find our reductions in it.
    """
    if not torch._C._len_torch_dispatch_stack() and not torch._C._len_torch_function_stack():
        return nullcontext()
    return _modes_off()


@contextmanager
def _modes_off() -> Iterator[None]:
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield
