"""What is held does not grow with the number of steps."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from torchboard import Capture, Monitor
from torchboard.sink.null import NullSink

EARLY, LATE = 250, 450
SLACK = 150
"""Fewer than the steps in between: whatever stayed behind of each of them would be more. Caches may still fill up."""


def held() -> tuple[int, int]:
    """Tensors, and objects that Python collects."""
    gc.collect()
    objects = gc.get_objects()
    return sum(issubclass(type(one), torch.Tensor) for one in objects), len(objects)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("epoch", [25, 10_000], ids=["short epochs", "one epoch"])
def test_a_long_training_holds_what_a_short_one_does(epoch):
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Linear(16, 2))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    marks = []
    with Monitor(model, sink=NullSink(), capture=Capture(every=1), write_images=True) as monitor:
        for step in range(1, LATE + 1):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 8)).square().mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            monitor.log_batch(loss=loss.detach())
            if step % epoch == 0:
                monitor.log_epoch()
            if step in (EARLY, LATE):
                marks.append(held())
    (tensors, objects), (later_tensors, later_objects) = marks
    assert later_tensors <= tensors + SLACK and later_objects <= objects + SLACK
