"""Monitors that nobody closes, collected where the garbage collection pleases."""

from __future__ import annotations

import gc
import threading

import pytest
from torch import nn

from torchboard import Monitor, SummaryWriter, live, read
from torchboard.errors import TorchboardWarning


class Collecting:
    """Values that come while rubbish is collected on the thread that waits for them."""

    nbytes, plugins = 0, {}

    def settle(self):
        gc.collect()
        return ()


def collect_within_a_lock(writer):
    with live._lock:
        gc.collect()


def collect_on_the_thread_that_writes(writer):
    writer._run.write(0, (), pending=(Collecting(),))


@pytest.mark.parametrize("collect", [collect_within_a_lock, collect_on_the_thread_that_writes])
@pytest.mark.parametrize("shared", [False, True])
def test_a_monitor_may_be_collected_anywhere(tmp_path, collect, shared):
    def train():
        model = nn.Linear(2, 2)
        model.monitor = Monitor(model, tmp_path / "run")
        model.monitor.writer.add_scalar("last", 1.0)
        beside = SummaryWriter(tmp_path / "run" if shared else tmp_path / "other")
        beside.add_scalar("mine", 2.0)
        del model
        collect(beside)
        beside.add_scalar("mine", 3.0, 1)
        beside.close()

    gc.collect()
    gc.disable()
    thread = threading.Thread(target=train, daemon=True)
    try:
        thread.start()
        thread.join(20)
    finally:
        gc.enable()
    assert not thread.is_alive()
    assert read(tmp_path / "run").scalars("last").values.tolist() == [1.0]
    assert read(tmp_path / ("run" if shared else "other")).scalars("mine").values.tolist() == [2.0, 3.0]
    with pytest.warns(TorchboardWarning, match="holds a run"):
        Monitor(nn.Linear(2, 2), tmp_path / "run").close()
