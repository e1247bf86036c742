"""A part of a large tensor that stands for all of it: blocks of neighbouring elements, evenly spread.

**The error.** In n elements of data without an order, a share p of them that lies below some value (or in some bins) is found
with the standard error sqrt(p (1 - p) / n): 0.1 % of all elements at most for n = 262,144 (2**18), 0.4 % for 2**14. Neighbours in
a tensor are often alike, and then it is larger, up to 16 times as large where the 256 elements of each block are all equal. The
extremes are those of the sample. Where blocks lie depends on the tensor's size alone, so steps are compared at the same places.
"""

from __future__ import annotations

import torch

from torchboard.sketch import reference

BLOCK = 256
"""Neighbouring elements of a block."""
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def blocks_of(tensor: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many elements of a tensor, on its device and of its type; the tensor itself if it has no more.

    Blocks are taken in the order of the memory, at even distances but for a jitter that keeps off the columns of a matrix. An
    expanded dimension is not sampled: its elements are read once and count as often as they occur. Waits for nothing.

    Args:
        tensor: strided and real.
        most: from ``BLOCK`` on.
    """
    flat, times = reference.storage_order(tensor)
    whole = flat.numel() // BLOCK
    number = most // BLOCK
    if flat.numel() <= most or number >= whole:
        return tensor
    place = torch.arange(number, device=flat.device)
    jitter = ((place * 2654435761) >> 7) % (whole // number)
    words = flat.view(_WORDS[flat.element_size()])[: whole * BLOCK].view(whole, BLOCK)
    sample = words.index_select(0, place * whole // number + jitter).view(flat.dtype)
    return sample.expand(times, -1, -1) if times > 1 else sample
