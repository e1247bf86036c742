"""What can be told of a distributed job without asking another rank."""

from __future__ import annotations

import torch


def is_set_up() -> bool:
    """Whether ``torch.distributed`` has set up a job in this process."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def in_a_job() -> bool:
    """Whether this process is one of several that ``torch.distributed`` has set up."""
    return is_set_up() and torch.distributed.get_world_size() > 1
