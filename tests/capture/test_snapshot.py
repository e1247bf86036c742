"""What crosses the border from a device to the host is waited for behind it, and without the device's help."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from torchboard.capture import snapshot
from torchboard.capture.snapshot import Arrivals, HostCopy, host_array
from torchboard.errors import InvalidValueError, SinkError


def test_whoever_waits_goes_on_when_the_count_says_so():
    count = np.zeros(1, np.int64)
    done = []
    waiter = threading.Thread(target=lambda: done.append(Arrivals(count).wait(2)))
    waiter.start()
    count[0] = 1
    waiter.join(0.05)
    assert waiter.is_alive()
    count[0] = 3
    waiter.join()
    assert done == [None]


def test_a_device_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(snapshot, "_PATIENCE", 0.01)
    with pytest.raises(SinkError, match="did not arrive"):
        Arrivals(np.zeros(1, np.int64)).wait(1)


def test_on_the_host_tensors_are_taken_as_they_are():
    tensors = [torch.arange(3), torch.ones(2, dtype=torch.bfloat16)]
    copy = HostCopy(tensors)
    assert copy.nbytes == 28
    assert [array.tolist() for array in copy.wait()] == [[0, 1, 2], [1.0, 1.0]]


def test_a_tensor_without_values_is_refused():
    with pytest.raises(InvalidValueError, match="meta"):
        host_array(torch.empty(3, device="meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_copies_from_a_gpu_arrive_in_order_without_a_sync():
    torch.cuda.set_sync_debug_mode("error")
    try:
        tensors = [torch.full((1000,), float(number), device="cuda") for number in range(50)]
        copies = [HostCopy([tensor, tensor.half()]) for tensor in tensors]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for number, copy in enumerate(copies):
        whole, half = copy.wait()
        assert (whole == number).all() and (half == number).all()
