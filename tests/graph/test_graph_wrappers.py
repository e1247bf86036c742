"""What parallel wrappers do to a model is not what its author wrote: the graph is that of the model inside."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from torchboard import MemorySink, Monitor

LAYERS = {"Net/a/linear", "Net/block/0_Linear/linear", "Net/block/1_ReLU", "Net/b/linear"}
PARAMETERS = {f"Net/{layer}/{name}" for layer in ("a", "block/0_Linear", "b") for name in ("weight", "bias")}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x):
        return self.b(self.block(self.a(x)))


@pytest.fixture
def alone():
    """A distributed job of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def distributed(model):
    return nn.parallel.DistributedDataParallel(model)


def sharded(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model.block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@pytest.mark.parametrize("wrap", [distributed, sharded])
def test_a_wrapped_model_is_drawn_as_its_author_wrote_it(wrap, alone):
    torch.manual_seed(0)
    sink, model = MemorySink(), wrap(Net())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, histogram_freq=0, feature_maps=False, write_graph="step") as monitor:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.rand(3, 4)).square().mean().backward()
            optimizer.step()
        monitor.log_epoch()
    ((_, graph),), ((_, step),) = sink.series("__run_graph__"), sink.series("train_step")
    names = {node.name for node in graph.nodes}
    assert LAYERS | PARAMETERS <= names
    assert {name.partition("/")[0] for name in names} == {"x", "Net", "output"}
    assert {name for name in names if "linear" in name} == {name for name in LAYERS if "linear" in name}
    assert {name.split("/")[1] for name in names if name.startswith("Net/")} == {"a", "block", "b"}
    drawn = {node.name for node in step.graph.nodes}
    assert LAYERS <= drawn and any(name.startswith("gradients/Net/block/") for name in drawn)


def test_what_a_hook_of_a_layer_does_before_its_call_lies_in_its_box():
    sink, model = MemorySink(), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, histogram_freq=0, feature_maps=False, write_graph="step") as monitor:
        for _ in range(2):
            model(torch.rand(3, 4)).sum().backward()
            optimizer.step()
        monitor.log_epoch()
    ((_, graph),), ((_, step),) = sink.series("__run_graph__"), sink.series("train_step")
    assert "Sequential/2_Linear/mul" in {node.name for node in graph.nodes}
    assert "Sequential/2_Linear/mul" in {node.name for node in step.graph.nodes}
