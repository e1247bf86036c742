"""Norms of gradients, before clipping and after, and update ratios, against what a loop works out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from torchboard import Capture, MemorySink, Monitor
from torchboard.capture.backward_norms import BackwardNorms
from torchboard.capture.gradient_tap import BackwardEnd
from torchboard.capture.norms import Norms
from torchboard.capture.sketches import Sketches, SketchSnapshot, to_host
from torchboard.errors import TorchboardWarning
from torchboard.sketch.table import SketchTable


def rms(values) -> float:
    return math.sqrt(sum(float(value) ** 2 for value in values) / len(values))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def total_norm(*modules: nn.Module) -> torch.Tensor:
    gradients = [weight.grad.flatten() for module in modules for weight in module.parameters()]
    return torch.cat(gradients).norm()


def logged(sink: MemorySink) -> dict[str, float]:
    """Tag -> the one number of every scalar of norms and ratios."""
    tags = [tag for tag in sink.tags("train") if tag.startswith(("gradient_norm", "update_ratio"))]
    return {tag: value.value for tag in tags for _, value in sink.series(tag)}


def trained(loop, model: nn.Module, **options) -> dict[str, float]:
    sink = MemorySink()
    with Monitor(model, sink=sink, capture=Capture(every=1, **options), feature_maps=False) as monitor:
        loop(model)
        monitor.log_epoch()
    return logged(sink)


@pytest.mark.parametrize("options", [{}, {"parameters": False}], ids=["all", "without parameters"])
def test_norms_and_ratios_are_those_of_the_captured_steps(options):
    norms, updates, model = [], [], net()

    def loop(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            norms.append(total_norm(model))
            before = model[0].weight.detach().clone()
            optimizer.step()
            updates.append((model[0].weight.detach() - before).norm())

    seen = trained(loop, model, **options)
    assert seen.pop("gradient_norm") == pytest.approx(rms(norms), rel=1e-4)
    ratio = rms(updates) / model[0].weight.detach().norm().item()
    assert seen["update_ratio/0/weight"] == pytest.approx(ratio, rel=1e-4)
    assert set(seen) == {f"update_ratio/{layer}/{kind}" for layer in (0, 2) for kind in ("weight", "bias")}


def test_every_epoch_has_norms_of_its_own():
    model, sink, norms = net(), MemorySink(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        for factor in (1.0, 100.0, 10.0):
            optimizer.zero_grad()
            (factor * model(torch.randn(8, 4)).square().mean()).backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 1e-3).item())
            optimizer.step()
            monitor.log_epoch()
    before, after = (sink.series(tag) for tag in ("gradient_norm_before_clipping", "gradient_norm"))
    assert [value.value for _, value in before] == pytest.approx(norms, rel=1e-4)
    assert [value.value for _, value in after] == pytest.approx([1e-3] * 3, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({"updates": False}, {"gradient_norm"}),
        ({"gradients": False}, {"update_ratio/weight"}),
        ({"gradients": False, "updates": False}, set()),
    ],
    ids=str,
)
def test_what_is_not_captured_has_no_norm(options, tags):
    def loop(model):
        model(torch.randn(8, 4)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        torch.optim.SGD(model.parameters(), 0.1).step()

    seen = trained(loop, nn.Linear(4, 2, bias=False), **options)
    assert set(seen) - {"gradient_norm_before_clipping"} == tags


def test_a_part_that_is_trained_more_often_counts_with_its_own_steps():
    norms = {"0": [], "2": []}

    def loop(model):
        optimizers = {name: torch.optim.SGD(model[int(name)].parameters(), 0.1) for name in norms}
        for number in range(6):
            model.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            for name, optimizer in optimizers.items():
                if name == "0" or number % 3 == 2:
                    norms[name].append(total_norm(model[int(name)]))
                    optimizer.step()

    seen = trained(loop, net())
    assert seen["gradient_norm"] == pytest.approx(math.hypot(rms(norms["0"]), rms(norms["2"])), rel=1e-4)


def test_optimizers_that_are_made_anew_for_each_step_count_as_one():
    norms = []

    def loop(model):
        for factor in (1, 2, 3):
            model.zero_grad()
            (factor * model(torch.randn(8, 4)).square().mean()).backward()
            norms.append(total_norm(model))
            for weight in model.parameters():
                weight.grad *= 0.5
            torch.optim.SGD(model.parameters(), 0.1).step()

    seen = trained(loop, net())
    assert seen["gradient_norm_before_clipping"] == pytest.approx(rms(norms), rel=1e-4)
    assert seen["gradient_norm"] == pytest.approx(rms(norms) / 2, rel=1e-4)


@pytest.mark.parametrize("limit", [0.01, 1e6], ids=["clipped", "not clipped"])
@pytest.mark.parametrize("scaler", [None, "plain", "fused"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_norm_before_clipping_is_told_where_clipping_changed_it(limit, scaler, micro_batches):
    before, after = [], []

    def loop(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=scaler == "fused")
        scaling = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=scaler is not None)
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(micro_batches):
                scaling.scale(model(torch.randn(8, 4)).square().mean()).backward()
            scaling.unscale_(optimizer)
            before.append(nn.utils.clip_grad_norm_(model.parameters(), limit))
            after.append(total_norm(model))
            scaling.step(optimizer)
            scaling.update()

    seen = trained(loop, net())
    assert seen["gradient_norm"] == pytest.approx(rms(after), rel=1e-4)
    if limit == 0.01:
        assert seen["gradient_norm_before_clipping"] == pytest.approx(rms(before), rel=1e-4)
    else:
        assert "gradient_norm_before_clipping" not in seen


def test_a_fused_optimizers_own_unscaling_is_not_taken_for_clipping():
    def loop(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for number in range(5):
            optimizer.zero_grad()
            loss = model(torch.randn(8, 4)).square().mean()
            scaler.scale(loss * math.inf if number == 1 else loss).backward()
            if number != 1:
                norms.append(total_norm(model) / scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()

    norms: list[torch.Tensor] = []
    seen = trained(loop, net())
    assert seen["gradient_norm"] == pytest.approx(rms(norms), rel=1e-4)
    assert "gradient_norm_before_clipping" not in seen


@pytest.mark.parametrize(("value", "norm"), [(math.nan, math.nan), (math.inf, math.inf), (1e-30, 0.0)])
def test_a_norm_of_what_is_not_finite_is_not_finite(value, norm):
    def loop(model):
        model(torch.ones(1, 1)).backward()
        model.weight.grad.fill_(value)
        torch.optim.SGD(model.parameters(), 0.1).step()

    seen = trained(loop, nn.Linear(1, 1, bias=False))
    assert seen["gradient_norm"] == pytest.approx(norm, abs=1e-12, nan_ok=True)


def test_there_is_no_norm_where_a_gradient_cannot_be_measured():
    class Waves(nn.Module):
        def __init__(self):
            super().__init__()
            self.real, self.complex = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.complex64))

    def loop(model):
        (model.real * model.complex).abs().sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()

    sink = MemorySink()
    with Monitor(model := Waves(), sink=sink, feature_maps=False, write_graph=False) as monitor:
        loop(model)
        monitor.log_epoch()
    assert set(logged(sink)) == {"update_ratio/real"}
    ((_, text),) = sink.series("monitor/left_out/gradient_norm")
    assert "of `complex` no gradient could be measured" in text.markdown


def test_gradients_that_no_backward_pass_left_have_no_norm_before_clipping():
    def loop(model):
        model.weight.grad = torch.ones(2, 4)
        torch.optim.SGD(model.parameters(), 0.1).step()

    seen = trained(loop, nn.Linear(4, 2, bias=False))
    assert seen["gradient_norm"] == pytest.approx(math.sqrt(8)) and "gradient_norm_before_clipping" not in seen


def test_where_a_step_had_no_backward_pass_of_its_own_no_norm_before_clipping_is_given():
    """That of the others would be of other steps than the norm beside it."""

    def loop(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for factor in (1, None, 100):
            if factor is not None:
                model.zero_grad()
                (factor * model(torch.ones(8, 4)).square().mean()).backward()
            for weight in model.parameters():
                weight.grad *= 0.5
            optimizer.step()

    seen = trained(loop, nn.Linear(4, 2))
    assert "gradient_norm" in seen and "gradient_norm_before_clipping" not in seen


def with_a_penalty_of_its_own(model):
    model(torch.randn(8, 4)).square().mean().backward()
    (3 * sum(weight.square().sum() for weight in model.parameters())).backward()


def with_an_auxiliary_loss_behind(model):
    hidden = model[0](torch.randn(8, 4))
    model[2](model[1](hidden)).square().mean().backward(retain_graph=True)
    hidden.square().mean().backward()


def with_gradients_that_are_put_there(model):
    weights = [*model.parameters()]
    found = torch.autograd.grad(torch.randn(()).exp() * model(torch.randn(8, 4)).square().mean(), weights)
    for weight, gradient in zip(weights, found):
        weight.grad = gradient if weight.grad is None else weight.grad.copy_(gradient)


def with_a_look_at_gradients_behind(model):
    loss = model(torch.randn(8, 4)).square().mean()
    loss.backward(retain_graph=True)
    torch.autograd.grad(loss, [*model.parameters()])


@pytest.mark.parametrize("include", [None, "2"])
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize(
    "backward",
    [
        with_a_penalty_of_its_own,
        with_an_auxiliary_loss_behind,
        with_gradients_that_are_put_there,
        with_a_look_at_gradients_behind,
    ],
)
def test_the_norm_before_clipping_is_of_all_that_was_added_up(backward, clips, include):
    norms = []

    def loop(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=False)
            backward(model)
            norms.append(total_norm(model))
            if clips:
                nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
            optimizer.step()

    seen = trained(loop, net(), include=include)
    if not clips:
        assert seen["gradient_norm"] == pytest.approx(rms(norms)) and "gradient_norm_before_clipping" not in seen
    elif backward is with_gradients_that_are_put_there:  # no pass has left them
        assert "gradient_norm_before_clipping" not in seen
    else:
        assert seen["gradient_norm_before_clipping"] == pytest.approx(rms(norms))


def test_hooks_on_parameters_are_there_in_captured_steps_alone_and_leave_those_of_the_user():
    model, called = net(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    handle = model[0].weight.register_post_accumulate_grad_hook(lambda _: called.append(1))

    def counts():
        return [len(weight._post_accumulate_grad_hooks or ()) for weight in model.parameters()]

    with Monitor(model, sink=MemorySink(), capture=Capture(every=2), feature_maps=False) as monitor:
        seen = []
        for _ in range(4):
            seen.append(counts())
            model(torch.randn(8, 4)).sum().backward()
            optimizer.step()
        assert seen == [[2, 1, 1, 1], [1, 0, 0, 0]] * 2
        monitor.log_epoch()
        assert counts() == [2, 1, 1, 1]
    assert counts() == [1, 0, 0, 0] and len(called) == 4
    assert all(weight._post_accumulate_grad_hooks is None for weight in [*model.parameters()][1:])
    handle.remove()


def test_what_a_hook_of_the_optimizer_changes_is_what_is_read():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(model.parameters(), 1e-2) and None)

    def loop(model):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            assert len(optimizer._optimizer_step_pre_hooks) == 1

    seen = trained(loop, model)
    assert seen["gradient_norm"] == pytest.approx(1e-2, rel=1e-3)
    assert seen["gradient_norm_before_clipping"] > 0.02 and "update_ratio/0/weight" in seen


def test_the_norm_of_parameters_that_take_turns_is_that_of_a_step():
    """Each step's gradients are clipped to a norm of 1, and each is of one expert alone."""
    experts = nn.ModuleList(nn.Linear(4, 2) for _ in range(6))

    def loop(experts):
        optimizer = torch.optim.SGD(experts.parameters(), 0.01)
        optimizer.step()  # as who quiets a scheduler's warning does: without a gradient it is none
        for expert in experts:
            optimizer.zero_grad()
            (1e3 * expert(torch.randn(8, 4))).square().mean().backward()
            nn.utils.clip_grad_norm_(experts.parameters(), 1.0)
            optimizer.step()

    seen = trained(loop, experts)
    assert seen["gradient_norm"] == pytest.approx(1.0, rel=1e-4)
    assert seen["gradient_norm_before_clipping"] > 10


def test_the_end_of_a_backward_pass_comes_after_what_wrappers_do_at_its_end():
    told = []
    end = BackwardEnd(lambda: told.append("ours"))
    x = torch.ones(2, requires_grad=True)
    late = x * 2
    early = late * 3
    early.register_hook(lambda _: end.expect())
    early.register_hook(lambda _: end.expect())
    engine = torch.autograd.Variable._execution_engine
    late.register_hook(lambda _: engine.queue_callback(lambda: told.append("a wrapper's")))
    early.sum().backward()
    assert told == ["a wrapper's", "ours"]
    (x * 1).sum().backward()
    assert told == ["a wrapper's", "ours"]


def test_rows_packed_on_their_device_give_the_same_norms():
    def snapshot(packed):
        sketches = Sketches()
        generator = torch.Generator().manual_seed(0)
        for kind in ("gradients", "updates", "parameters"):
            sketches.observe_([(f"{kind}/a", torch.randn(50, generator=generator, dtype=torch.float64))])
        (whole,) = sketches.collect()
        if not packed:
            return whole
        (table,) = sketches._tables.values()
        generator.manual_seed(0)
        for row in range(3):
            table.observe_(row, torch.randn(50, generator=generator, dtype=torch.float64))
        return SketchSnapshot(whole.tags, to_host(table.read(), packed=True))

    whole, packed = (
        {
            tag: value.value
            for tag, value in Norms(
                (snapshot(is_packed),), {"a": 50}, {"a": 1}, BackwardNorms().collect(), False
            ).settle()
        }
        for is_packed in (False, True)
    )
    assert whole == packed and set(whole) == {"gradient_norm", "update_ratio/a"}


def test_a_fault_of_ours_never_leaves_an_optimizers_step(monkeypatch):
    def broken(*_):
        raise RuntimeError("no memory")

    for name in ("observe_many_", "read_many_"):
        monkeypatch.setattr(SketchTable, name, broken)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(
        model, sink=MemorySink(), capture=Capture(parameters=False, activations=False), feature_maps=False
    ) as monitor:
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        monkeypatch.undo()
        with pytest.warns(TorchboardWarning, match="gradients and updates .* no memory"):
            monitor.log_epoch()


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_whose_gradients_are_not_numbers_leaves_the_norm_of_the_others(scaled):
    norms, weight = BackwardNorms(), nn.Parameter(torch.ones(2))
    divisor = torch.tensor(2.0) if scaled else None
    for values in ([3.0, 4.0], [math.nan, 1.0]):
        weight.grad = torch.tensor(values) * (2 if scaled else 1)
        norms.note([weight])
        norms.step([("weight", weight)], divisor)
    assert norms.collect().norm() == pytest.approx(5.0)


@pytest.mark.parametrize("include", [None, "g*", "d*"])
@pytest.mark.parametrize("generator_first", [True, False])
@pytest.mark.parametrize("clips", [True, False])
def test_a_norm_before_clipping_is_of_the_same_pass_as_the_one_after_it(include, generator_first, clips):
    nets = {"g": nn.Linear(4, 4), "d": nn.Linear(4, 1)}
    optimizers = {name: torch.optim.SGD(net.parameters(), 0.1) for name, net in nets.items()}
    sink, order = MemorySink(), ("g", "d") if generator_first else ("d", "g")
    with Monitor(nets, sink=sink, capture=Capture(every=1, include=include), feature_maps=False) as monitor:
        for name in [*order] * 3:
            optimizers[name].zero_grad()
            made = nets["g"](torch.randn(8, 4))
            loss = nets["d"](made if name == "g" else made.detach()).mean() * (1 if name == "g" else -7)
            loss.backward()
            if clips:
                nn.utils.clip_grad_norm_(nets[name].parameters(), 1e-3)
            optimizers[name].step()
        monitor.log_epoch()
    told = "gradient_norm_before_clipping" in sink.tags("train")
    assert told == clips
