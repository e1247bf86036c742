"""What is counted of models and calls of every make: how many elements of each layer's output and of its gradient.

The numbers are worked out by hand. Each case runs in one captured step, and must leave outputs, gradients, random numbers
and hooks as they are without us.
"""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, vmap
from torch.utils.checkpoint import checkpoint

from torchboard.capture.model_watch import ModelWatch
from torchboard.capture.options import Capture
from torchboard.values import Event

EXPORTS_IN_WINDOWS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 15)
"""Versions before this cannot export by ``strict=True`` under the stance ``force_eager``, which an open window sets."""


class Steps:
    """Counts the steps that it is told of."""

    def __init__(self) -> None:
        self.ended = 0

    def end(self) -> None:
        self.ended += 1


class Watched:
    """A model that is watched for one window."""

    def __init__(self, model: nn.Module, **options: object) -> None:
        self.model, self.steps = model, Steps()
        self.watch = ModelWatch(model, Capture(**options), self.steps.end, feature_maps=False, graph=False)
        self.watch.arm(True)

    def seen(self, phase: str = "train") -> dict[str, object]:
        """Tag -> value of what was captured since the last call."""
        pending = self.watch.collect().get(phase, ())
        assert [*self.watch.errors()] == []
        return dict(Event(0, 0.0, (), "", pending).settled().pairs)

    def counts(self, kind: str) -> dict[str, int]:
        """Layer -> elements that its histogram of a kind holds."""
        histograms = {tag: value for tag, value in self.seen().items() if tag.startswith(f"{kind}/")}
        return {tag.removeprefix(f"{kind}/"): int(value.buckets[:, 2].sum()) for tag, value in histograms.items()}

    def close(self) -> None:
        self.watch.release()


@pytest.fixture
def watched():
    """Makes watched models, and lets them go when the test ends."""
    made = []

    def make(model: nn.Module, **options: object) -> Watched:
        made.append(Watched(model, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in one.model.modules())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.relu = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True)
        self.b = nn.Linear(8, 2)

    def forward(self, x):
        return self.b(self.relu(self.norm(self.a(x))))


class Checkpointed(Net):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        x = checkpoint(lambda x: self.relu(self.norm(self.a(x))), x, use_reentrant=self.reentrant)
        return checkpoint(self.b, x, use_reentrant=self.reentrant)


class Wraps(nn.Module):
    """A layer, then a function of its output."""

    def __init__(self, then: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.part, self.then = nn.Linear(6, 4), Then(), then

    def forward(self, x):
        return self.then(self.part(self.layer(x)))


class Then(nn.Module):
    def forward(self, x):
        return x.view(-1, 4)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.again = self.layer

    def forward(self, x):
        for _ in range(3):
            x = self.again(self.layer(x))
        return x


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x):
        y = self.layer(x)
        if len(x) == 1:
            raise ValueError("one")
        return y


def rows(number: int = 5) -> torch.Tensor:
    return torch.randn(number, 6)


def once(model: nn.Module) -> None:
    model(rows()).square().sum().backward()


def twice(model: nn.Module) -> None:
    loss = model(rows()).square().sum()
    loss.backward(retain_graph=True)
    loss.backward()


def penalised(model: nn.Module) -> None:
    x = rows().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (model(x).square().sum() + slope.square().sum()).backward()


def accumulated(model: nn.Module) -> None:
    for _ in range(3):
        once(model)


def autocast(model: nn.Module) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        out = model(rows())
    out.float().square().sum().backward()


def evaluated_between(model: nn.Module) -> None:
    model.eval()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            model(rows(50))
    model.train()
    once(model)


def raised_first(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="one"):
        model(rows(1))
    once(model)


def by_keyword(model: nn.Module) -> None:
    model(input=rows()).square().sum().backward()


def with_other_weights(model: nn.Module) -> None:
    weights = {name: 2 * weight for name, weight in model.named_parameters()}
    functional_call(model, weights, (rows(),)).square().sum().backward()


def per_sample(model: nn.Module) -> None:
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(weights, x):
        return functional_call(model, weights, (x,)).square().sum()

    vmap(grad(loss), in_dims=(None, 0))(weights, rows().unsqueeze(1))


def transformed(model: nn.Module) -> None:
    x = rows(1)
    jacrev(model)(x)
    hessian(lambda x: model(x).square().sum())(x)


def in_threads(model: nn.Module) -> None:
    from torch.nn.parallel import replicate

    replicas = [_replica(model) for _ in range(2)] if not torch.cuda.is_available() else replicate(model, [0, 0])
    threads = [threading.Thread(target=once, args=(replica,)) for replica in replicas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _replica(module: nn.Module) -> nn.Module:
    """As ``DataParallel`` makes one: a copy without parameters of its own, with the very hooks of the module."""
    replica = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        replica._modules[name] = _replica(child)
    for name, parameter in module._parameters.items():
        setattr(replica, name, parameter)
    return replica


def exported(model: nn.Module) -> None:
    for strict in (False, *([True] if EXPORTS_IN_WINDOWS else [])):
        program = torch.export.export(model, (rows(),), strict=strict)
        assert not any("torchboard" in str(node.target) for node in program.graph.nodes)
    torch.jit.trace(model, rows(), check_trace=False)
    torch.fx.symbolic_trace(model)
    once(model)


def jagged(model: nn.Module) -> None:
    parts = torch.nested.nested_tensor([rows(2), rows(3)], layout=torch.jagged)
    model(parts).values().square().sum().backward()


def wrapped(model: nn.Module) -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return nn.Sequential(nn.Linear(6, 4), checkpoint_wrapper(nn.Sequential(nn.Linear(4, 4), nn.Tanh())))


SIZES = {"a": 40, "norm": 40, "relu": 40, "b": 10, "Net": 10}
WRAPS = {"layer": 20, "part": 20, "Wraps": 20}


@dataclass(frozen=True)
class Case:
    """A model, what is done with it, and the elements that its layers' outputs and their gradients then have."""

    build: Callable[[], nn.Module]
    step: Callable[[nn.Module], None]
    activations: dict[str, int]
    gradients: dict[str, int] = field(default=None)  # type: ignore[assignment]


def times(number: int, sizes: dict[str, int]) -> dict[str, int]:
    return {name: number * size for name, size in sizes.items()}


def renamed(sizes: dict[str, int], name: str) -> dict[str, int]:
    return {name if key == "Net" else key: size for key, size in sizes.items()}


CASES = {
    "an in-place activation": Case(Net, once, SIZES),
    "several micro-batches": Case(Net, accumulated, times(3, SIZES)),
    "a graph run through twice": Case(Net, twice, SIZES, times(2, SIZES)),
    "a gradient of a gradient": Case(
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh()),
        penalised,
        {"0": 40, "1": 40, "Sequential": 40},
        {"0": 60, "1": 60, "Sequential": 60},
    ),
    "autocast": Case(Net, autocast, SIZES),
    "keyword arguments": Case(lambda: nn.Linear(6, 4), by_keyword, {"Linear": 20}),
    "evaluations in between": Case(Net, evaluated_between, SIZES),
    "a forward pass that raises": Case(Raises, raised_first, {"layer": 12, "Raises": 10}, {"layer": 10, "Raises": 10}),
    "non-reentrant checkpoints": Case(lambda: Checkpointed(False), once, renamed(SIZES, "Checkpointed")),
    "reentrant checkpoints": Case(
        lambda: Checkpointed(True),
        lambda model: model(rows().requires_grad_()).square().sum().backward(),
        renamed(SIZES, "Checkpointed"),
    ),
    "a checkpoint wrapper": Case(lambda: wrapped(Net()), once, {"0": 20, "1/0": 20, "1/1": 20, "Sequential": 20}),
    "a layer called six times": Case(Shared, once, {"layer": 180, "Shared": 30}),
    "a view of all, then in place": Case(lambda: Wraps(lambda x: x.mul_(2)), once, WRAPS),
    "a function's output in place": Case(lambda: Wraps(lambda x: x.relu_()), once, WRAPS),
    "other weights": Case(Net, with_other_weights, SIZES),
    "per-sample gradients": Case(lambda: nn.Linear(6, 4), per_sample, {"Linear": 20}, {}),
    "Jacobians and Hessians": Case(lambda: nn.Linear(6, 4), transformed, {"Linear": 4 + 4}, {}),
    "replicas in threads": Case(lambda: nn.Sequential(nn.Linear(6, 4)), in_threads, {"0": 40, "Sequential": 40}),
    "exports and traces": Case(lambda: nn.Sequential(nn.Linear(6, 4)), exported, {"0": 20, "Sequential": 20}),
    "a jagged batch": Case(lambda: nn.Linear(6, 4), jagged, {"Linear": 20}),
}


@pytest.mark.filterwarnings(
    "ignore:`torch.jit", "ignore:`isinstance", "ignore:The PyTorch API of nested", "ignore:None of the inputs"
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_element_is_counted_once(case, watched):
    results = []
    for watch in (False, True):
        torch.manual_seed(0)
        model = case.build()
        ours = watched(model, updates=False, parameters=False) if watch else None
        case.step(model)
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        results.append([*model.state_dict().values(), *gradients, torch.rand(3)])
        assert all(module.training for module in model.modules())
    if case is not CASES["replicas in threads"]:  # whose turn it is in the random numbers is nobody's to say
        assert all(torch.equal(bare, same) for bare, same in zip(*results, strict=True))
    seen = ours.seen()
    for kind, expected in (("activations", case.activations), ("activation_gradients", case.gradients)):
        expected = case.activations if expected is None else expected
        assert {
            tag.removeprefix(f"{kind}/"): int(value.buckets[:, 2].sum())
            for tag, value in seen.items()
            if tag.startswith(f"{kind}/")
        } == expected


def test_the_batch_of_vmap_is_measured_whole(watched):
    layer, x = nn.Linear(6, 4), rows()
    ours = watched(layer)
    out = vmap(lambda x: layer(x))(x)
    buckets = ours.seen()["activations/Linear"].buckets
    assert (buckets[0, 0], buckets[-1, 1]) == pytest.approx((out.min().item(), out.max().item()), rel=1e-6)


def test_what_a_users_hook_makes_of_an_output_is_the_output(watched):
    layer = nn.Linear(6, 4)
    layer.register_forward_hook(lambda module, args, output: output * 0 + 7)
    ours = watched(layer)
    layer(rows())
    assert ours.seen()["activations/Linear"].buckets[0, 0] == pytest.approx(7)
    ours.close()
    layer._forward_hooks.clear()


def test_averaged_copies_are_silent(watched):
    model = Net()
    ours = watched(model)
    once(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    once(average)
    copy.deepcopy(model)(rows())
    assert ours.counts("activations") == SIZES


def test_a_model_saved_while_watched_needs_no_package_to_load(watched, tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    watched(model)
    once(model)
    (tmp_path / "pickled").write_bytes(pickle.dumps(model))
    torch.save(model, tmp_path / "saved")
    code = """
import pickle, sys, torch
sys.modules["torchboard"] = None
for model in pickle.load(open("pickled", "rb")), torch.load("saved", weights_only=False):
    print(*model(torch.ones(2, 6)).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "2 4\n2 4\n", done.stderr
    assert set(model.state_dict()) == {"0.weight", "0.bias"}


def test_a_closures_gradients_are_those_it_computes_within_the_step(watched):
    """As trainers call it: the pass, the gradients and their clipping are all inside the optimizer's step."""
    model = nn.Linear(6, 4, bias=False)
    ours = watched(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    noted = []

    def closure():
        optimizer.zero_grad()
        loss = model(rows()).square().sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        noted.append(model.weight.grad.clone())
        return loss

    before = model.weight.detach().clone()
    optimizer.step(closure)
    update, seen = model.weight.detach() - before, ours.seen()
    for tag, expected in (("gradients/weight", noted[0]), ("updates/weight", update)):
        buckets = seen[tag].buckets
        assert (buckets[0, 0], buckets[-1, 1]) == pytest.approx(
            (expected.min().item(), expected.max().item()), rel=1e-5
        )
    assert seen["gradient_norm"].value == pytest.approx(1.0, rel=1e-4)
    assert seen["gradient_norm_before_clipping"].value > 1.1
    assert "monitor/parameters_without_gradient" not in seen and ours.steps.ended == 1


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_an_optimizer_that_evaluates_its_closure_several_times_takes_one_step(watched):
    model = nn.Linear(6, 4)
    ours = watched(model)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = model(rows()).square().sum()
        loss.backward()
        calls.append(model.weight.grad.clone())
        return loss

    optimizer.step(closure)
    assert len(calls) > 1 and ours.steps.ended == 1
    seen = ours.seen()
    assert seen["activations/Linear"].buckets[:, 2].sum() == 20 * len(calls)
    buckets = seen["gradients/weight"].buckets
    assert buckets[:, 2].sum() == 24 and buckets[-1, 1] == pytest.approx(calls[-1].max().item(), rel=1e-5)


def test_a_skipped_step_leaves_the_window_open(watched):
    model = nn.Linear(6, 4)
    ours = watched(model)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(model(rows()).square().sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert ours.steps.ended == 1 and ours.counts("activations") == {"Linear": 40}


def test_parameters_frozen_on_the_way_are_left_out(watched):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ours = watched(model)
    model.a.requires_grad_(False)
    once(model)
    optimizer.step()
    seen = ours.seen()
    assert "gradients/b/weight" in seen and "parameters/a/weight" in seen
    assert not {"gradients/a/weight", "updates/a/weight", "update_ratio/a/weight"} & set(seen)
    assert "monitor/parameters_without_gradient" not in seen


@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_gradients_are_measured_where_they_are(watched):
    model = nn.Embedding(50, 3, sparse=True)
    ours = watched(model)
    optimizer = torch.optim.SparseAdam(model.parameters())
    model(torch.tensor([1, 4, 7, 4, 4])).square().sum().backward()  # what comes thrice is added up
    dense = model.weight.grad.to_dense()
    optimizer.step()
    seen = ours.seen()
    assert seen["gradients/weight"].buckets[:, 2].sum() == 9 and seen["updates/weight"].buckets[:, 2].sum() == 150
    assert seen["gradient_norm"].value == pytest.approx(dense.norm().item(), rel=1e-4)


def test_a_partial_view_changed_in_place_costs_its_gradient_only(watched):
    class Half(nn.Module):
        def forward(self, x):
            return x[:, :2]

    model = nn.Sequential(nn.Linear(6, 4), Half())
    ours = watched(model)
    model(rows()).mul_(2).sum().backward()
    counts = ours.counts("activation_gradients")
    assert counts["0"] == 20 and counts.keys() <= {"0", "1", "Sequential"}


def test_a_model_of_another_library_is_taken_apart(watched):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    ours = watched(model, include=["*mlp", "GPT2LMHeadModel"])
    tokens = torch.randint(0, 99, (2, 7))
    model(input_ids=tokens, labels=tokens).loss.backward()
    seen = ours.seen()
    for kind in ("activations", "activation_gradients"):
        assert seen[f"{kind}/transformer/h/0/mlp"].buckets[:, 2].sum() == 2 * 7 * 32
    assert "activations/GPT2LMHeadModel.loss" in seen and "activations/GPT2LMHeadModel.logits" in seen
