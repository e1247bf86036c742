"""The one border where data cross from a device to the host.

The training thread starts a copy and goes on; whoever settles the values, on the sink's thread, waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from torchboard.errors import InvalidValueError, SinkError
from torchboard.values import Scalar, Value

_PATIENCE = 600.0
"""Seconds to wait for a copy."""
_LOOK = 0.001
"""Seconds between looks."""


class Arrivals:
    """How many copies have arrived in host memory, as the device itself counts them there.

    Args:
        count: int64[1], written by the device alone.
    """

    def __init__(self, count: np.ndarray) -> None:
        self._count = count

    def wait(self, number: int) -> None:
        """Returns when ``number`` copies have arrived. Looks at memory, every millisecond, and calls nothing else.

        Raises:
            SinkError: it took more than ten minutes.
        """
        deadline = time.monotonic() + _PATIENCE
        while self._count[0] < number:
            if time.monotonic() > deadline:
                raise SinkError(
                    f"a copy that did not arrive in {_PATIENCE} s",
                    "the device has failed, or hangs",
                    "see what training says; this event is lost",
                )
            time.sleep(_LOOK)


class _Stream:
    """The way from one CUDA device to the host: a stream of its own, and a count of what has arrived.

    The count is a number on the device that goes up behind every copy and is copied after it. So whoever waits needs no call
    to CUDA, which from another thread would break a graph that is being captured.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._device = device
        with torch.cuda.stream(self._stream):
            self._sent = torch.zeros(1, dtype=torch.int64, device=device)
        self._arrived = torch.zeros(1, dtype=torch.int64, device="cpu", pin_memory=True)
        self._number = 0
        self.arrivals = Arrivals(self._arrived.numpy())

    def send(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        """Starts copies behind the work on the current stream; waits for nothing.

        Returns:
            The copies, in pinned memory, and their number in ``arrivals``.
        """
        copies = [torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True) for tensor in tensors]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for copy, tensor in zip(copies, tensors):
                copy.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._stream)
            self._sent.add_(1)
            self._arrived.copy_(self._sent, non_blocking=True)
        self._number += 1
        return copies, self._number


@cache
def _stream_of(device: torch.device) -> _Stream:
    return _Stream(device)


class HostCopy:
    """Tensors on their way to the host.

    On CUDA the copies go into pinned memory on a stream of their own, behind the work already queued, and the device says
    itself when they are there. Elsewhere the tensors are taken as they are.

    Args:
        tensors: detached, and not written to from now on.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._due: list[tuple[Arrivals, int]] = []
        for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
            places = [place for place, tensor in enumerate(tensors) if tensor.device == device]
            stream = _stream_of(device)
            copies, number = stream.send([tensors[place] for place in places])
            self._due.append((stream.arrivals, number))
            for place, copy in zip(places, copies):
                self._tensors[place] = copy

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors)

    def wait(self) -> list[np.ndarray]:
        """The tensors as arrays, once they have arrived. Blocks the calling thread."""
        for arrivals, number in self._due:
            arrivals.wait(number)
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


def host_number(tensor: Tensor) -> float:
    """The number that a real tensor with one element on the CPU holds; there is nothing to wait for."""
    return float(tensor.item())


def host_array(tensor: Tensor) -> np.ndarray:
    """Any tensor as an array of its own values; bfloat16 and 8-bit floats as float32, which holds them exactly.

    Waits for the device.

    Raises:
        InvalidValueError: a tensor on ``meta`` has no values, and those of a fake or a ragged one cannot be had.
    """
    if tensor.device.type == "meta":
        raise InvalidValueError(
            f"a meta tensor of shape {list(tensor.shape)}", "it has no values", "log it after it is materialised"
        )
    try:
        return _dense_on_host(tensor.detach())
    except (RuntimeError, TypeError) as error:
        came = f"a {type(tensor).__name__} of shape {list(tensor.shape)} and {tensor.dtype}"
        wrong = f"its values cannot be had as an array ({error})"
        raise InvalidValueError(came, wrong, "give a plain, dense tensor") from error


def _dense_on_host(tensor: Tensor) -> np.ndarray:
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype.is_floating_point and tensor.dtype not in (torch.float64, torch.float32, torch.float16):
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().cpu().numpy()
