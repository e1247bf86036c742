"""Which steps of optimizers make a training step, whether they are captured or only counted."""

from __future__ import annotations

import gc
import math
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.utils._python_dispatch import TorchDispatchMode

from torchboard import MemorySink, Monitor
from torchboard.capture.options import Capture

EVERY = [1, 2, 1000]


def backward(model):
    model(torch.randn(4, 3)).pow(2).sum().backward()


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize(
    ("batches", "steps"),
    [
        ("a ab ab", 3),
        ("ab ab", 2),
        ("ba ba", 2),
        ("aab aab", 4),
        ("a ab abc abc", 4),
        ("a A A", 3),
        ("a a a ab abb ab", 7),
    ],
)
def test_an_optimizer_found_behind_the_others_belongs_to_their_step(batches, steps, every):
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(3)])
    optimizers = {name: torch.optim.SGD(layer.parameters(), 1e-4) for name, layer in zip("abcA", [*model, model[0]])}
    with Monitor(model, sink=MemorySink(), optimizer=optimizers["a"], capture=Capture(every=every)) as monitor:
        for names in batches.split():
            backward(model)
            for name in names:
                optimizers[name].step()
            monitor.log_batch()
        assert monitor.step == steps


class Twice(torch.optim.Optimizer):
    """Wraps an optimizer, and lets it step twice in a step of its own."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__([weight for group in inner.param_groups for weight in group["params"]], {"lr": 1.0})

    def step(self, closure=None):
        self.inner.step()
        self.inner.step()


class Inherits(torch.optim.SGD):
    """Its step is that of a class which has hooks of its own, as soon as there is an optimizer of that class."""

    def step(self, closure=None):
        super().step()
        super().step()


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("first", ["found", "given", "failed"])
@pytest.mark.parametrize("wraps", [True, False], ids=["one that wraps another", "one that inherits"])
def test_steps_within_a_step_are_part_of_it(wraps, first, every):
    model, sink = nn.Linear(3, 2), MemorySink()
    inner = torch.optim.SGD(model.parameters(), 0.1)
    optimizer = Twice(inner) if wraps else Inherits(model.parameters(), 0.1)
    known = {"given": inner if wraps else optimizer}.get(first)
    expected = {"gradients": [], "updates": []}
    with Monitor(model, sink=sink, optimizer=known, capture=Capture(every=every), feature_maps=False) as monitor:
        for step in range(3):
            optimizer.zero_grad()
            backward(model)
            if first == "failed":
                with pytest.raises(TypeError):
                    optimizer.step(1, 2, 3)
            before = model.weight.detach().clone()
            optimizer.step()
            if step % every == 0:
                expected["gradients"].append(model.weight.grad.clone())
                expected["updates"].append(model.weight.detach() - before)
            monitor.log_batch()
            assert monitor.step == step + 1
        monitor.log_epoch()
    assert [step for step, _ in sink.series("epoch_learning_rate")] == [0]
    for kind, tensors in expected.items():
        ((_, value),) = sink.series(f"{kind}/weight")
        both = torch.stack(tensors)
        assert value.buckets[:, 2].sum() == both.numel()
        assert value.buckets[0, 0] <= both.min() and both.max() <= value.buckets[-1, 1]


class Later(torch.optim.SGD):
    """Lets another optimizer step in its own step, from some time on."""

    inner = None

    def step(self, closure=None):
        super().step()
        if self.inner is not None:
            self.inner.step()


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("kind", ["outer", "inner"])
def test_a_wrapped_optimizer_that_comes_later_takes_no_steps_of_its_own(kind, every):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    known = Later(model.parameters(), 1e-3)
    other = Twice(known) if kind == "outer" else torch.optim.SGD(model[1].parameters(), 1e-3)
    with Monitor(model, sink=MemorySink(), capture=Capture(every=every)) as monitor:
        for step in range(9):
            if step == 4 and kind == "inner":
                known.inner = other
            backward(model)
            (other if kind == "outer" and step >= 4 else known).step()
            monitor.log_batch()
            assert monitor.step == step + 1


@pytest.mark.parametrize("every", EVERY)
def test_a_step_within_a_backward_pass_is_none_and_the_batch_ends_one(every):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    ended = []
    with Monitor(model, sink=MemorySink(), capture=Capture(every=every), feature_maps=False) as monitor:
        for within in (False, False, True, True, False, True, False):
            if within:
                hook = model.weight.register_post_accumulate_grad_hook(lambda _: optimizer.step())
                backward(model)
                hook.remove()
            else:
                backward(model)
                optimizer.step()
            ended.append(monitor.step)
            monitor.log_batch()
    assert ended == [1, 2, 2, 3, 5, 5, 7]


@pytest.mark.parametrize("every", EVERY)
def test_optimizers_of_others_that_step_in_between_change_nothing(every):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer, foreign = (torch.optim.SGD(one.parameters(), 1e-3) for one in (model, other))
    with Monitor(model, sink=MemorySink(), capture=Capture(every=every)) as monitor:
        for step in range(7):
            for one, optimizers in ((other, [foreign]), (model, [optimizer, foreign])):
                backward(one)
                for each in optimizers:
                    each.step()
            assert monitor.step == step + 1


def test_steps_that_fail_are_not_counted():
    class Fails(torch.optim.SGD):
        def step(self, closure=None):
            if fails:
                raise RuntimeError("not this time")
            return super().step()

    model, fails = nn.Linear(3, 2), []
    optimizer = Fails(model.parameters(), 1e-3)
    with Monitor(model, sink=MemorySink(), capture=Capture(every=1000)) as monitor:
        for expected in (1, 2, None, None, 3, 4, None, 5):
            fails[:] = [] if expected else [True]
            backward(model)
            if fails:
                with pytest.raises(RuntimeError, match="not this time"):
                    optimizer.step()
            else:
                optimizer.step()
                assert monitor.step == expected


def test_a_new_optimizer_takes_over_and_the_old_one_is_forgotten():
    model = nn.Linear(3, 2)
    with Monitor(model, sink=MemorySink(), capture=Capture(every=1000)) as monitor:
        for step in range(12):
            if step % 4 == 0:
                optimizer = torch.optim.SGD(model.parameters(), 1e-3 * (step + 1))
                gc.collect()
            backward(model)
            optimizer.step()
            monitor.log_batch()
            assert monitor.step == step + 1
        assert monitor._watch.learning_rates() == {"": 1e-3 * 9}


def test_a_monitor_that_is_forgotten_leaves_the_training_alone():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    monitor = Monitor(model, sink=MemorySink(), capture=Capture(every=1000))
    for step in range(6):
        backward(model)
        optimizer.step()
        if step == 3:
            del monitor
            gc.collect()
    assert not model._forward_hooks


@pytest.mark.parametrize("every", EVERY)
def test_steps_that_a_scaler_skips_are_counted_between_captured_steps_too(every):
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    with Monitor(model, sink=sink, capture=Capture(every=every)) as monitor:
        for step in range(12):
            optimizer.zero_grad()
            scale = float("inf") if step in (4, 9) else 1.0
            scaler.scale(model(torch.randn(4, 3)).pow(2).sum() * scale).backward()
            scaler.step(optimizer)
            scaler.update()
            monitor.log_batch()
        assert monitor.step == 10
        monitor.log_epoch()
    assert [value.value for _, value in sink.series("monitor/skipped_steps")] == [2.0]


def test_an_optimizer_found_behind_a_step_that_was_not_captured_is_not_captured_with_it():
    model, sink = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), MemorySink()
    optimizers = [torch.optim.SGD(layer.parameters(), 1e-3) for layer in model]
    with Monitor(model, sink=sink, optimizer=optimizers[0], capture=Capture(every=3), feature_maps=False) as monitor:
        for found in (0, 0, 0, 0, 0, 1, 1):
            backward(model)
            for optimizer in optimizers[: found + 1]:
                optimizer.step()
        assert monitor.step == 7
        monitor.log_epoch()
    seen = {tag: int(sink.series(f"gradients/{tag}")[-1][1].buckets[:, 2].sum()) for tag in ("0/weight", "1/weight")}
    assert seen == {"0/weight": 3 * 9, "1/weight": 1 * 6}


class Seen(TorchDispatchMode):
    """Counts the operators that it sees."""

    def __init__(self):
        super().__init__()
        self.operators = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("every", EVERY)
def test_a_mode_of_the_user_sees_nothing_of_ours(every):
    def train(watched):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        options = {"capture": Capture(every=every), "write_graph": False}
        monitor = Monitor(model, sink=MemorySink(), **options) if watched else nullcontext()
        with monitor, Seen() as seen:
            for _ in range(7):
                optimizer.zero_grad()
                model(torch.ones(2, 1, 8, 8)).pow(2).sum().backward()
                optimizer.step()
        assert not watched or monitor.step == 7
        return seen.operators

    assert train(True) == train(False)


@pytest.mark.parametrize("interval", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_skipped_steps_are_all_counted_whatever_the_scale_did_before(interval, seed):
    random = torch.Generator().manual_seed(seed)
    model, sink, expected = nn.Linear(3, 2), MemorySink(), []
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=interval)
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        for _ in range(3):
            skipped = torch.rand(40, generator=random) < 0.4
            for skips in skipped.tolist():
                optimizer.zero_grad()
                scaler.scale(model(torch.ones(4, 3)).sum() * (float("inf") if skips else 1.0)).backward()
                scaler.step(optimizer)
                scaler.update()
                monitor.log_batch()
            monitor.log_epoch()
            expected.append(float(skipped.sum()))
    assert [value.value for _, value in sink.series("monitor/skipped_steps")] == expected


def test_a_lone_optimizer_is_looked_at_in_captured_steps_alone():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    looked = []
    with Monitor(model, sink=MemorySink(), capture=Capture(every=4), feature_maps=False) as monitor:
        for _ in range(6):
            looked.append(monitor._watch._steps.resting is None)
            backward(model)
            optimizer.step()
        monitor.log_epoch()
        looked.append(monitor._watch._steps.resting is None)
    assert looked == [True, False, False, False, True, False, True]


@pytest.mark.parametrize("counted", [True, False], ids=["a step without it", "a whole epoch without it"])
def test_a_scaler_that_comes_later_is_found(counted):
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Monitor(model, sink=sink, capture=Capture(every=1), feature_maps=False) as monitor:
        backward(model)
        optimizer.step()
        if not counted:
            monitor.log_epoch()
        for factor in (1, math.inf, 1):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(4, 3)).sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
        monitor.log_epoch()
    assert sink.series("monitor/skipped_steps")[-1][1].value == 1
    assert "gradient_norm_before_clipping" not in sink.tags("train")


@pytest.mark.parametrize("first", [True, False])
def test_steps_that_a_scaler_leaves_alone_say_nothing_of_those_it_skips(first):
    model, sink = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), MemorySink()
    scaled, alone = (torch.optim.SGD(layer.parameters(), 1e-3) for layer in model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=10)
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        for _ in range(50):
            model.zero_grad()
            scaler.scale(model(torch.ones(4, 3)).sum()).backward()
            if first:
                alone.step()
            scaler.step(scaled)
            if not first:
                alone.step()
            scaler.update()
        monitor.log_epoch()
    assert [value.value for _, value in sink.series("monitor/skipped_steps")] == [0.0]


def test_gradients_are_not_unscaled_any_more_where_the_scaler_is_no_longer_used():
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizer, scaler = torch.optim.SGD(model.parameters(), 1e-3), torch.amp.GradScaler("cpu", growth_interval=4)
    with Monitor(model, sink=sink, capture=Capture(every=1), feature_maps=False) as monitor:
        for epoch in range(2):
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(torch.ones(4, 3)).sum()
                (loss if epoch else scaler.scale(loss)).backward()
                optimizer.step() if epoch else scaler.step(optimizer)
                scaler.update() if not epoch else None
            monitor.log_epoch()
    assert [value.value for _, value in sink.series("gradient_norm")] == pytest.approx(
        [(2 * 3 * 16 + 2 * 16) ** 0.5] * 2
    )
    assert "gradient_norm_before_clipping" not in sink.tags("train")
    assert [value.value for _, value in sink.series("monitor/skipped_steps")] == [0.0, 0.0]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_what_a_scaler_skipped_before_there_was_a_monitor_is_not_counted(kind):
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizer, scaler = kind(model.parameters(), 1e-3), torch.amp.GradScaler("cpu")

    def steps(*factors):
        for factor in factors:
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(4, 3)).sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()

    steps(math.inf, math.inf, 1.0)
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        steps(1.0, math.inf, 1.0)
        monitor.log_epoch()
    assert [value.value for _, value in sink.series("monitor/skipped_steps")] == [1.0]


def test_the_lag_is_that_of_a_step_that_was_due_behind_counted_ones():
    model, captured = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), []
    optimizers = [torch.optim.SGD(layer.parameters(), 1e-3) for layer in model]
    with Monitor(model, sink=MemorySink(), feature_maps=False, capture=Capture(every=3)) as monitor:
        for number in range(16):
            backward(model)
            captured += [monitor.step] * monitor._watch._parameters.armed
            for optimizer in optimizers[: 1 + (number == 2)]:
                optimizer.step()
            model.zero_grad()
    assert captured[-3:] == [3, 7, 11]


@pytest.mark.parametrize("with_batches", [True, False])
@pytest.mark.parametrize("turn", [2, 5, 10])
def test_an_optimizer_whose_turn_never_falls_on_a_captured_step_is_met_all_the_same(turn, with_batches):
    nets = {"g": nn.Linear(3, 3), "d": nn.Linear(3, 1)}
    optimizers = {name: torch.optim.SGD(net.parameters(), 1e-3) for name, net in nets.items()}
    sink = MemorySink()
    with Monitor(nets, sink=sink, capture=Capture(every=10), feature_maps=False) as monitor:
        for _ in range(2):
            for batch in range(1, 101):
                for name in ("d", "g") if batch % turn == 0 else ("d",):
                    optimizers[name].zero_grad()
                    backward(nets["d"] if name == "d" else nn.Sequential(nets["g"], nets["d"]))
                    optimizers[name].step()
                if with_batches:
                    monitor.log_batch()
            monitor.log_epoch()
    captured = {
        name: [int(histogram.buckets[:, 2].sum()) // net.weight.numel() for _, histogram in sink.series(tag)]
        for name, net in nets.items()
        if (tag := f"gradients/{name}/weight")
    }
    assert captured["g"][-1] >= 9 and all(count in (10, 11) for count in captured["d"])


def test_a_step_in_another_phase_is_counted_and_leaves_the_window_to_training():
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            backward(model)
            optimizer.step()

    with Monitor(model, sink=sink, capture=Capture(every=3), feature_maps=False) as monitor:
        with monitor.phase("search"):
            train(4)
        train(5)
        assert monitor.step == 9
        monitor.log_epoch()
    counts = {
        tag: sink.series(tag)[0][1].buckets[:, 2].sum()
        for tag in sink.tags("train")
        if tag.startswith(("activations/", "gradients/weight", "updates/weight"))
    }
    assert counts == {"activations/Linear": 16, "gradients/weight": 12, "updates/weight": 12}, counts


@pytest.mark.parametrize("way", ["data", "within the backward pass"])
def test_where_nothing_of_torchs_steps_batches_are_steps_and_gradients_are_said_to_be_missing(way):
    model, sink = nn.Linear(3, 2), MemorySink()
    if way != "data":
        for weight in model.parameters():
            optimizer = torch.optim.SGD([weight], 1e-3)
            weight.register_post_accumulate_grad_hook(lambda _, optimizer=optimizer: optimizer.step())
    with Monitor(model, sink=sink, capture=Capture(every=10), feature_maps=False) as monitor:
        for _ in range(2):
            hooked = []
            for _ in range(50):
                model.zero_grad()
                backward(model)
                for weight in model.parameters() if way == "data" else ():
                    weight.data.sub_(weight.grad, alpha=1e-3)
                monitor.log_batch()
                hooked.append(bool(model._forward_hooks))
            monitor.log_epoch()
        assert monitor.step == (100 if way != "data" else 68) and sum(hooked) <= 6
    ((_, text), *_) = sink.series("monitor/left_out/gradients")
    assert "torch.optim.Optimizer" in text.markdown
    assert not any(tag.startswith("gradients/") for tag in sink.tags("train"))


def test_batches_of_an_accumulated_step_are_none_and_nothing_is_said_to_be_missing():
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        for batch in range(160):
            backward(model)
            if batch % 32 == 31:
                optimizer.step()
            monitor.log_batch()
        for _ in range(200):  # an evaluation that is not said to be one
            model(torch.randn(4, 3))
            monitor.log_batch()
        assert monitor.step == 5
        monitor.log_epoch()
    assert not any(tag.startswith("monitor/left_out") for tag in sink.tags("train"))


@pytest.mark.parametrize("in_a_closure", [False, True])
def test_the_step_with_which_a_checkpoint_makes_the_optimizers_state_is_none(in_a_closure):
    model, sink = nn.Linear(3, 2), MemorySink()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 4)  # the first step has a rate of 0
    with Monitor(model, sink=sink, capture=Capture(every=100), feature_maps=False) as monitor:
        get_optimizer_state_dict(model, optimizer)
        assert optimizer.state and monitor.step == 0
        for steps in range(1, 4):
            if in_a_closure:
                optimizer.step(lambda: backward(model))
            else:
                backward(model)
                optimizer.step()
            warmup.step()
            assert monitor.step == steps
        monitor.log_epoch()
    assert sink.series("gradients/weight")[0][1].buckets[:, 2].sum() == 6
    assert sink.series("activations/Linear")[0][1].buckets[:, 2].sum() == 8
