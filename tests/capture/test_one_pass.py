"""The first pass of each model in a phase is captured, however it is called, and no other one is."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext

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


class Methods(nn.Module):
    """A model of which only children are called, by methods of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.coders = nn.ModuleDict({"in": nn.Linear(4, 3), "out": nn.Linear(3, 4)})

    def forward(self, x):
        return self.reconstruct(x)

    def reconstruct(self, x):
        return self.coders["out"](self.coders["in"](x))


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_is_not_called_itself_has_passed_before_a_child_is_called_again(way):
    model, sink = Methods(), MemorySink()
    with Monitor(model, sink=sink, capture=Capture(compiled=way), write_graph=False) as monitor:
        with monitor.phase("validation"), torch.no_grad():
            for _ in range(3):
                model.reconstruct(rows())
        with monitor.phase("test"), torch.no_grad():
            model.reconstruct(rows())
            for _ in range(2):
                model(rows())
        monitor.log_epoch()
    assert captured(sink) == {"coders/in": [3 * ROWS], "coders/out": [4 * ROWS]}
    assert captured(sink, "test") == {"Methods": [4 * ROWS], "coders/in": [6 * ROWS], "coders/out": [8 * ROWS]}
    assert not hooked(model)


def test_children_of_a_module_that_cannot_be_called_are_captured_once():
    models, sink = nn.ModuleDict(two()), MemorySink()
    with Monitor(models, sink=sink, write_graph=False) as monitor:
        with monitor.phase("validation"), torch.no_grad():
            for _ in range(3):
                models["judge"](models["maker"](rows()))
        monitor.log_epoch()
    assert captured(sink) == counts("maker", "judge")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripted_models_take_no_hooks_and_are_not_waited_for():
    models, sink = {"scripted": torch.jit.script(Maker()), "judge": Judge()}, MemorySink()
    models["judge"].unused = torch.jit.script(nn.Linear(2, 2))
    with Monitor(models, sink=sink) as monitor:
        with monitor.phase("validation"), torch.no_grad():
            for _ in range(2):
                for model in models.values():
                    model(rows())
                assert not hooked(models["judge"])
        with pytest.warns(TorchboardWarning, match="the graph .* TorchScript takes no hooks"):
            monitor.log_epoch()
    assert captured(sink) == counts("judge")


def trained_by_methods(way: str, steps: int, calls: int) -> tuple[MemorySink, list[int]]:
    """So many steps, in the last ``calls`` of which the model itself is called; how many hooks a layer had behind each."""
    model, sink, hooks = Methods(), MemorySink(), []
    layer, optimizer = model.coders["in"], torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, capture=Capture(compiled=way, every=2)) as monitor:
        for number in range(steps):
            (model.reconstruct if number < steps - calls else model)(rows()).sum().backward()
            optimizer.step()
            hooks.append(len(layer._forward_hooks) + len(layer._forward_pre_hooks))
        monitor.log_epoch()
    return sink, hooks


@pytest.mark.parametrize("way", WAYS)
def test_the_graph_of_a_model_that_is_not_called_itself_puts_hooks_on_captured_steps_alone(way):
    _, hooks = trained_by_methods(way, 5, 0)
    assert hooks == {"eager": [0, 3, 0, 3, 0], "skip": [0, 1, 0, 1, 0], "graph": [1, 1, 1, 1, 1]}[way]


def test_the_graph_of_a_model_that_is_not_called_itself_at_first_is_that_of_a_captured_step_that_calls_it():
    sink, hooks = trained_by_methods("eager", 9, 3)
    assert hooks == [0, 3, 0, 3, 0, 3, 0, 1, 0]
    assert "__run_graph__" in sink.tags("train")


def test_the_graph_of_a_model_that_is_never_called_itself_is_given_up_and_told_of():
    with pytest.warns(TorchboardWarning, match="a Methods: its layers are called, but not it itself"):
        sink, hooks = trained_by_methods("eager", 20, 0)
    assert hooks == [0, 3] * 8 + [0, 1] * 2
    assert "__run_graph__" not in sink.tags("train")


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
    passes = NextPasses({"maker": wrapper}, ["maker"], told.append, told.append)
    wrapper.module(rows())
    passes.close()
    assert told == ["maker", None] and not hooked(wrapper)


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


@pytest.mark.parametrize("part", ["maker", "judge", "judge.body"])
def test_compiled_modules_that_are_skipped_get_no_hook(part):
    torch._dynamo.reset()
    models, sink = two(), MemorySink()
    compiled = nn.ModuleDict(models).get_submodule(part)
    compiled.compile(backend="eager")
    with Monitor(models, sink=sink, capture=Capture(compiled="skip")) as monitor:
        with monitor.phase("validation"), torch.no_grad():
            assert not hooked(compiled) and any(map(hooked, models.values()))
            for key in ("maker", "maker", "judge"):
                models[key](rows())
            assert not any(map(hooked, models.values()))
        monitor.log_epoch()
    expected = {
        name: count
        for name, count in counts("maker", "judge").items()
        if not f"{name}/".startswith(part.replace(".", "/"))
    }
    assert captured(sink) == expected


@pytest.mark.parametrize("way", [way for way in WAYS if way != "skip"])
def test_a_compiled_model_that_is_trained_later_meets_the_hooks_of_captured_steps_alone(way):
    torch._dynamo.reset()
    models, sink, backend = two(), MemorySink(), CompileCounterWithBackend("eager")
    optimizers = {key: torch.optim.SGD(model.parameters(), 0.1) for key, model in models.items()}
    with Monitor(models, sink=sink, capture=Capture(every=6, compiled=way)) as monitor:
        models["judge"].compile(backend=backend, fullgraph=True)
        for number in range(9):
            for key in ("maker", "judge")[: 1 + (number > 1)]:
                models[key](rows()).sum().backward()
                optimizers[key].step()
            monitor.log_batch()
            with monitor.phase("validation") if number > 4 else nullcontext(), torch.no_grad():
                models["maker"](rows())
            assert hooked(models["judge"]) == (way == "graph" or monitor.step % 6 == 0)
        monitor.log_epoch()
    assert backend.frame_count == 1 + (way == "graph"), (
        "the bare graph, and one with the measuring if it stays compiled"
    )
    names = {node.name.partition("/")[0] for _, graph in sink.series("__run_graph__", "train") for node in graph.nodes}
    assert ("judge" in names) == (way == "eager")


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


def test_a_monitor_that_is_closed_in_a_phase_leaves_no_hook():
    models = two()
    monitor = Monitor(models, sink=MemorySink())
    with monitor.phase("validation"), torch.no_grad():
        models["maker"](rows())
        monitor.close()
    assert not any(map(hooked, models.values()))


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
