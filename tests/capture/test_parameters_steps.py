"""Parameters, gradients and updates, at the optimizer's boundary."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from torchboard import MemorySink, Monitor
from torchboard.capture.model_watch import ModelWatch
from torchboard.capture.options import Capture
from torchboard.capture.parameters import Parameters
from torchboard.capture.steps import StepWatcher
from torchboard.capture.weights_version import WeightsVersion
from torchboard.errors import TorchboardWarning
from torchboard.sketch.table import SketchTable
from torchboard.values import Event


class Watch:
    """A watcher that notes what it is told."""

    def __init__(self, model, optimizer=None):
        self.calls = []
        self.watcher = StepWatcher(model, self.before, self.after, self.counted, optimizer=optimizer)

    def before(self, optimizer, closure):
        self.calls.append(("before", optimizer, closure))

    def after(self, optimizer, closure):
        self.calls.append(("after", optimizer, closure))

    def counted(self, optimizer):
        self.calls.append(("counted", optimizer))


def backward(model):
    model(torch.randn(4, 3)).pow(2).sum().backward()


def values(parameters):
    return dict(Event(0, 0.0, (), "", tuple(parameters.collect())).settled().pairs)


def histograms(parameters):
    return {tag: value.buckets for tag, value in values(parameters).items() if value.plugin == "histograms"}


def test_gradients_updates_and_parameters_are_exact_at_their_ends():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    parameters = Parameters(model, Capture())
    parameters.arm(True)
    backward(model)
    gradient = model.weight.grad.clone()
    parameters.before_step(optimizer)
    optimizer.step()
    parameters.after_step(optimizer)
    seen = histograms(parameters)
    assert set(seen) == {
        f"{kind}/{name}" for kind in ("gradients", "updates", "parameters") for name in ("weight", "bias")
    }
    for kind, tensor in (("gradients", gradient), ("updates", -0.5 * gradient), ("parameters", model.weight)):
        buckets = seen[f"{kind}/weight"]
        assert buckets[:, 2].sum() == 6
        assert (buckets[0, 0], buckets[-1, 1]) == pytest.approx((tensor.min().item(), tensor.max().item()), rel=1e-5)


def test_unarmed_steps_leave_only_the_parameters():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    parameters = Parameters(model, Capture())
    backward(model)
    parameters.before_step(optimizer)
    parameters.after_step(optimizer)
    assert set(histograms(parameters)) == {"parameters/weight", "parameters/bias"}


def test_kinds_can_be_left_out_and_frozen_parameters_have_no_gradient():
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    parameters = Parameters(model, Capture(parameters=False, updates=False))
    parameters.arm(True)
    backward(model)
    parameters.before_step(optimizer)
    parameters.after_step(optimizer)
    assert set(histograms(parameters)) == {"gradients/weight"}


def test_a_fused_optimizers_loss_scale_is_taken_off():
    model = nn.Linear(3, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    optimizer.grad_scale = torch.tensor(8.0)
    model.weight.grad = torch.full((2, 3), 16.0)
    parameters = Parameters(model, Capture(updates=False, parameters=False))
    parameters.arm(True)
    parameters.before_step(optimizer)
    assert histograms(parameters)["gradients/weight"].tolist()[0][:2] == [2.0, 2.0]


def test_only_optimizers_that_hold_a_parameter_of_the_model_are_reported():
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    ours, theirs = (torch.optim.Adam(item.parameters()) for item in (model, other))
    watch = Watch(model)
    for item, optimizer in ((model, ours), (other, theirs)):
        backward(item)
        optimizer.step()
    assert watch.calls == [("before", ours, False), ("after", ours, False)]
    assert watch.watcher.live_optimizers() == [ours]


def test_steps_of_a_lone_optimizer_are_counted_until_another_one_steps():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    first, second = (torch.optim.SGD(layer.parameters(), 0.1) for layer in model)
    watch = Watch(model, first)
    watch.watcher.rest()
    backward(model)
    first.step()
    first.step()
    assert watch.calls == [("counted", first)] * 2
    second.step()
    assert watch.watcher.resting is None and watch.watcher.rest() is None
    first.step()
    assert watch.calls[2:] == [(when, one, False) for one in (second, first) for when in ("before", "after")]


def test_optimizers_that_are_gone_are_forgotten():
    model = nn.Linear(3, 2)
    watch = Watch(model)
    for _ in range(20):
        backward(model)
        torch.optim.SGD(model.parameters(), 0.1).step()
        watch.calls.clear()
    assert len(watch.watcher.optimizers) <= 2


def test_an_optimizer_becomes_the_models_with_its_parameters():
    model, head = nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 1)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    watch = Watch(model)
    backward(head)
    for _ in range(2):
        optimizer.step()
        assert watch.calls == []
        model.append(head)
    watch.watcher.look_again()
    optimizer.step()
    assert watch.calls == [("before", optimizer, False), ("after", optimizer, False)]


def test_an_optimizer_is_the_models_as_soon_as_it_is_given_a_parameter_of_it():
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    watch = Watch(model)
    backward(other)
    optimizer.step()
    optimizer.add_param_group({"params": nn.Linear(3, 2).parameters()})
    optimizer.step()
    assert watch.calls == []
    optimizer.add_param_group({"params": model.parameters()})
    optimizer.step()
    assert watch.calls == [("before", optimizer, False), ("after", optimizer, False)]


@pytest.mark.parametrize("first", [0, 1], ids=["before the known one", "after it"])
def test_what_an_optimizer_of_others_is_given_is_captured_from_the_next_captured_step_on(first):
    model, other, head, sink = nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3), nn.Linear(3, 3), MemorySink()
    known, foreign = (torch.optim.SGD(one.parameters(), 1e-4) for one in (model, other))
    with Monitor(model, sink=sink, capture=Capture(every=5), feature_maps=False) as monitor:
        for step in range(40):
            if step == 12:
                model.append(head)
                foreign.add_param_group({"params": head.parameters()})
            backward(nn.Sequential(model, other))
            for optimizer in (known, foreign) if first else (foreign, known):
                optimizer.step()
            monitor.log_batch()
            if step % 10 == 9:
                monitor.log_epoch()
    first, second = (
        {epoch: int(value.buckets[:, 2].sum()) // 9 for epoch, value in sink.series(f"gradients/{layer}/weight")}
        for layer in (0, 1)
    )
    assert set(first) == {0, 1, 2, 3} and set(second) == {1, 2, 3}
    assert 1 <= second[1] <= first[1] and (second[2], second[3]) == (first[2], first[3]) >= (2, 2)


def test_a_captured_step_looks_at_all_optimizers_again():
    class Counting:
        ended = 0

        def end(self):
            self.ended += 1

    model, head, steps = nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 1), Counting()
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    watch = ModelWatch(model, Capture(), steps.end, feature_maps=False, graph=False)
    model.requires_grad_(False)
    backward(head)
    for expected in (0, 0, 1):
        optimizer.step()
        assert steps.ended == expected
        if len(model) == 2:
            watch.arm(True)
        else:
            model.append(head)
    watch.release()


def test_a_fault_of_ours_never_leaves_the_end_of_an_epoch(monkeypatch):
    def broken(*_):
        raise RuntimeError("no memory")

    model, sink = nn.Linear(3, 2), MemorySink()
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        backward(model)
        torch.optim.SGD(model.parameters(), 0.1).step()
        monkeypatch.setattr(SketchTable, "read", broken)
        with pytest.warns(TorchboardWarning) as told:
            monitor.log_epoch(loss=1.0)
    lost = sorted(str(one.message).split(" of this model")[0] for one in told)
    assert lost == ["activations", "gradients and updates"]
    assert [value.value for _, value in sink.series("epoch_loss")] == [1.0]


def test_a_users_predicate_that_fails_later_never_leaves_an_optimizers_step():
    def chosen(name, module):
        if fails:
            raise KeyError("no such layer")
        return True

    fails: list[bool] = []
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, capture=Capture(include=chosen, every=2), feature_maps=False) as monitor:
        for step in range(5):
            backward(model)
            optimizer.step()
            fails = [True] * (1 <= step < 3)
        assert monitor.step == 5
        with pytest.warns(TorchboardWarning, match="layers of this model .*KeyError: 'no such layer'"):
            monitor.log_epoch(loss=1.0)
    ((_, value),) = sink.series("activations/Linear")
    assert value.buckets[:, 2].sum() == 2 * 4 * 2
    assert not model._forward_hooks


@pytest.mark.parametrize("others", [0, 1], ids=["steps that are counted", "steps of two optimizers"])
def test_a_users_schedule_that_raises_never_leaves_an_optimizers_step(others):
    def chosen(step):
        asked.append(step)
        return 1 / (step - 3) > 0.3  # raises at 3, and says yes to 4, 5 and 6

    asked: list[int] = []
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizers = [torch.optim.SGD([one], 0.1) for one in (model.weight, model.bias)[: 1 + others]]
    with Monitor(model, sink=sink, capture=Capture(every=chosen), feature_maps=False) as monitor:
        for _ in range(8):
            backward(model)
            for optimizer in optimizers:
                optimizer.step()
            monitor.log_batch(loss=1.0)
        assert asked == [*range(1, 9)]
        with pytest.warns(TorchboardWarning, match="scheduled steps of this model .*ZeroDivisionError") as told:
            monitor.log_epoch()
    assert len(told) == 1
    ((_, value),) = sink.series("activations/Linear")
    assert value.buckets[:, 2].sum() == 4 * 4 * 2


def test_weights_are_watched_where_the_first_trainable_one_is_by_now():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    version, kept = WeightsVersion(model), [*model]
    for change in (lambda: model[0].requires_grad_(False), lambda: model.__setitem__(1, nn.Linear(2, 2))):
        change()
        version.look_again()
        version.changed()
        assert not version.changed()
        with torch.no_grad():
            model[1].weight.add_(1)
        assert version.changed() and not version.changed()
    assert kept[1] is not model[1]


def test_a_closed_watcher_reports_nothing():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = Watch(model, optimizer)
    watch.watcher.close()
    backward(model)
    optimizer.step()
    assert watch.calls == []


def test_a_forgotten_watcher_is_collected_and_holds_neither_model_nor_optimizer():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = Watch(model, optimizer)
    backward(model)
    optimizer.step()
    watch.calls.clear()
    references = [weakref.ref(item) for item in (watch, watch.watcher, model, optimizer)]
    del watch, model, optimizer
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_a_step_inside_the_backward_pass_is_no_boundary():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch = Watch(model, optimizer)
    model.weight.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    version = WeightsVersion(model)
    backward(model)
    assert watch.calls == [] and version.changed() and not version.changed()


def test_a_step_that_raised_leaves_no_update_behind():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    parameters = Parameters(model, Capture(parameters=False))
    parameters.arm(True)
    for raises in (True, False):
        backward(model)
        parameters.before_step(optimizer)
        if not raises:
            optimizer.step()
            parameters.after_step(optimizer)
    assert histograms(parameters)["updates/weight"][:, 2].sum() == 6
