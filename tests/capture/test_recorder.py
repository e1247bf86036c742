"""The recorder sees every layer's output and gradient, and leaves the model alone."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
import weakref
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from torchboard.capture.options import Capture
from torchboard.capture.recorder import Recorder
from torchboard.errors import InvalidValueError
from torchboard.values import Event


def recorded(recorder, phase="train"):
    """Tag -> (elements, least, greatest) of what was recorded since the last call."""
    pairs = Event(0, 0.0, (), "", tuple(recorder.collect(phase))).settled().pairs
    return {
        tag: (value.buckets[:, 2].sum(), value.buckets[0, 0], value.buckets[-1, 1])
        for tag, value in pairs
        if value.plugin == "histograms"
    }


_ARMED = []


def armed(model, **options):
    recorder = Recorder(model, Capture(**options))
    recorder.arm(True)
    _ARMED.append(recorder)
    return recorder


@pytest.fixture(autouse=True)
def _windows_end_with_the_test():
    yield
    for recorder in _ARMED:
        recorder.arm(False)
    _ARMED.clear()


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def test_every_layer_but_containers_is_recorded_with_all_its_elements():
    net, x = Net(), torch.randn(2, 1, 8, 8)
    recorder = armed(net)
    net(x).sum().backward()
    counts = {tag: count for tag, (count, _, _) in recorded(recorder).items()}
    maps, scores = 2 * 4 * 36, 2 * 3
    sizes = {"body/0": maps, "body/1": maps, "body/2": maps, "head": scores, "Net": scores}
    assert counts == {
        f"{kind}/{name}": size for kind in ("activations", "activation_gradients") for name, size in sizes.items()
    }


def test_an_output_is_read_before_a_later_layer_changes_it_in_place():
    net = Net()
    recorder = armed(net)
    net(torch.randn(2, 1, 8, 8))
    seen = recorded(recorder)
    assert seen["activations/body/1"][1] < 0 == seen["activations/body/2"][1]


def test_gradients_are_those_of_autograd():
    layer = nn.Linear(3, 2)
    net = nn.Sequential(layer, nn.Tanh())
    x = torch.randn(5, 3)
    recorder = armed(net)
    out = net(x)
    out.pow(2).sum().backward()
    seen = recorded(recorder)["activation_gradients/1"]
    expected = 2 * out.detach()
    assert seen[0] == 10 and seen[1] == pytest.approx(expected.min().item(), rel=1e-6)
    assert seen[2] == pytest.approx(expected.max().item(), rel=1e-6)


def test_a_disarmed_model_carries_no_hook():
    net = Net()
    before = hooks(net)
    recorder = armed(net)
    assert hooks(net) == before + 5
    recorder.arm(False)
    assert hooks(net) == before
    net(torch.randn(2, 1, 8, 8))
    assert recorded(recorder) == {}


def test_steps_of_an_epoch_add_up():
    net = Net()
    recorder = armed(net, gradients=False)
    for _ in range(3):
        net(torch.randn(2, 1, 8, 8))
    assert recorded(recorder)["activations/head"][0] == 3 * 6


def test_training_is_the_same_to_the_bit_with_and_without():
    states = []
    for watched in (True, False):
        torch.manual_seed(0)
        net = Net()
        net.add_module("drop", nn.Dropout(0.5))
        if watched:
            recorder = armed(net)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(3):
            net.drop(net(torch.randn(4, 1, 8, 8))).pow(2).mean().backward()
            optimizer.step()
        states.append((*net.state_dict().values(), torch.rand(3)))
    assert recorder.error is None
    assert all(torch.equal(a, b) for a, b in zip(*states))


def test_an_evaluation_in_between_is_not_taken_for_training():
    net = Net()
    recorder = armed(net)
    net.eval()
    with torch.no_grad():
        net(torch.randn(2, 1, 8, 8))
    assert recorded(recorder) == {}
    net(torch.randn(2, 1, 8, 8))  # fine-tuning with frozen statistics: evaluation mode, but with gradients
    assert "activations/head" in recorded(recorder)


def test_another_phase_has_sketches_of_its_own_and_its_first_pass_only():
    net = Net().eval()
    recorder = Recorder(net, Capture())
    recorder.phase = "validation"
    recorder.arm_for_one_pass()
    with torch.inference_mode():
        for _ in range(3):
            net(torch.randn(2, 1, 8, 8))
    assert recorded(recorder) == {}
    assert recorded(recorder, "validation")["activations/head"][0] == 6
    assert hooks(net) == 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_counts_every_activation_and_gradient_once(reentrant):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    recorder = armed(net)
    x = torch.randn(5, 3, requires_grad=True)
    checkpoint(net, x, use_reentrant=reentrant).sum().backward()
    seen = recorded(recorder)
    assert {tag: count for tag, (count, _, _) in seen.items()} == {
        **{f"activations/{name}": 5 * size for name, size in (("0", 4), ("1", 4), ("2", 2), ("Sequential", 2))},
        **{
            f"activation_gradients/{name}": 5 * size for name, size in (("0", 4), ("1", 4), ("2", 2), ("Sequential", 2))
        },
    }


def test_a_view_that_is_changed_in_place_still_reports_its_gradient():
    net = nn.Sequential(nn.InstanceNorm2d(2), nn.ReLU(inplace=True))
    recorder = armed(net)
    net(torch.randn(2, 2, 4, 4, requires_grad=True)).sum().backward()
    assert recorded(recorder)["activation_gradients/0"][0] == 64


def test_nested_outputs_are_told_apart():
    class Pair(nn.Module):
        def forward(self, x):
            return {"logits": x, "past": (x[:1], None)}

    recorder = armed(Pair())
    recorder._model(torch.ones(3, 2))
    assert {tag: count for tag, (count, _, _) in recorded(recorder).items()} == {
        "activations/Pair.logits": 6,
        "activations/Pair.past.0": 2,
    }


def test_a_shared_layer_adds_up_its_calls():
    shared = nn.Linear(2, 2)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = shared

        def forward(self, x):
            return self.second(self.first(x))

    recorder = armed(Twice(), gradients=False)
    recorder._model(torch.ones(3, 2))
    assert recorded(recorder)["activations/first"][0] == 12


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), copy.copy],
    ids=["deepcopy", "pickle", "copy"],
)
def test_a_copy_made_while_armed_works_and_does_not_report(copied):
    net = Net()
    recorder = armed(net)
    other = copied(net)
    if copied is not copy.copy:  # a shallow copy shares its layers, and so their hooks
        other(torch.randn(2, 1, 8, 8)).sum().backward()
        assert recorded(recorder) == {}
    net(torch.randn(2, 1, 8, 8))
    assert recorded(recorder)["activations/head"][0] == 6


def test_a_forward_pass_that_raises_leaves_the_recorder_working():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            y = self.layer(x)
            if len(x) == 1:
                raise KeyError("one")
            return y

    net = Fails()
    recorder = armed(net)
    with pytest.raises(KeyError, match="one"):
        net(torch.ones(1, 2))
    net(torch.ones(3, 2))
    assert recorded(recorder)["activations/layer"][0] == 8


def test_outputs_that_hold_nothing_to_measure_are_left_out():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.complex(x, x), x.to_sparse(), torch.empty(3, device="meta"), None, "text", x[:0]

    recorder = armed(Odd())
    recorder._model(torch.ones(2, 2))
    assert set(recorded(recorder)) == {"activations/Odd.1"} and recorder.error is None


def test_elements_that_are_not_finite_are_counted_beside_the_histogram():
    net = nn.Identity()
    recorder = armed(net)
    net(torch.tensor([1.0, float("nan"), float("inf"), -float("inf"), 2.0]))
    pairs = dict(Event(0, 0.0, (), "", tuple(recorder.collect("train"))).settled().pairs)
    assert pairs["nonfinite/activations/Identity"].value == 3
    assert pairs["activations/Identity"].buckets[:, 2].sum() == 2


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"include": "body.*"}, {"body/0", "body/1", "body/2"}),
        ({"include": nn.Linear}, {"head"}),
        ({"include": [nn.Linear, "body.1"]}, {"body/1", "head"}),
        ({"exclude": lambda name, module: "body" in name}, {"Net", "head"}),
        ({"max_layers": 2}, {"Net", "head"}),
    ],
    ids=["glob", "type", "both", "predicate", "bound"],
)
def test_layers_can_be_chosen(options, names):
    net = Net()
    recorder = armed(net, gradients=False, **options)
    net(torch.randn(2, 1, 8, 8))
    assert set(recorded(recorder)) == {f"activations/{name}" for name in names}


@pytest.mark.parametrize(
    "options",
    [
        {"include": 3},
        {"every": "ten"},
        {"max_layers": -1},
        {"max_layers": True},
        {"max_overhead": True},
        {"rank_timeout": True},
        {"activations": "yes"},
        {"updates": None},
        {"exclude": [None]},
    ],
    ids=str,
)
def test_bad_options_are_refused_at_the_call(options):
    with pytest.raises(InvalidValueError):
        Capture(**options)


@pytest.mark.parametrize("most", [0, 255, -1, 4096.0, True, "many"])
def test_a_sample_of_no_blocks_is_refused_with_what_to_do(most):
    with pytest.raises(InvalidValueError, match="max_elements=.*blocks of 256.*such as 262144"):
        Capture(max_elements=most)


def test_large_outputs_are_sampled_if_that_is_asked_for_and_the_card_says_so():
    net = nn.Sequential(nn.Linear(4, 1000), nn.Linear(1000, 2))
    recorder = armed(net, max_elements=4096)
    net(torch.randn(50, 4)).sum().backward()
    pairs = dict(Event(0, 0.0, (), "", tuple(recorder.collect("train"))).settled().pairs)
    for kind in ("activations", "activation_gradients"):
        sampled, whole = pairs[f"{kind}/0"], pairs[f"{kind}/1"]
        assert sampled.buckets[:, 2].sum() == 4096 and whole.buckets[:, 2].sum() == 100
        assert sampled.description == "a sample of 4,096 of 50,000 elements, in blocks of 256" and not whole.description


@pytest.mark.parametrize(("error", "told"), [(RuntimeError, "lost"), (MemoryError, "error")])
def test_a_fault_of_ours_never_leaves_a_hook(monkeypatch, error, told):
    from torchboard.sketch.table import SketchTable

    def broken(*_):
        raise error("broken")

    monkeypatch.setattr(SketchTable, "observe_", broken)
    net = Net()
    recorder = armed(net)
    net(torch.randn(2, 1, 8, 8)).sum().backward()
    assert str(getattr(recorder, told)) == "broken"


class Raises(Mapping):
    """What a layer may return: a mapping that makes its values when they are asked for, and cannot."""

    __len__ = __iter__ = __getitem__ = lambda self, *_: 1 / 0


class Refuses(torch.Tensor):
    """A tensor of the user's that lets nobody hook or read it."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("register_hook", "detach", "is_floating_point", "data_ptr"):
            raise RuntimeError(function.__name__)
        return super().__torch_function__(function, types, args, kwargs or {})


def freed(x):
    gone = x.detach().clone()
    gone.untyped_storage().resize_(0)
    return x * 1, gone


@pytest.mark.parametrize(
    ("make", "captured", "unread"),
    [
        (freed, {"odd.0"}, "activations/odd.1"),
        (lambda x: (x * 1, Raises()), {"odd.0"}, "activations/odd"),
        (lambda x: ((x * 1).as_subclass(Refuses), 0), {"odd.0"}, None),
    ],
    ids=["freed", "mapping", "subclass"],
)
def test_an_output_that_cannot_be_read_silences_no_other(make, captured, unread):
    class Odd(nn.Module):
        def forward(self, x):
            return make(x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.odd, self.last = nn.Linear(3, 3), Odd(), nn.Linear(3, 3)

        def forward(self, x):
            return self.last(self.odd(self.first(x))[0].as_subclass(torch.Tensor))

    recorder = armed(Model())
    for _ in range(2):
        recorder._model(torch.ones(2, 3)).sum().backward()
    kinds, names = ("activations", "activation_gradients"), {"first", "last", "Model", *captured}
    assert {tag: count for tag, (count, _, _) in recorded(recorder).items()} == {
        f"{kind}/{name}": 12 for kind in kinds for name in names
    }
    assert recorder.error is None and [*recorder.unread] == ([unread] if unread else [])


def test_a_class_of_the_users_sees_nothing_of_what_is_read():
    seen = []

    class Watching(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    net, calls = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), []
    for watched in (False, True):
        seen.clear()
        recorder = armed(net) if watched else None
        net(torch.ones(2, 3).as_subclass(Watching)).sum().backward()
        calls.append([*seen])
    assert calls[0] == calls[1] and recorded(recorder)["activation_gradients/1"][0] == 6


class Viewed(nn.Module):
    """One output of a layer, and all of it seen through a view that another layer makes."""

    def __init__(self):
        super().__init__()
        self.stem, self.flat = nn.Linear(3, 3), nn.Flatten(0)

    def forward(self, x):
        return (out := self.stem(x)), self.flat(out)


def test_the_gradient_of_a_view_is_none_of_its_bases():
    net = Viewed()
    recorder = armed(net)
    base, _ = net(torch.ones(2, 3))
    base.sum().backward()
    assert "activation_gradients/flat" not in recorded(recorder)
    base, view = net(torch.ones(2, 3))
    (100 * base).sum().backward(retain_graph=True)
    (2 * view).sum().backward()
    assert recorded(recorder)["activation_gradients/flat"] == (6, 2, 2)


@pytest.mark.parametrize("written", ["view", "base", "another view", "base, without gradients"])
@pytest.mark.parametrize("is_kept", [True, False])
def test_the_gradient_of_a_view_is_that_of_its_base_where_one_is_written_to(written, is_kept):
    net = Viewed()
    recorder = armed(net)
    base, view = net(torch.ones(2, 3))
    if written == "view":
        loss = view.mul_(2).sum()
    elif written == "base":
        base.mul_(2)
        loss = view.sum()
    elif written == "another view":
        base.view(3, 2).mul_(2)
        loss = view.sum()
    else:
        with torch.no_grad():
            base.mul_(2)
        loss = (2 * view).sum()
    if not is_kept:
        del base, view
    loss.backward()
    assert recorded(recorder)["activation_gradients/flat"] == (6, 2, 2)


class InArray(torch.autograd.Function):
    """Gives a tensor in the memory of an array, which tells when it is let go."""

    arrays: list[weakref.ref] = []

    @staticmethod
    def forward(ctx, x):
        array = np.ones(x.shape, np.float32)
        InArray.arrays.append(weakref.ref(array))
        return torch.from_numpy(array)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_a_view_is_tapped_without_holding_its_memory():
    class Views(nn.Module):
        def forward(self, x):
            return InArray.apply(x).view(-1)

    recorder = armed(Views())
    loss = recorder._model(torch.ones(2, 3, requires_grad=True)).sum()
    assert InArray.arrays.pop()() is None
    loss.backward()
    assert recorded(recorder)["activation_gradients/Views"][0] == 6


@pytest.mark.parametrize("saved", [copy.copy, lambda output: torch.save(output, io.BytesIO())], ids=["copy", "save"])
def test_an_output_is_saved_and_copied_without_a_warning(saved):
    recorder = armed(Viewed())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for output in recorder._model(torch.ones(2, 3)):
            saved(output)


def test_containers_that_hold_each_other_are_looked_into_once():
    class Graph(nn.Module):
        def forward(self, x):
            nodes = [{"value": x} for _ in range(12)]
            for node in nodes:
                node["neighbours"] = nodes
            return nodes

    recorder = armed(Graph())
    recorder._model(torch.ones(3))
    assert set(recorded(recorder)) == {f"activations/Graph.{place}.value" for place in range(12)}


def test_a_gradient_that_comes_after_its_window_is_not_counted():
    net = nn.Linear(2, 2)
    recorder = armed(net)
    out = net(torch.ones(3, 2))
    recorder.arm(False)
    recorder.arm(True)
    functional.mse_loss(out, torch.zeros(3, 2)).backward()
    assert set(recorded(recorder)) == {"activations/Linear"}


def test_compiling_an_armed_model_breaks_no_graph_and_captures_nothing():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    recorder = armed(net)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(3, 2)), nn.functional.relu(net[0](torch.ones(3, 2))))
    assert recorder.error is None


def test_a_gradient_that_comes_when_the_window_has_closed_is_not_recorded():
    net, x = Net(), torch.randn(2, 1, 8, 8)
    recorder = armed(net)
    late = net(x).sum()
    recorder.arm(False)
    late.backward()
    assert not [tag for tag in recorded(recorder) if tag.startswith("activation_gradients")]
    recorder.arm(True)
    late = net(x).sum()
    recorder.arm(False)
    recorder.arm(True)
    late.backward()
    assert not [tag for tag in recorded(recorder) if tag.startswith("activation_gradients")], "of another window"


def test_which_part_of_an_output_is_here_is_told_in_every_epoch():
    class Sharded(nn.Module):
        def forward(self, x):
            return distribute_tensor(x, mesh, [Shard(0)])

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        net = Sharded()
        recorder = armed(net)
        for _ in range(2):
            net(torch.ones(3))
            (snapshot,) = recorder.collect("train")
            assert set(snapshot.parts) == {"activations/Sharded"}
    finally:
        dist.destroy_process_group()
