"""Learning rates: those that the steps of an epoch used, of each group and optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from torchboard import Capture, MemorySink, Monitor
from torchboard.capture.rates import learning_rates


def backward(model):
    model(torch.ones(4, 3)).sum().backward()


def rates_of(optimizers):
    """What they have now."""
    return learning_rates(optimizers, {})


def optimizer_with(*groups, names=()):
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    named = [
        {"params": [parameters[i]], "lr": lr, **({"name": names[i]} if names else {})} for i, lr in enumerate(groups)
    ]
    return torch.optim.SGD(named, lr=1.0)


def test_learning_rates_are_told_apart_by_group_and_optimizer():
    assert rates_of([optimizer_with(0.1)]) == {"": 0.1}
    assert rates_of([optimizer_with(0.1, 0.2)]) == {"_0": 0.1, "_1": 0.2}
    assert rates_of([optimizer_with(0.1, 0.2, names=("body", "head"))]) == {"_body": 0.1, "_head": 0.2}
    assert rates_of([optimizer_with(0.1), optimizer_with(0.2)]) == {"_SGD": 0.1, "_SGD_2": 0.2}
    assert rates_of([]) == {}


class OwnRates(torch.optim.Optimizer):
    """Looks at no rate that it is given."""

    def step(self) -> None:
        pass


@pytest.mark.parametrize("value", [None, "auto", [0.1], torch.ones(2), torch.ones((), device="meta"), 1j], ids=str)
def test_a_learning_rate_that_is_no_number_is_left_out_and_loses_no_metric(value):
    model, sink = nn.Linear(3, 2), MemorySink()
    groups = [{"params": [model.weight], "lr": value}, {"params": [model.bias], "lr": 0.1}]
    optimizer = OwnRates(groups, {})
    with Monitor(model, sink=sink, capture=Capture(every=2)) as monitor:
        for _ in range(2):
            for _ in range(3):
                backward(model)
                optimizer.step()
                monitor.log_batch(loss=1.0)
            monitor.log_epoch()
            optimizer.param_groups[0]["lr"] = torch.tensor([0.5])
            optimizer.step()
            optimizer.param_groups[0]["lr"] = value
    assert [point.value for _, point in sink.series("epoch_loss")] == [1.0, 1.0]
    assert [point.value for _, point in sink.series("epoch_learning_rate_1")] == [0.1, 0.1]
    assert "epoch_learning_rate_0" not in sink.tags()
    optimizer.param_groups[0]["lr"] = torch.tensor([0.5])
    assert rates_of([optimizer]) == {"_0": 0.5, "_1": 0.1}


def test_an_optimizer_without_a_learning_rate_takes_no_name_from_another():
    first, second = optimizer_with(None), optimizer_with(0.2)
    assert rates_of([first, second]) == {"_SGD_2": 0.2}
    first.param_groups[0]["lr"] = 0.1
    assert rates_of([first, second]) == {"_SGD": 0.1, "_SGD_2": 0.2}


def test_a_group_with_a_name_that_no_file_holds_has_its_number():
    assert rates_of([optimizer_with(0.1, 0.2, names=("x\ud800", "head"))]) == {"_0": 0.1, "_head": 0.2}


SCHEDULERS = {
    "StepLR": (lambda optimizer: lr_scheduler.StepLR(optimizer, 1, 0.1), [1.0, 0.1, 0.01]),
    "warm-up": (lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.25, total_iters=3), [0.25, 0.5, 0.75]),
    "cosine": (lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 2), [1.0, 0.5, 0.0]),
}


@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["number", "tensor"])
@pytest.mark.parametrize("steps", [1, 12])
@pytest.mark.parametrize("first", [True, False], ids=["before log_epoch", "behind it"])
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_an_epoch_has_the_rate_that_it_was_trained_with_whenever_the_scheduler_steps(schedule, first, steps, kind):
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizer = torch.optim.Adam(model.parameters(), kind(1.0))
    make, expected = SCHEDULERS[schedule]
    scheduler = make(optimizer)
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        for _ in range(3):
            for _ in range(steps):
                backward(model)
                optimizer.step()
                monitor.log_batch()
            if first:
                scheduler.step()
            monitor.log_epoch()
            if not first:
                scheduler.step()
    assert [value.value for _, value in sink.series("epoch_learning_rate")] == pytest.approx(expected)


@pytest.mark.parametrize("every", [1, 10])
def test_rates_are_those_of_the_last_step_of_each_optimizer_and_of_a_new_group_those_it_has(every):
    model, sink = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)]), MemorySink()
    first = torch.optim.SGD(model[0].parameters(), 0.1)
    second = torch.optim.Adam(model[1].parameters(), 0.5)
    with Monitor(model, sink=sink, capture=Capture(every=every), feature_maps=False, write_graph=False) as monitor:
        for epoch in range(2):
            for _ in range(4):
                backward(model[0])
                backward(model[1])
                first.step()
                if not epoch:
                    second.step()
            first.param_groups[0]["lr"] = 0.2
            second.param_groups[0]["lr"] = 0.25
            if not epoch:
                first.add_param_group({"params": model[2].parameters(), "lr": 0.4})
            monitor.log_epoch()
    seen = {tag: [value.value for _, value in sink.series(tag)] for tag in sink.tags("train") if "learning_rate" in tag}
    assert seen == {
        "epoch_learning_rate_SGD_0": [0.1, 0.2],
        "epoch_learning_rate_SGD_1": [0.4, 0.4],
        "epoch_learning_rate_Adam": [0.5, 0.25],
    }
