"""The one border where data cross from a device to the host.

The training thread starts a copy and goes on; whoever settles the values, on the sink's thread, waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from torchboard.errors import InvalidValueError
from torchboard.values import Scalar, Value


class HostCopy:
    """Tensors on their way to the host.

    On CUDA the copies go into pinned memory behind the work already queued, and an event marks their arrival. Elsewhere
    the tensors are taken as they are.

    Args:
        tensors: detached, and not written to from now on.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._arrivals: list[torch.cuda.Event] = []
        self._tensors = [self._start(tensor) for tensor in tensors]
        for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
            arrival = torch.cuda.Event()
            arrival.record(torch.cuda.current_stream(device))
            self._arrivals.append(arrival)

    def _start(self, tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return pinned.copy_(tensor, non_blocking=True)

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors)

    def wait(self) -> list[np.ndarray]:
        """The tensors as arrays, once they have arrived. Blocks the calling thread."""
        for arrival in self._arrivals:
            arrival.synchronize()
        return [host_array(tensor) for tensor in self._tensors]


@dataclass(frozen=True)
class Snapshot:
    """Values of one kind on their way to the host; what a subclass adds is ``settle``, and then it is a ``Pending``.

    Attributes:
        tags: one a value.
        copy: the tensors that the values are made of.
    """

    tags: tuple[str, ...]
    copy: HostCopy

    kind: ClassVar[type]
    """What ``settle`` gives under each of the tags."""

    @property
    def nbytes(self) -> int:
        return self.copy.nbytes

    @property
    def plugins(self) -> dict[str, str]:
        return dict.fromkeys(self.tags, self.kind.plugin)


class Numbers(Snapshot):
    """Scalars: float tensors, 1-d, that together hold one number a tag."""

    kind = Scalar

    def settle(self) -> Iterable[tuple[str, Value]]:
        numbers = np.concatenate(self.copy.wait())
        return [(tag, Scalar(float(number))) for tag, number in zip(self.tags, numbers)]


def host_array(tensor: Tensor) -> np.ndarray:
    """Any tensor as an array of its own values; bfloat16 and 8-bit floats as float32, which holds them exactly.

    Waits for the device.

    Raises:
        InvalidValueError: a tensor on ``meta`` has no values.
    """
    if tensor.device.type == "meta":
        raise InvalidValueError(
            f"a meta tensor of shape {list(tensor.shape)}", "it has no values", "log it after it is materialised"
        )
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype.is_floating_point and tensor.dtype not in (torch.float64, torch.float32, torch.float16):
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().cpu().numpy()
