"""``torch.ops.torchboard.observe_``: the fold of a tensor into a row as an operator of torch.

Its schema says what it changes, so a compiled graph keeps it in place and in order. Autograd does not record it, and
under a fake tensor it does nothing. About 2 us a call on top of the fold.

Importing this module declares the operator and does nothing else.
"""

from __future__ import annotations

import torch

from torchboard.sketch import host, reference

_library = torch.library.Library("torchboard", "FRAGMENT")
_library.define("observe_(Tensor(a!) counts, Tensor(b!) moments, Tensor(c!) parameters, int row, Tensor tensor) -> ()")


def _observe_nothing(
    counts: torch.Tensor, moments: torch.Tensor, parameters: torch.Tensor, row: int, tensor: torch.Tensor
) -> None:
    """Tensors without data: nothing to fold, and nothing to give."""


_library.impl("observe_", torch.library.fallthrough_kernel, "Autograd")
_library.impl("observe_", reference.observe_, "CompositeExplicitAutograd")
_library.impl("observe_", host.observe_, "CPU")
_library.impl("observe_", _observe_nothing, "Meta")

observe_ = torch.ops.torchboard.observe_.default
"""Adds every element of ``tensor`` to one row of three buffers; see ``reference.observe_``."""
