"""Trainings as people write them: each is compared, to the bit, with itself unwatched, and what was captured with a hand
computation inside the loop."""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from torchboard import Capture, MemorySink, Monitor
from torchboard.errors import InvalidValueError, TorchboardWarning


class Notes(defaultdict):
    """Tag -> the tensors that a loop says were there."""

    def __init__(self):
        super().__init__(list)

    def note(self, tag, tensor):
        self[tag].append(tensor.detach().clone().float().flatten())

    def figures(self, tag):
        values = torch.cat(self[tag])
        return values.numel(), values.min().item(), values.max().item()


def trained(build, loop, **options):
    """The loop's watched run, after it was found equal to the bare one in outputs, state and random numbers."""
    results = []
    for watched in (False, True):
        torch.manual_seed(0)
        model, notes, sink = build(), Notes(), MemorySink()
        if watched:
            capture = options.pop("capture", Capture(every=1))
            with Monitor(model, sink=sink, capture=capture, **options) as monitor:
                loop(model, notes, monitor)
                monitor.log_epoch()
        else:
            loop(model, notes, None)
        models = model.values() if isinstance(model, dict) else [model]
        states = [tensor for one in models for tensor in one.state_dict().values()]
        results.append((states, [tensor for tag in notes for tensor in notes[tag]], torch.rand(3)))
        assert not any(module._forward_hooks for one in models for module in one.modules())
    for bare, ours in zip(*results):
        assert all(torch.equal(a, b) for a, b in zip(bare, ours)) and len(bare) == len(ours)
    return sink, notes


def captured(sink, tag, run="train"):
    """Elements, least and greatest of the one histogram under a tag."""
    ((_, value),) = sink.series(tag, run)
    return int(value.buckets[:, 2].sum()), float(value.buckets[0, 0]), float(value.buckets[-1, 1])


def histograms(sink, kind, run="train"):
    return {tag.removeprefix(f"{kind}/") for tag in sink.tags(run) if tag.startswith(f"{kind}/")}


def check(sink, notes):
    """What was captured is what the loop noted."""
    assert notes
    for tag in notes:
        assert captured(sink, tag) == pytest.approx(notes.figures(tag), rel=1e-5, abs=1e-7), tag


def two_layers():
    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr)


def stepped(model, optimizer, notes):
    """An optimizer's step, with gradients and updates noted."""
    named = [(name.replace(".", "/"), weight) for name, weight in model.named_parameters()]
    before = [(name, weight, weight.detach().clone()) for name, weight in named if weight.grad is not None]
    for name, weight, _ in before:
        notes.note(f"gradients/{name}", weight.grad)
    optimizer.step()
    for name, weight, old in before:
        notes.note(f"updates/{name}", weight.detach() - old)


def noted(layer, tag, x, notes):
    """A layer's output, noted; and its gradient, when it comes."""
    out = layer(x)
    notes.note(f"activations/{tag}", out)
    if out.requires_grad:
        out.register_hook(lambda gradient: notes.note(f"activation_gradients/{tag}", gradient))
    return out


def test_accumulated_gradients_are_the_optimizers_and_every_micro_batch_is_seen():
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        for _ in range(2):
            optimizer.zero_grad()
            for _ in range(3):
                x = noted(model[0], "0", torch.randn(5, 4), notes)
                noted(model[1], "1", x, notes).square().mean().backward()
                if monitor:
                    monitor.log_batch()
            stepped(model, optimizer, notes)

    sink, notes = trained(two_layers, loop)
    check(sink, notes)
    assert captured(sink, "activations/0")[0] == 2 * 3 * 30 and captured(sink, "gradients/0/weight")[0] == 2 * 24


def test_clipped_gradients_are_seen_as_the_optimizer_uses_them():
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        model(torch.randn(5, 4)).square().sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        stepped(model, optimizer, notes)

    sink, notes = trained(two_layers, loop)
    check(sink, notes)
    assert captured(sink, "gradients/0/weight")[2] <= 0.01


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("bad", [(0, 1), (2,), (1, 2, 5), ()], ids=str)
def test_a_loss_scalers_skipped_steps_are_counted_and_its_gradients_unscaled(fused, bad):
    def loop(model, notes, monitor):
        optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
        for number in range(7):
            optimizer.zero_grad()
            loss = model(torch.randn(5, 4)).square().mean()
            scaler.scale(loss * float("inf") if number in bad else loss).backward()
            if number not in bad:
                for name, weight in model.named_parameters():
                    notes.note("gradients/" + name.replace(".", "/"), weight.grad / scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()

    sink, notes = trained(two_layers, loop)
    check(sink, notes)
    ((_, value),) = sink.series("monitor/skipped_steps")
    assert value.value == len(bad)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_loss_scaler_that_is_switched_off_is_none(enabled):
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        scaler.scale(model(torch.randn(5, 4)).square().mean()).backward()
        scaler.unscale_(optimizer)
        for name, weight in model.named_parameters():
            notes.note("gradients/" + name.replace(".", "/"), weight.grad)
        scaler.step(optimizer)
        scaler.update()

    sink, notes = trained(two_layers, loop)
    check(sink, notes)
    assert ("monitor/skipped_steps" in sink.tags("train")) == enabled


def test_skipped_steps_are_those_of_the_epoch():
    model, sink = two_layers(), MemorySink()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu", growth_interval=100)
    with Monitor(model, sink=sink) as monitor:
        for bad in (2, 0, 1):
            for number in range(300):
                optimizer.zero_grad()
                loss = model(torch.randn(5, 4)).square().mean()
                scaler.scale(loss * float("inf") if number < bad else loss).backward()
                scaler.step(optimizer)
                scaler.update()
            monitor.log_epoch()
    assert [value.value for _, value in sink.series("monitor/skipped_steps")] == [2, 0, 1]


def test_without_a_scaler_nothing_is_said_of_skipped_steps():
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        model(torch.randn(5, 4)).square().sum().backward()
        stepped(model, optimizer, notes)

    sink, _ = trained(two_layers, loop)
    assert not [tag for tag in sink.tags("train") if tag.startswith("monitor/")]


def test_several_optimizers_step_once_each_in_a_step():
    def loop(model, notes, monitor):
        optimizers = [torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.Adam(model[1].parameters(), 0.01)]
        for _ in range(3):
            model.zero_grad()
            x = noted(model[0], "0", torch.randn(5, 4), notes)
            noted(model[1], "1", x, notes).square().mean().backward()
            for layer, optimizer in zip(model, optimizers):
                before = layer.weight.detach().clone()
                notes.note(f"gradients/{'01'[layer is model[1]]}/weight", layer.weight.grad)
                optimizer.step()
                notes.note(f"updates/{'01'[layer is model[1]]}/weight", layer.weight.detach() - before)
            if monitor:
                steps.append(monitor.step)

    steps = []
    check(*trained(two_layers, loop))
    assert steps == [1, 2, 3]


@pytest.mark.parametrize("logs", [True, False], ids=["log_batch", "no log_batch"])
def test_a_gans_two_models_are_watched_as_one(logs):
    def build():
        return {"generator": nn.Linear(2, 3), "critic": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))}

    def loop(models, notes, monitor):
        generator, critic = models.values()
        optimizers = {name: torch.optim.Adam(model.parameters(), 0.01) for name, model in models.items()}
        for _ in range(4):
            optimizers["critic"].zero_grad()
            fake = noted(generator, "generator", torch.randn(5, 2), notes).detach()
            (critic(fake) - critic(torch.randn(5, 3))).mean().backward()
            notes.note("gradients/critic/0/weight", critic[0].weight.grad)
            optimizers["critic"].step()
            optimizers["generator"].zero_grad()
            (-critic(noted(generator, "generator", torch.randn(5, 2), notes))).mean().backward()
            notes.note("gradients/generator/weight", generator.weight.grad)
            optimizers["generator"].step()
            if monitor:
                if logs:
                    monitor.log_batch(loss=0.0)
                steps.append(monitor.step)
        kept.append(optimizers)

    steps, kept = [], []
    sink, notes = trained(build, loop)
    check(sink, notes)
    assert steps == [1, 2, 3, 4]
    assert histograms(sink, "parameters") >= {"generator/weight", "critic/0/weight", "critic/2/bias"}
    assert histograms(sink, "activations") == {"generator", "critic/0", "critic/1", "critic/2"}
    assert set(sink.tags("train")) >= {"epoch_learning_rate_Adam", "epoch_learning_rate_Adam_2"}


@pytest.mark.parametrize(
    "models", [{}, {"a.b": nn.Linear(1, 1)}, {1: nn.Linear(1, 1)}, {"a": 3}, [nn.Linear(1, 1)]], ids=repr
)
def test_what_is_no_model_and_no_dict_of_them_is_refused(models):
    with pytest.raises(InvalidValueError):
        Monitor(models, sink=MemorySink())


def test_parameters_that_got_no_gradient_are_named():
    class Forgets(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = (
                nn.Linear(4, 2),
                nn.Linear(4, 2),
                nn.Linear(2, 2).requires_grad_(False),
            )

        def forward(self, x):
            return self.frozen(self.used(x))

    def loop(model, notes, monitor):
        optimizer = sgd(model)
        model(torch.randn(5, 4)).square().sum().backward()
        stepped(model, optimizer, notes)

    sink, notes = trained(Forgets, loop)
    check(sink, notes)
    ((_, text),) = sink.series("monitor/parameters_without_gradient")
    assert "`unused.weight`, `unused.bias`" in text.markdown and "`used" not in text.markdown.replace("`unused", "")
    assert "frozen" not in text.markdown
    assert histograms(sink, "gradients") == {"used/weight", "used/bias"}
    assert "frozen" in histograms(sink, "activation_gradients")


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_count_once(reentrant):
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        for _ in range(2):
            model.zero_grad()
            x = torch.randn(5, 4, requires_grad=True)
            twin = nn.functional.linear(x.detach(), model[0].weight.detach(), model[0].bias.detach())
            notes.note("activations/0", twin)
            checkpoint(model, x, use_reentrant=reentrant).square().mean().backward()
            stepped(model, optimizer, notes)

    sink, notes = trained(two_layers, loop)
    check(sink, notes)
    assert captured(sink, "activation_gradients/0")[0] == captured(sink, "activations/0")[0] == 2 * 30


def test_autocast_outputs_are_measured_as_they_are():
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        with torch.autocast("cpu", torch.bfloat16):
            out = noted(model[1], "1", noted(model[0], "0", torch.randn(5, 4), notes), notes)
            assert out.dtype == torch.bfloat16
        out.float().square().mean().backward()
        stepped(model, optimizer, notes)

    check(*trained(two_layers, loop))


def test_a_module_used_twice_and_tied_weights_count_once_under_one_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body = nn.Embedding(7, 4), nn.Linear(4, 4)
            self.again = self.body
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

    def loop(model, notes, monitor):
        optimizer = sgd(model)
        x = noted(model.embed, "embed", torch.randint(0, 7, (5,)), notes)
        x = noted(model.again, "body", noted(model.body, "body", x, notes), notes)
        noted(model.head, "head", x, notes).square().mean().backward()
        stepped(model, optimizer, notes)

    sink, notes = trained(Tied, loop)
    check(sink, notes)
    assert histograms(sink, "gradients") == {"embed/weight", "body/weight", "body/bias"}


@dataclass
class Out:
    logits: torch.Tensor
    extra: object = None


def test_outputs_of_every_shape_are_taken_apart():
    class Answers(nn.Module):
        def __init__(self, answer):
            super().__init__()
            self.answer = answer

        def forward(self, x):
            return self.answer(x)

    answers = {
        "pair": lambda x: (x * 2, [x * 3, None]),
        "table": lambda x: {"p": x + 1, "n": None, "text": "yes"},
        "record": lambda x: Out(x * 4),
        "nothing": lambda x: None,
    }

    def build():
        return nn.ModuleDict({"first": nn.Linear(4, 4), **{name: Answers(answer) for name, answer in answers.items()}})

    def loop(model, notes, monitor):
        optimizer = sgd(model)
        x = noted(model["first"], "first", torch.randn(5, 4), notes)
        (a, (b, _)), table, record = model["pair"](x), model["table"](x), model["record"](x)
        model["nothing"](x)
        parts = {"pair.0": a, "pair.1.0": b, "table.p": table["p"], "record.logits": record.logits}
        for name, part in parts.items():
            notes.note(f"activations/{name}", part)
            part.register_hook(lambda gradient, name=name: notes.note(f"activation_gradients/{name}", gradient))
        sum(part.square().sum() for part in parts.values()).backward()
        stepped(model, optimizer, notes)

    sink, notes = trained(build, loop)
    check(sink, notes)
    assert histograms(sink, "activations") == {"first", "pair.0", "pair.1.0", "table.p", "record.logits"}


def test_a_layers_output_is_what_it_put_out_though_it_is_changed_in_place_after():
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        x = noted(model[0], "0", torch.randn(5, 4), notes)
        x.mul_(3).relu_()
        noted(model[1], "1", x, notes).square().mean().backward()
        stepped(model, optimizer, notes)

    sink, notes = trained(two_layers, loop)
    check(sink, notes)
    assert captured(sink, "activations/0")[1] < 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_validation_without_gradients_is_no_training(mode):
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        for _ in range(2):
            model.eval()
            with mode():
                model(1000 * torch.ones(5, 4))
            model.train()
            model.zero_grad()
            noted(model[1], "1", noted(model[0], "0", torch.randn(5, 4), notes), notes).square().mean().backward()
            stepped(model, optimizer, notes)
        if monitor:
            model.eval()
            with monitor.phase("validation"), mode():
                model(7 * torch.ones(5, 4))

    sink, notes = trained(two_layers, loop)
    check(sink, notes)
    assert captured(sink, "activations/0", "validation")[0] == 30


def test_function_transforms_pass_and_the_training_around_them_is_seen():
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        weights = {name: weight.detach() for name, weight in model.named_parameters()}

        def loss(weights, x):
            return torch.func.functional_call(model, weights, (x,)).square().sum()

        x = torch.randn(3, 1, 4)
        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
        notes.note("outside", gradients["0.weight"])
        inner = nn.functional.linear(x, weights["0.weight"], weights["0.bias"])
        notes.note("activations/0", inner)
        notes.note("activations/1", nn.functional.linear(inner, weights["1.weight"], weights["1.bias"]))
        noted(model[1], "1", noted(model[0], "0", torch.randn(5, 4), notes), notes).square().mean().backward()
        stepped(model, optimizer, notes)

    sink, notes = trained(two_layers, loop)
    del notes["outside"]
    check(sink, notes)
    assert captured(sink, "activations/1")[0] == 16 and captured(sink, "activation_gradients/1")[0] == 10


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_part_keeps_its_parameters_in_sight():
    def build():
        return nn.Sequential(torch.jit.script(nn.Linear(4, 6)), nn.Linear(6, 2))

    def loop(model, notes, monitor):
        optimizer = sgd(model)
        noted(model[1], "1", model[0](torch.randn(5, 4)), notes).square().mean().backward()
        stepped(model, optimizer, notes)

    sink, notes = trained(build, loop)
    check(sink, notes)
    assert "gradients/0/weight" in notes and "activations/0" not in sink.tags("train")


@pytest.mark.parametrize("packed", [False, True])
def test_a_recurrent_layers_sequence_and_states_are_seen(packed):
    def build():
        return nn.ModuleDict({"rnn": nn.LSTM(3, 4, num_layers=2), "head": nn.Linear(4, 2)})

    def loop(model, notes, monitor):
        optimizer = sgd(model)
        x = torch.randn(5, 2, 3)
        x = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3])) if packed else x
        out, (h, c) = model["rnn"](x)
        data = out.data if packed else out
        notes.note("activations/rnn.0.data" if packed else "activations/rnn.0", data)
        notes.note("activations/rnn.1.0", h)
        notes.note("activations/rnn.1.1", c)
        noted(model["head"], "head", h[-1], notes).square().mean().backward()
        stepped(model, optimizer, notes)

    check(*trained(build, loop))


def test_a_forward_pass_that_raises_is_survived():
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        with pytest.raises(RuntimeError):
            model[1](noted(model[0], "0", torch.randn(5, 4), notes).T)
        noted(model[1], "1", noted(model[0], "0", torch.randn(5, 4), notes), notes).square().mean().backward()
        stepped(model, optimizer, notes)

    check(*trained(two_layers, loop))


@pytest.mark.parametrize("every", [1, 2])
def test_a_model_moved_to_another_type_and_extended_goes_on_to_be_seen(every):
    model, sink = two_layers(), MemorySink()
    with Monitor(model, sink=sink, capture=Capture(every=every)) as monitor:
        for change in (model.double, lambda: model.append(nn.Linear(2, 3, dtype=torch.float64)), lambda: None):
            optimizer = sgd(model)
            for _ in range(4):
                model(torch.randn(5, 4, dtype=model[0].weight.dtype)).square().mean().backward()
                optimizer.step()
            change()
            monitor.log_epoch()
    epochs = {tag: [step for step, _ in sink.series(tag)] for tag in ("gradients/0/weight", "activations/2")}
    assert epochs == {"gradients/0/weight": [0, 1, 2], "activations/2": [2]}


def test_a_model_that_is_wrapped_later_keeps_its_names():
    model, sink = two_layers(), MemorySink()
    optimizer = sgd(model)
    with Monitor(model, sink=sink, capture=Capture(every=1)) as monitor:
        for wrapped in (model, nn.DataParallel(model), torch.compile(model, backend="eager")):
            wrapped(torch.randn(5, 4)).square().mean().backward()
            optimizer.step()
        monitor.log_epoch()
    assert captured(sink, "activations/0")[0] == 3 * 30 == captured(sink, "activation_gradients/0")[0]


def test_several_monitors_see_the_same():
    model = two_layers()
    optimizer = sgd(model)
    sinks = [MemorySink(), MemorySink()]
    monitors = [Monitor(model, sink=sink, capture=Capture(every=1)) for sink in sinks]
    for _ in range(3):
        model(torch.randn(5, 4)).square().mean().backward()
        optimizer.step()
    for monitor in monitors:
        monitor.log_epoch()
        monitor.close()
    tags = sorted(tag for tag in sinks[0].tags("train") if tag.split("/")[0] in ("activations", "gradients", "updates"))
    assert tags and all(captured(sinks[0], tag) == captured(sinks[1], tag) for tag in tags)


@pytest.mark.parametrize(("before", "seen"), [(0, 3), (1, 2), (2, 2)])
def test_a_users_hook_that_removes_ours_costs_their_layer_only(before, seen):
    """Before the first pass of the epoch, which looks for that, before the second of a step, and in a later step."""
    model, sink = two_layers(), MemorySink()
    optimizer = sgd(model)
    told = pytest.warns(TorchboardWarning, match="our hooks on 0: something took them away")
    with Monitor(model, sink=sink, capture=Capture(every=1), write_graph=False) as monitor:
        for number in range(3):
            if number == before:
                model[0]._forward_hooks.clear()
            model(torch.randn(5, 4)).square().mean().backward()
            if number:
                optimizer.step()
        with told if before else nullcontext():
            monitor.log_epoch()
    counts = [value.buckets[:, 2].sum() for tag in "01" for _, value in sink.series(f"activations/{tag}")]
    assert counts == [passes * 5 * layer.out_features for passes, layer in zip((seen, 3), model)]


def test_a_model_without_parameters_is_watched():
    def loop(model, notes, monitor):
        noted(model[0], "0", torch.randn(5, 4), notes)
        if monitor:
            monitor.log_batch(loss=1.0)

    check(*trained(lambda: nn.Sequential(nn.Tanh()), loop))


def test_a_model_on_the_meta_device_has_nothing_to_measure_and_is_no_fault():
    with torch.device("meta"):
        model = two_layers()
    sink = MemorySink()
    with Monitor(model, sink=sink) as monitor:
        model(torch.empty(5, 4, device="meta")).sum().backward()
        monitor.log_epoch()
    assert not [tag for tag, plugin in sink.tags("train").items() if plugin == "histograms"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_quantized_layers_show_their_outputs():
    engine = "fbgemm" if "fbgemm" in torch.backends.quantized.supported_engines else "qnnpack"
    torch.backends.quantized.engine = engine
    model, sink = torch.ao.quantization.quantize_dynamic(two_layers().eval(), {nn.Linear}), MemorySink()
    with Monitor(model, sink=sink) as monitor, monitor.phase("validation"):
        with torch.no_grad():
            model(torch.randn(5, 4))
        monitor.log_epoch()
    assert captured(sink, "activations/0", "validation")[0] == 30


@pytest.mark.parametrize(
    ("include", "near"),
    [("layer1.conv", "layer1.0"), (["*", "head"], "layer1"), (nn.LSTM, "Linear"), (lambda name, module: False, "Tanh")],
    ids=["glob", "one of two", "type", "predicate"],
)
def test_what_matches_no_layer_is_refused_with_what_is_near(include, near):
    model = nn.Sequential()
    model.layer1 = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    with pytest.raises(InvalidValueError, match="matches no layer") as caught:
        Monitor(model, sink=MemorySink(), capture=Capture(include=include))
    assert near in str(caught.value)


@pytest.mark.parametrize("optimizer", [lambda: sgd(two_layers()), lambda: 0.1], ids=["another model's", "none"])
def test_an_optimizer_that_is_not_this_models_is_refused(optimizer):
    with pytest.raises(InvalidValueError, match="optimizer"):
        Monitor(two_layers(), sink=MemorySink(), optimizer=optimizer())


def test_the_monitors_share_of_the_time_is_bounded_and_logged():
    sinks = {}
    for limit in (1e-6, 1.0):
        model, sinks[limit] = two_layers(), MemorySink()
        optimizer = sgd(model)
        with Monitor(model, sink=sinks[limit], capture=Capture(every=1, max_overhead=limit)) as monitor:
            for _ in range(30):
                model(torch.randn(5, 4)).square().mean().backward()
                optimizer.step()
            monitor.log_epoch()
        ((_, share),) = sinks[limit].series("monitor/overhead")
        assert 0 < share.value < 1
    counts = {limit: captured(sink, "activations/0")[0] // 30 for limit, sink in sinks.items()}
    assert counts[1e-6] == 2 and counts[1.0] == 30  # the first step, and the one that was found too dear


@pytest.mark.parametrize("limit", [0, -1, 2, "1 %", True and "x"])
def test_a_bound_that_is_no_share_is_refused(limit):
    with pytest.raises(InvalidValueError, match="max_overhead"):
        Capture(max_overhead=limit)


def test_the_loss_is_the_users():
    def loop(model, notes, monitor):
        optimizer = sgd(model)
        loss = functional.mse_loss(model(torch.randn(5, 4)), torch.zeros(5, 2))
        loss.backward()
        notes.note("loss", loss)
        stepped(model, optimizer, notes)
        if monitor:
            monitor.log_batch(loss=loss)

    sink, notes = trained(two_layers, loop)
    ((_, value),) = sink.series("epoch_loss")
    assert value.value == pytest.approx(notes.figures("loss")[1])
