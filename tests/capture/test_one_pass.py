"""The first pass of each model in a phase is captured, however it is called, and no other one is."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.parallel import DataParallel

from torchboard import Capture, MemorySink, Monitor
from torchboard.capture.compiled.checks import NEEDED_TORCH
from torchboard.capture.one_pass import NextPasses
from torchboard.errors import TorchboardWarning

ROWS = 5
WAYS = ["eager", "skip"] + ["graph"] * (torch.__version__ >= NEEDED_TORCH)


class Maker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


class Judge(Maker):
    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


def two() -> dict[str, nn.Module]:
    return {"maker": Maker(), "judge": Judge()}


def rows() -> torch.Tensor:
    return torch.randn(ROWS, 4)


def hooked(model: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def captured(sink: MemorySink, phase: str = "validation") -> dict[str, list[int]]:
    """Layer -> elements of its outputs, of each epoch."""
    tags = [tag for tag in sink.tags(phase) if tag.startswith("activations/")]
    return {
        tag.removeprefix("activations/"): [int(value.buckets[:, 2].sum()) for _, value in sink.series(tag, phase)]
        for tag in tags
    }


def counts(*keys: str) -> dict[str, list[int]]:
    """What one pass of each of these models shows."""
    sizes = {"body": 6, "head": 4}
    return {
        **{f"{key}/{layer}": [ROWS * size] for key in keys for layer, size in sizes.items()},
        **{key: [ROWS * 4] for key in keys},
    }


@pytest.mark.parametrize("way", WAYS)
def test_of_several_models_each_ones_first_pass_is_captured_and_its_hooks_come_off_with_it(way):
    models, sink = two(), MemorySink()
    with Monitor(models, sink=sink, capture=Capture(compiled=way), write_graph=False) as monitor:
        with monitor.phase("validation"), torch.no_grad():
            for _ in range(2):
                models["maker"](rows())
                assert hooked(models["maker"].body) == (way == "graph") and hooked(models["judge"].body)
            for _ in range(2):
                models["judge"](models["maker"](rows()))
                assert hooked(models["maker"]) == hooked(models["judge"]) == (way == "graph")
        monitor.log_epoch()
    assert captured(sink) == counts("maker", "judge")
    assert not hooked(models["maker"]) and not hooked(models["judge"])


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_does_not_run_holds_up_nothing_and_is_captured_in_a_later_phase(way):
    models, sink = two(), MemorySink()
    with Monitor(models, sink=sink, capture=Capture(compiled=way)) as monitor, torch.no_grad():
        for ran in ("maker", "judge"):
            with monitor.phase("validation"):
                for _ in range(3):
                    models[ran](rows())
            monitor.log_epoch()
    assert captured(sink) == counts("maker", "judge")
    assert "__run_graph__" in sink.tags("validation")


def test_training_goes_on_as_it_was_behind_a_phase():
    models, sink = two(), MemorySink()
    optimizer = torch.optim.SGD([weight for model in models.values() for weight in model.parameters()], 0.1)
    with Monitor(models, sink=sink, capture=Capture(every=1)) as monitor:
        for _ in range(2):
            models["judge"](rows()).sum().backward()
            optimizer.step()
            with monitor.phase("validation"), torch.no_grad():
                models["maker"](rows())
        models["maker"](rows()).sum().backward()
        monitor.log_epoch()
    assert captured(sink, "train")["maker"] == [4 * ROWS] and captured(sink, "train")["judge"] == [2 * 4 * ROWS]
    assert captured(sink)["maker"] == [2 * 4 * ROWS] and "judge" not in captured(sink)


def test_a_model_inside_of_another_ends_with_its_own_pass():
    inner = Maker()
    models, sink = {"inner": inner, "whole": nn.Sequential(inner, nn.Tanh())}, MemorySink()
    with Monitor(models, sink=sink, write_graph=False) as monitor:
        with monitor.phase("validation"), torch.no_grad():
            for _ in range(2):
                models["whole"](rows())
                assert not hooked(models["whole"])
        monitor.log_epoch()
    assert captured(sink) == {**counts("inner"), "whole/1": [ROWS * 4]}


@pytest.mark.parametrize("wrap", [DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_pass_that_goes_past_the_wrapper_is_one_too(wrap):
    model, sink = Maker(), MemorySink()
    with Monitor(wrap(model), sink=sink, write_graph=False) as monitor:
        with monitor.phase("validation"), torch.no_grad():
            for _ in range(3):
                model(rows())
                assert not hooked(model)
        monitor.log_epoch()
    assert captured(sink)["head"] == [ROWS * 4]


class OnTwo(DataParallel):
    """Runs two replicas on the host, one after the other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.device_ids = [0, 1]

    def forward(self, x):
        return torch.cat([replica(self.module)(x) for _ in self.device_ids])


def replica(module: nn.Module) -> nn.Module:
    """As ``DataParallel`` makes one: a copy with the very hooks of the module."""
    copied = module._replicate_for_data_parallel()
    copied._modules = {name: replica(child) for name, child in module._modules.items()}
    for name, parameter in module._parameters.items():
        setattr(copied, name, parameter)
    return copied


def test_a_pass_of_several_replicas_ends_when_all_have_run():
    wrapper, sink = OnTwo(Maker()), MemorySink()
    with Monitor({"maker": wrapper}, sink=sink, write_graph=False) as monitor:
        with monitor.phase("validation"), torch.no_grad():
            for _ in range(2):
                wrapper(rows())
        monitor.log_epoch()
    assert captured(sink) == {key: [2 * size for size in sizes] for key, sizes in counts("maker").items()}
    told: list = []
    passes = NextPasses({"maker": wrapper}, ["maker"], told.append, lambda: told.append("over"), told.append)
    wrapper.module(rows())
    passes.close()
    assert told == ["maker", "over"] and not hooked(wrapper)


def trained(models, steps: int = 1) -> None:
    """Some steps of all models together."""
    optimizer = torch.optim.SGD([weight for model in models.values() for weight in model.parameters()], 0.1)
    for _ in range(steps):
        models["judge"](models["maker"](rows())).sum().backward()
        optimizer.step()


def test_compiled_models_run_compiled_again_when_one_runs_some_times_and_the_other_not_at_all():
    def backend(graph, inputs):
        graphs.append(graph)
        return lambda *args: ran.append(1) or graph(*args)

    torch._dynamo.reset()
    sink, graphs, ran, counted = MemorySink(), [], [], []
    models = {key: torch.compile(model, backend=backend) for key, model in two().items()}
    with Monitor(models, sink=sink) as monitor:
        trained(models)
        for _ in range(2):
            with monitor.phase("validation"), torch.no_grad():
                for _ in range(10):
                    models["maker"](rows())
                    counted.append(len(ran))
                assert not hooked(models["judge"])
            monitor.log_epoch()
            trained(models)
    assert counted == [*[0] * 8, 1, 2, *[2] * 8, 3, 4]
    assert len(graphs) == 1, "nothing is compiled again for hooks"
    assert captured(sink) == {key: 2 * sizes for key, sizes in counts("maker").items()}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, of a compiled model
@pytest.mark.skipif(torch.__version__ < NEEDED_TORCH, reason="refused with this torch")
def test_captured_steps_that_stay_compiled_have_the_same_phases():
    torch._dynamo.reset()
    models, sink, backend = two(), MemorySink(), CompileCounterWithBackend("eager")
    capture = Capture(every=2, compiled="graph")
    with Monitor(models, sink=sink, capture=capture, write_graph=False) as monitor:
        for model in models.values():
            model.compile(backend=backend, fullgraph=True)
        trained(models, 4)
        with monitor.phase("validation"):
            frames = []
            for name in ("maker", "maker", "judge", "maker"):
                models[name](rows())
                frames.append(backend.frame_count)
        monitor.log_epoch()
    assert frames == [4, 4, 4, 4], "each has a graph, and one with the measuring"
    assert captured(sink) == counts("maker", "judge")
    assert captured(sink, "train") == {key: [2 * size for size in sizes] for key, sizes in captured(sink).items()}


def test_layers_that_lose_their_hook_in_a_phase_are_told_of():
    models, sink = two(), MemorySink()
    with Monitor(models, sink=sink, write_graph=False) as monitor:
        with monitor.phase("validation"), torch.no_grad():
            models["judge"].body._forward_hooks.clear()
            for model in models.values():
                model(rows())
        with pytest.warns(TorchboardWarning, match="our hooks on judge.body: something took them away"):
            monitor.log_epoch()
    assert "judge/body" not in captured(sink) and "judge/head" in captured(sink)


def test_copies_made_before_a_pass_has_ended_are_silent_and_end_nothing():
    models, sink = two(), MemorySink()
    with Monitor(models, sink=sink, write_graph=False) as monitor:
        with monitor.phase("validation"), torch.no_grad():
            for other in (copy.deepcopy(models["maker"]), pickle.loads(pickle.dumps(models["maker"]))):
                other(rows())
            models["maker"](rows())
        monitor.log_epoch()
    assert captured(sink) == counts("maker")


def test_a_choice_of_layers_that_raises_leaves_the_phase_alone():
    def choose(name, module):
        if phases:
            raise KeyError(name)
        return True

    phases, models, sink = [], two(), MemorySink()
    with Monitor(models, sink=sink, capture=Capture(include=choose), write_graph=False) as monitor:
        phases.append(1)
        with monitor.phase("validation"), torch.no_grad():
            models["maker"](rows())
        assert not hooked(models["maker"])
        with pytest.warns(TorchboardWarning, match="left out \\(KeyError: 'maker'\\)"):
            monitor.log_epoch()
