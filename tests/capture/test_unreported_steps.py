"""Where a training step ends that no optimizer's hook reports, told by ``log_batch``, and what is no step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchboard import Capture, MemorySink, Monitor
from torchboard.capture.weights_version import WeightsVersion

BATCHES = 7


class Net(nn.Module):
    """Its first parameter gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.used = nn.Parameter(torch.zeros(3)), nn.Linear(4, 2)

    def forward(self, x):
        return self.used(x)


def steps_of(model, train, every: int = 3, batches: int = BATCHES) -> tuple[int, int]:
    """How many training steps a monitor counts, and how many it captures."""
    sink = MemorySink()
    with Monitor(model, sink=sink, capture=Capture(every=every), write_graph=False) as monitor:
        for _ in range(batches):
            train()
            monitor.log_batch()
        counted = monitor.step
        monitor.log_epoch()
    ((_, seen),) = sink.series("activations/used" if isinstance(model, Net) else "activations/b/used", "train")
    return counted, int(seen.buckets[:, 2].sum()) // 10


def backward(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(5, 4)).square().sum().backward()


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.01)


@pytest.mark.parametrize("every, captured", [(3, 3), (1, BATCHES)])
def test_weights_that_are_written_to_behind_the_step_end_no_other_one(every, captured):
    model = Net()
    optimizer = sgd(model)

    def train():
        backward(model, optimizer)
        optimizer.step()
        with torch.no_grad():
            for weight in model.parameters():
                weight.clamp_(-0.5, 0.5)

    assert steps_of(model, train, every) == (BATCHES, captured)


@pytest.mark.parametrize("of_several", [False, True])
def test_a_compiled_optimizer_is_heard_by_any_weight_that_it_changes(of_several):
    torch._dynamo.reset()
    model = Net()
    optimizer = sgd(model)
    step = torch.compile(optimizer.step, backend="eager")

    def train():
        backward(model, optimizer)
        step()

    assert steps_of({"a": nn.Linear(2, 2), "b": model} if of_several else model, train) == (BATCHES, 3)


def test_gradients_that_a_compiled_optimizer_does_not_show_are_said_to_be_missing():
    torch._dynamo.reset()
    model, sink = torch.compile(Net(), backend="eager"), MemorySink()
    optimizer = sgd(model)
    step = torch.compile(optimizer.step, backend="eager")
    with Monitor(model, sink=sink, capture=Capture(every=3, compiled="skip")) as monitor:
        for _ in range(2):
            for _ in range(4):
                backward(model, optimizer)
                step()
                monitor.log_batch()
            monitor.log_epoch()
        assert monitor.step == 8
    texts = [text.markdown for _, text in sink.series("monitor/left_out/gradients", "train")]
    assert len(texts) == 2 and all("torch.compile(optimizer.step)" in text for text in texts)
    assert not any(tag.startswith(("gradients/", "updates/", "gradient_norm")) for tag in sink.tags("train"))


def test_an_optimizer_within_the_backward_pass_is_heard_by_any_weight_that_it_changes():
    model = Net()
    optimizer = torch.optim.SGD(model.used.parameters(), 0.01)
    model.used.weight.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    assert steps_of(model, lambda: backward(model, optimizer)) == (BATCHES, 3)


def test_batches_whose_gradients_are_accumulated_are_no_steps():
    model = Net()
    optimizer = sgd(model)
    batch = iter(range(BATCHES))

    def train():
        model(torch.randn(5, 4)).square().sum().backward()
        if next(batch) % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()

    assert steps_of(model, train, every=1)[0] == BATCHES // 3


@pytest.mark.parametrize("frozen", [True, False], ids=["is thawed", "is frozen"])
def test_an_epoch_at_whose_start_the_first_layer_changes_its_state_has_its_steps(frozen):
    model, sink = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), MemorySink()
    model[0].requires_grad_(not frozen)
    optimizer = sgd(model)
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        for _ in range(2):
            for batch in range(8):
                model(torch.randn(5, 4)).square().mean().backward()
                if batch % 4 == 3:
                    optimizer.step()
                monitor.log_batch()
            monitor.log_epoch()
            model[0].requires_grad_(frozen)
        assert monitor.step == 4
    assert [value.buckets[:, 2].sum() for _, value in sink.series("activations/0")] == [4 * 5 * 6] * 2
    assert [step for step, _ in sink.series("gradients/1/weight")] == [0, 1]


def test_layers_that_come_and_go_between_batches_are_no_steps():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    version = WeightsVersion(model)
    model[2] = nn.Linear(3, 3)
    assert not version.changed()
    with torch.no_grad():
        model[2].weight.add_(1)
    assert version.changed() and not version.changed()
    del model[1]
    assert not version.changed()


def test_a_model_made_in_inference_mode_has_no_steps_and_can_be_watched():
    with torch.inference_mode():
        model = Net()
    sink = MemorySink()
    with Monitor(model, sink=sink) as monitor:
        with monitor.phase("validation"), torch.inference_mode():
            model(torch.randn(5, 4))
        monitor.log_batch()
        assert monitor.step == 0
        monitor.log_epoch()
    assert "activations/used" in sink.tags("validation")
