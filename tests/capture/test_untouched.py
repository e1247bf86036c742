"""A model that is watched with every option on is, to the bit, what it is without, and left as it was."""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import optimizer as optimizers
from torch.utils.checkpoint import checkpoint

from torchboard import Capture, MemorySink, Monitor
from torchboard.errors import TorchboardWarning


class Everything(nn.Module):
    """Random numbers of all kinds, state of all kinds, changes in place, checkpoints, tied weights and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(999, 8, max_norm=1.0)
        self.convolve = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(inplace=True))
        self.attend = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.frozen = nn.Linear(8, 8).requires_grad_(False).eval()
        self.head = nn.Linear(8, 999, bias=False)
        self.head.weight = self.words.weight
        self.average = nn.Parameter(torch.zeros(8), requires_grad=False)
        self.state, self.calls, self.lengths, self.generator = torch.zeros(8), 0, [], torch.Generator()

    def forward(self, tokens):
        self.calls += 1
        self.lengths.append(tokens.shape[1] + random.random() + np.random.rand())
        x = self.convolve(self.words(tokens).transpose(1, 2)).transpose(1, 2)
        x = checkpoint(self.attend, x, use_reentrant=False)
        self.frozen.weight.data.mul_(0.9)
        present = x.detach().mean((0, 1)) + torch.rand(8, generator=self.generator)
        self.state = 0.9 * self.state + present / self.calls
        with torch.no_grad():
            self.average.lerp_(present, 0.1)
        return self.head(self.frozen(x)) + (self.state + self.average).mean() * self.lengths[-1]


def trained(tmp_path, watch: bool) -> list[torch.Tensor]:
    """Everything that a training leaves: losses, weights, buffers, the optimizer's state, random numbers."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model, losses = Everything(), []
    before, modes = attributes(model), [module.training for module in model.modules()]
    monitor = None
    if watch:
        monitor = Monitor(
            model,
            tmp_path,
            write_images=True,
            write_steps_per_second=True,
            update_freq="batch",
            profile_batch=(2, 3),
            embeddings_freq=1,
            hparams={"lr": 0.1},
            capture=Capture(every=1, max_overhead=0.9),
        )
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    for _ in range(2):
        for _ in range(3):
            optimizer.zero_grad()
            tokens = torch.randint(0, 999, (4, 6))
            loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.detach())
            if monitor is not None:
                monitor.log_batch(loss=loss)
        if monitor is not None:
            with monitor.phase("validation"), torch.no_grad():
                model(tokens)
            monitor.log_epoch()
        else:
            with torch.no_grad():
                model(tokens)
    assert [module.training for module in model.modules()] == modes
    if monitor is not None:
        monitor.close()
    assert attributes(model) == before
    moments = [value for state in optimizer.state.values() for value in state.values()]
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    drawn = [torch.rand(3), torch.from_numpy(np.random.rand(3)), torch.tensor(random.random())]
    rest = [*drawn, model.generator.get_state(), model.state, torch.tensor([model.calls, *model.lengths])]
    return [*losses, *model.state_dict().values(), *moments, *gradients, *rest]


def attributes(model: nn.Module) -> list[object]:
    """What sits on modules, parameters and in torch itself: names of attributes, and how many hooks."""
    modules = [
        (sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
        for module in model.modules()
    ]
    parameters = [
        (sorted(vars(weight)), len(weight._backward_hooks or ()), len(weight._post_accumulate_grad_hooks or ()))
        for weight in model.parameters()
    ]
    shared = nn.modules.module
    return [modules, parameters, len(shared._global_forward_hooks), len(shared._global_forward_pre_hooks)]


def global_hooks() -> int:
    return len(optimizers._global_optimizer_pre_hooks) + len(optimizers._global_optimizer_post_hooks)


@pytest.mark.filterwarnings("ignore:.*profil")
def test_everything_is_the_same_to_the_bit_with_every_option_on(tmp_path):
    present = global_hooks()
    bare, watched = (trained(tmp_path, watch) for watch in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(bare, watched, strict=True))
    assert global_hooks() == present


def test_a_model_whose_weights_are_not_there_yet_is_watched():
    model, sink = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2)), MemorySink()
    with Monitor(model, sink=sink) as monitor:
        model(torch.randn(3, 5))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model(torch.randn(3, 5)).sum().backward()
        optimizer.step()
        monitor.log_epoch()
    assert {"gradients/0/weight", "activations/2", "update_ratio/2/bias"} <= set(sink.tags("train"))


def test_a_model_of_which_a_part_is_on_the_meta_device_shows_the_rest():
    model, sink = nn.ModuleDict({"real": nn.Linear(3, 2), "meta": nn.Linear(3, 2, device="meta")}), MemorySink()
    optimizer = torch.optim.SGD(model["real"].parameters(), 0.1)
    with Monitor(model, sink=sink) as monitor:
        model["meta"](torch.empty(2, 3, device="meta"))
        model["real"](torch.randn(2, 3)).sum().backward()
        optimizer.step()
        monitor.log_epoch()
    tags = set(sink.tags("train"))
    assert "gradients/real/weight" in tags and not [tag for tag in tags if "/meta" in tag]


def test_a_hook_that_throws_all_hooks_away_during_the_pass_leaves_the_training_running():
    model, sink = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), MemorySink()
    model.register_forward_pre_hook(
        lambda module, args: [part._forward_hooks.clear() for part in module.modules()] and None
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, capture=Capture(every=1), write_graph=False, feature_maps=False) as monitor:
        for _ in range(3):
            model(torch.randn(2, 3)).sum().backward()
            optimizer.step()
        with pytest.warns(TorchboardWarning, match="our hooks on Sequential, 0, 1: something took them away"):
            monitor.log_epoch()
    assert "gradients/0/weight" in sink.tags("train") and "activations/0" not in sink.tags("train")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_quantized_outputs_are_measured_as_the_numbers_they_stand_for():
    class Quantizes(nn.Module):
        def forward(self, x):
            return torch.quantize_per_tensor(x, 0.5, 0, torch.qint8)

    model, sink = Quantizes(), MemorySink()
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        model(torch.tensor([0.0, 0.6, 1.1]))
        monitor.log_epoch()
    ((_, value),) = sink.series("activations/Quantizes")
    assert value.buckets[:, 2].sum() == 3 and value.buckets[-1, 1] == 1.0


def test_a_copy_that_is_trained_beside_the_model_is_not_taken_for_it():
    model, sink = nn.Linear(3, 2), MemorySink()
    other = copy.deepcopy(model)
    with Monitor(model, sink=sink) as monitor:
        inner = copy.deepcopy(model)
        for one in (other, inner):
            optimizer = torch.optim.SGD(one.parameters(), 0.1)
            one(torch.randn(2, 3)).sum().backward()
            optimizer.step()
        assert monitor.step == 0
        monitor.log_epoch()
    assert not {"gradients/weight", "activations/Linear"} & set(sink.tags("train"))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_model_takes_no_hooks_and_shows_its_parameters():
    model, sink = torch.jit.script(nn.Linear(3, 2)), MemorySink()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, write_graph=False) as monitor:
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
        monitor.log_epoch()
    assert {"gradients/weight", "update_ratio/bias"} <= set(sink.tags("train"))
    assert torch.compiler.set_stance("default").prev.stance == "default", "no window is left open"


def test_ranks_norms_before_clipping_are_those_of_the_reduced_gradients(tmp_path):
    code = """
    import sys, torch
    from torch import distributed, nn
    from torchboard import Capture, MemorySink, Monitor
    torch.set_num_threads(1)
    rank, meeting = int(sys.argv[1]), sys.argv[2]
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for limit in (1e9, 0.01):
        torch.manual_seed(rank)  # each rank has gradients of its own until they are reduced
        model = nn.parallel.DistributedDataParallel(nn.Linear(4, 2))
        optimizer, sink = torch.optim.SGD(model.parameters(), 0.1), MemorySink()
        with Monitor(model, sink=sink, feature_maps=False, write_graph=False) as monitor:
            model(torch.randn(8, 4)).square().mean().backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
            monitor.log_epoch()
        if rank == 0:
            seen = {tag: value.value for tag in sink.tags("train") if "norm" in tag for _, value in sink.series(tag)}
            kind = "gradient_norm" if limit > 1 else "gradient_norm_before_clipping"
            assert abs(seen[kind] / norm.item() - 1) < 1e-4 and len(seen) == 1 + (limit < 1), (seen, norm)
    distributed.barrier()
    distributed.destroy_process_group()
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    arguments = [[*command, str(rank), str(tmp_path / "meeting")] for rank in range(2)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen(argument, stderr=subprocess.PIPE, env=environment) for argument in arguments]
    errors = [process.communicate(timeout=240)[1].decode() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors


class Branches(nn.Module):
    """A layer whose output goes one way or the other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.inner(x)
        return torch.cond(y.sum() > 0, lambda y: self.outer(y).sin(), lambda y: self.outer(y).cos(), (y,))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("compiled", [False, True])
def test_operators_that_compile_themselves_train_the_same(compiled):
    def weights(watch: bool) -> list[torch.Tensor]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = Branches()
        call = torch.compile(model, backend="eager") if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        monitor = Monitor(call, sink=MemorySink()) if watch else None
        for _ in range(3):
            call(torch.randn(5, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        if monitor is not None:
            monitor.log_epoch()
            monitor.close()
        return [*model.state_dict().values()]

    assert all(map(torch.equal, weights(True), weights(False)))
