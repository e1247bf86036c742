"""A whole training step as a graph: forward, loss, backward and optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from graph_models import ConvNet, Fragile
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import torchboard
from torchboard import MemorySink, Monitor
from torchboard.errors import InvalidValueError
from torchboard.graph.observed_step import StepRecorder
from torchboard.graph.op_graph import op_graph
from torchboard.values.graph import OpNode


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 1, 8, 8), torch.tensor([1, 2])


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    x, y = batch()
    loss = cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def recorded(model: nn.Module, **options: object) -> dict[str, OpNode]:
    recorder = StepRecorder(model)
    recorder.attach()
    step(model, torch.optim.SGD(model.parameters(), 0.1, **options))
    recorder.end()
    recorder.close()
    assert recorder.error is None
    return {node.name: node for node in op_graph(recorder.graph).nodes}


def is_clean(model: nn.Module) -> bool:
    hooks = [*model.modules()]
    modes = torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()
    return modes == (0, 0) and not any(module._forward_hooks or module._forward_pre_hooks for module in hooks)


def step_graph(sink: MemorySink) -> dict[str, OpNode]:
    ((at, value),) = sink.series("train_step", "train")
    assert at == 0
    assert {stats.name for stats in value.profile.nodes} <= {node.name for node in value.graph.nodes}
    return {node.name: node for node in value.graph.nodes}


def test_gradients_lie_in_boxes_like_those_of_the_modules_and_feed_the_optimizer():
    nodes = recorded(ConvNet())
    assert nodes["cross_entropy"].inputs[0] == "ConvNet/fc/linear"
    assert nodes["gradients/ConvNet/conv1"].op == "ConvolutionBackward0"
    assert nodes["gradients/ConvNet/conv1"].inputs[0].startswith("gradients/ConvNet/norm")
    assert nodes["gradients/ConvNet/norm"].output_shapes[:3] == ((2, 4, 8, 8), (4,), (4,))
    assert {"gradients/ConvNet/pool", "gradients/ConvNet/fc/AddmmBackward0", "gradients/ConvNet/drop"} <= set(nodes)
    weights = {name for name, node in nodes.items() if node.op == "Parameter"}
    assert len(weights) == 6
    assert weights < set(nodes["SGD"].inputs)
    assert sum(name.startswith("gradients/") for name in nodes["SGD"].inputs) == 6


def test_every_edge_of_a_step_has_its_ends_and_every_node_reads_what_is_before_it():
    nodes = recorded(ConvNet(), momentum=0.9)
    before: set[str] = set()
    for node in nodes.values():
        assert {name.partition(":")[0] for name in node.inputs} <= before
        before.add(node.name)


def test_a_weight_that_is_used_twice_accumulates_its_gradient():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.relu(self.fc(x.flatten(1))))

    nodes = recorded(Twice())
    assert {"gradients/Twice/fc/AddmmBackward0", "gradients/Twice/fc_1/AddmmBackward0"} <= set(nodes)
    assert "torch" not in " ".join(nodes)


def test_flops_of_a_step_are_those_of_the_flop_counter():
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with FlopCounterMode(display=False) as counter:
        step(model, optimizer)
    recorder = StepRecorder(model)
    recorder.attach()
    step(model, optimizer)
    recorder.end()
    assert sum(node.cost.flops for node in recorder.graph.nodes) == counter.get_total_flops() > 0


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_training_is_what_it_would_have_been_bit_for_bit(optimizer):
    def losses(watched: bool) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        torch.manual_seed(3)
        model = ConvNet()
        update, found = optimizer(model.parameters(), 0.1), []
        monitor = Monitor(model, sink=MemorySink(), write_graph="step", feature_maps=False) if watched else None
        for _ in range(4):
            found.append(step(model, update).detach())
        if monitor is not None:
            monitor.log_epoch()
            assert not list(monitor._watch.errors())
            monitor.close()
            assert is_clean(model)
        return found, copy.deepcopy(model.state_dict())

    (plain, state), (seen, seen_state) = losses(False), losses(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, seen))
    assert all(torch.equal(state[name], seen_state[name]) for name in state)


def test_a_monitor_writes_the_step_beside_a_forward_graph_that_stays_clean():
    model, sink = ConvNet(), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, write_graph="step", histogram_freq=0) as monitor:
        step(model, optimizer)
        with monitor.phase("validation"), torch.no_grad():
            model(batch()[0])
        for _ in range(3):
            step(model, optimizer)
        assert is_clean(model)
        monitor.log_epoch()
    nodes = step_graph(sink)
    assert {"ConvNet/conv1/conv2d", "gradients/ConvNet/conv1", "SGD"} <= set(nodes)
    ((_, forward),) = sink.series("__run_graph__", "train")
    assert not [node.name for node in forward.nodes if "gradients" in node.name or node.op == "SGD"]
    assert "train_step" not in sink.tags("validation")


def test_the_step_is_read_back_and_not_written_unasked(tmp_path):
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for name, graph in (("all", "step"), ("plain", True), ("none", False)):
        with Monitor(model, tmp_path / name, write_graph=graph, histogram_freq=0) as monitor:
            for _ in range(3):
                step(model, optimizer)
            monitor.log_epoch()
    reader = torchboard.read(tmp_path)
    assert "SGD" in {node.name for node in reader.values("train_step", "all/train").values[0].graph.nodes}
    assert "train_step" not in reader.tags("plain/train") and "__run_graph__" in reader.tags("plain/train")
    assert not {"train_step", "__run_graph__"} & set(reader.tags("none/train"))


@pytest.mark.parametrize("choice", ["steps", None, 2])
def test_another_graph_is_refused(choice):
    with pytest.raises(InvalidValueError, match="there is no such graph"):
        Monitor(ConvNet(), sink=MemorySink(), write_graph=choice)


def test_a_gan_is_drawn_with_what_flows_between_its_models():
    generator, critic = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    updates = [torch.optim.Adam(model.parameters()) for model in (generator, critic)]
    sink = MemorySink()
    with Monitor({"generator": generator, "critic": critic}, sink=sink, write_graph="step") as monitor:
        for _ in range(2):
            fake = generator(torch.rand(4, 2))
            for update, loss in ((updates[1], critic(fake.detach()) - critic(torch.rand(4, 3))), (updates[0], None)):
                update.zero_grad()
                (-critic(fake) if loss is None else loss).mean().backward()
                update.step()
        monitor.log_epoch()
    nodes = step_graph(sink)
    assert {"gradients/generator/0_Linear/AddmmBackward0", "critic_1/1_ReLU"} <= set(nodes)
    assert "generator/0_Linear/linear" in nodes["critic_2/0_Linear"].inputs
    assert {"Adam", "Adam_1"} <= set(nodes)
    ((_, forward),) = sink.series("__run_graph__", "train")
    assert {"generator_input", "critic_input", "generator/0_Linear/weight"} <= {node.name for node in forward.nodes}


def test_a_step_that_raises_is_the_users_and_the_next_one_is_recorded():
    model = Fragile()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = StepRecorder(model)
    recorder.attach()
    model.failure = ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        model(torch.rand(1, 4))
    assert torch._C._len_torch_dispatch_stack() == 0
    model.failure = None
    model(torch.rand(1, 4)).sum().backward()
    optimizer.step()
    recorder.end()
    assert {"SGD", "Fragile/fc/linear"} <= {node.name for node in op_graph(recorder.graph).nodes}
    recorder.close()
    assert is_clean(model)


def test_contexts_of_the_users_that_end_within_the_step_come_off_as_they_should():
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = StepRecorder(model)
    recorder.attach()
    with FlopCounterMode(display=False) as counter, torch.device("cpu"):
        loss = model(batch()[0]).sum()
    assert counter.get_total_flops() > 0
    assert torch._C._len_torch_dispatch_stack() == 1
    loss.backward()
    optimizer.step()
    recorder.end()
    assert is_clean(model)
    assert "gradients/ConvNet/conv1" in {node.name for node in op_graph(recorder.graph).nodes}


def test_a_compiled_model_is_recorded_as_it_is_written():
    def names(model: nn.Module) -> list[str]:
        sink, optimizer = MemorySink(), torch.optim.SGD(model.parameters(), 0.1)
        with Monitor(model, sink=sink, write_graph="step", feature_maps=False) as monitor:
            for _ in range(3):
                step(model, optimizer)
            monitor.log_epoch()
        return list(step_graph(sink))

    assert names(torch.compile(ConvNet(), backend="eager")) == names(ConvNet())
    inplace = ConvNet()
    inplace.compile(backend="eager")
    recorder = StepRecorder(inplace)
    recorder.attach()
    assert "compiled in place" in str(recorder.error) and is_clean(inplace)


def test_a_closure_and_a_checkpoint_are_recorded():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    recorder = StepRecorder(model)
    recorder.attach()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.utils.checkpoint.checkpoint(model, torch.rand(2, 4, requires_grad=True), use_reentrant=True).sum()
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    model(torch.rand(2, 4)).sum().backward()
    optimizer.step(lambda: torch.zeros(()))
    recorder.end()
    recorder.close()
    assert recorder.error is None and is_clean(model)
    assert "LBFGS" in {node.name for node in op_graph(recorder.graph).nodes}


def test_passes_without_gradients_begin_no_step_and_a_recording_can_be_given_up():
    model = ConvNet()
    recorder = StepRecorder(model)
    recorder.attach()
    with torch.no_grad():
        model(batch()[0])
    recorder.end()
    assert recorder.graph is None and recorder.waits
    model(batch()[0])
    assert torch._C._len_torch_dispatch_stack() == 1
    recorder.close()
    assert recorder.graph is None and is_clean(model)


def test_an_error_of_ours_ends_the_recording_and_not_the_step(monkeypatch):
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    recorder = StepRecorder(model)
    recorder.attach()
    monkeypatch.setattr("torchboard.graph.step_tape.StepTape._gradient", lambda *_: 1 / 0)
    step(model, optimizer)
    recorder.end()
    assert isinstance(recorder.error, ZeroDivisionError) and recorder.graph is None
    step(model, optimizer)
    recorder.close()
    assert is_clean(model)
