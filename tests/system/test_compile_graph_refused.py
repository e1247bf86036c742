"""Models whose captured steps cannot stay compiled are refused, or told of where that shows only later."""

from __future__ import annotations

import pytest
import torch
from compiled_jobs import Job, Net
from torch import nn

from torchboard import Capture, MemorySink, Monitor
from torchboard.capture.compiled.checks import NEEDED_TORCH, check_graph_mode
from torchboard.errors import InvalidValueError, TorchboardWarning

pytestmark = pytest.mark.skipif(torch.__version__ < NEEDED_TORCH, reason="refused with this torch")

GRAPH = Capture(every=2, compiled="graph")


def test_code_that_was_compiled_before_is_refused_at_once():
    job = Job("model.compile()")
    job.compile()
    job.step()
    for model in (
        job.model,
        torch.compile(Net(), backend="eager"),
    ):  # code of a class is compiled for all its instances
        with pytest.raises(InvalidValueError, match="Net: code of this class is compiled already.*; make the monitor"):
            Monitor(model, sink=MemorySink(), capture=GRAPH)
        assert not any(module._forward_hooks for module in model.modules())
    torch._dynamo.reset()
    Monitor(job.model, sink=MemorySink(), capture=GRAPH).close()


def test_a_container_that_was_compiled_before_is_refused_too():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model.compile(backend="eager")
    model(torch.randn(2, 4))
    with pytest.raises(InvalidValueError, match="compiled already"):
        Monitor(model, sink=MemorySink(), capture=GRAPH)


def test_an_older_torch_is_refused():
    with pytest.raises(InvalidValueError, match=r"with torch 2\.8\.0: it needs torch 2\.15; give compiled='eager'"):
        check_graph_mode(Net(), torch.torch_version.TorchVersion("2.8.0"))


def test_cuda_graphs_are_refused():
    torch._dynamo.reset()
    compiled = torch.compile(Net(), mode="reduce-overhead")
    with pytest.raises(InvalidValueError, match="CUDA graphs.*give compiled='eager'"):
        Monitor(compiled, sink=MemorySink(), capture=GRAPH)


def test_cuda_graphs_that_come_behind_the_monitor_are_told_of():
    job = Job("model.compile()")
    job.options = {"mode": "reduce-overhead"}
    with Monitor(job.model, sink=MemorySink(), capture=GRAPH, write_graph=False) as monitor:
        job.compile()
        job.step()  # eagerly
        monitor.log_epoch()
        with pytest.warns(TorchboardWarning, match="CUDA graphs.*give compiled='eager'"):
            monitor.log_epoch()
