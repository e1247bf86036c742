"""torch.compile together with DistributedDataParallel and fully_shard: what is captured, and what the compiler does for it."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from compiled_jobs import BATCH, SIZES, STEPS, Net, elements
from torch import distributed, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from torchboard import Capture, MemorySink, Monitor
from torchboard.capture.compiled.checks import NEEDED_TORCH

pytestmark = [
    pytest.mark.skipif(not distributed.is_available(), reason="this torch is built without it"),
    pytest.mark.filterwarnings("ignore"),  # the compiler's own, of wrappers
]


@pytest.fixture(autouse=True)
def job_of_one():
    """A job of one process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled_around_replicas(model, options):
    return torch.compile(DistributedDataParallel(model), **options)


def replicas_of_compiled(model, options):
    return DistributedDataParallel(torch.compile(model, **options))


def sharded_and_compiled(model, options):
    from torch.distributed.fsdp import fully_shard

    for layer in (model.first, model.second):
        fully_shard(layer)
    fully_shard(model)
    model.compile(**options)
    return model


def sharded_with_compiled_blocks(model, options):
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(4, 8), Block(), Block(), Block())
    for block in model[1:]:
        block.compile(**options)
        fully_shard(block)
    return fully_shard(model) or model


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.relu = nn.Linear(8, 8), nn.ReLU(inplace=True)

    def forward(self, x):
        return x + self.relu(self.linear(x))


WAYS = {
    compiled_around_replicas: SIZES,
    replicas_of_compiled: SIZES,
    sharded_and_compiled: SIZES,
    sharded_with_compiled_blocks: {
        "Sequential": 8,
        "0": 8,
        **{name: 8 for block in "123" for name in (block, f"{block}/linear", f"{block}/relu")},
    },
}
"""How a model is compiled and spread -> layer -> elements of its output for one example."""


@lru_cache
def bare(way):
    """Frames and breaks of the training without a monitor."""
    return training(way, None)[:2]


def training(way, capture):
    """Frames, breaks and the sink of a training; without a monitor if there is nothing to capture."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    backend, sink = CompileCounterWithBackend("aot_eager"), MemorySink()
    model = way(Net(), {"backend": backend})
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = capture and Monitor(model, sink=sink, capture=capture, feature_maps=False)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(torch.randn(BATCH, 4)).square().sum().backward()
        optimizer.step()
    if monitor:
        monitor.log_epoch()
        monitor.close()
    return backend.frame_count, dict(counters["graph_break"]), sink


@pytest.mark.parametrize("way", WAYS)
def test_eager_captured_steps_change_nothing_for_the_compiler(way):
    frames, breaks = bare(way)
    seen, broken, sink = training(way, Capture(every=2))
    assert frames and seen <= frames and broken == breaks
    expected = {name: [3 * BATCH * size] for name, size in WAYS[way].items()}
    assert elements(sink, "activations") == elements(sink, "activation_gradients") == expected


@pytest.mark.skipif(torch.__version__ < NEEDED_TORCH, reason="refused with this torch")
@pytest.mark.parametrize("way", WAYS)
def test_captured_steps_that_stay_compiled_show_the_same(way):
    frames, breaks = bare(way)
    seen, broken, sink = training(way, Capture(every=2, compiled="graph"))
    assert frames < seen <= 2 * frames and set(broken) <= set(breaks)
    expected = {name: [3 * BATCH * size] for name, size in WAYS[way].items()}
    assert elements(sink, "activations") == elements(sink, "activation_gradients") == expected
