"""Trainings under torch.compile: all is captured, and not one graph more, broken or compiled again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.nn import functional

from torchboard import Capture, MemorySink, Monitor
from torchboard.errors import InvalidValueError

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, of a compiled layer

BATCH, STEPS, EPOCHS = 5, 6, 2
SIZES = {"first": 8, "norm": 8, "relu": 16, "second": 8, "head": 3, "Net": 3}
"""Elements of each layer's output for one example, all its calls together."""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        return self.head(self.relu(self.second(x)))


class Job:
    """One training of ``Net``, compiled in one of the ways that people compile."""

    def __init__(self, way: str, backend: str = "eager", fullgraph: bool = True) -> None:
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        self.model = Net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.step_optimizer = self.optimizer.step
        self.backend = CompileCounterWithBackend(backend)
        self.way, self.options = way, {"backend": self.backend, "fullgraph": fullgraph}
        self.call = self.watched = self.model

    def compile(self) -> None:
        """Compiles it."""
        if self.way == "torch.compile(model)":
            self.call = self.watched = torch.compile(self.model, **self.options)
        elif self.way == "model.compile()":
            self.model.compile(**self.options)
        elif self.way == "a compiled function":
            self.call = torch.compile(lambda x: self.model(x), **self.options)
        elif self.way == "compiled layers":
            for layer in self.model.children():
                layer.compile(**self.options)
        elif self.way == "a compiled optimizer too":
            self.call = self.watched = torch.compile(self.model, **self.options)
            self.step_optimizer = torch.compile(self.optimizer.step, backend="eager")

    def step(self) -> torch.Tensor:
        """One training step; its loss."""
        x, y = torch.randn(BATCH, 4), torch.randint(0, 3, (BATCH,))
        loss = functional.cross_entropy(self.call(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.step_optimizer()
        return loss.detach()

    def figures(self) -> tuple:
        """What the compiler did: the model's graphs, their nodes, and breaks."""
        graphs = [[str(node) for node in graph.graph.nodes] for graph in self.backend.graphs]
        return self.backend.frame_count, graphs, dict(counters["graph_break"])

    def all_graphs(self) -> int:
        """How many graphs there are, the optimizer's too."""
        return counters["stats"]["unique_graphs"]


WAYS = ["torch.compile(model)", "model.compile()", "a compiled function", "compiled layers", "a compiled optimizer too"]


def bare(way, **options):
    """What the compiler does without a monitor, and the state it trains to."""
    job = Job(way, **options)
    job.compile()
    for _ in range(EPOCHS * STEPS):
        job.step()
    return job.figures(), job.all_graphs(), job.model.state_dict()


def watched(way, capture=Capture(every=3), first="monitor", **options):
    """A monitored training: the job, and the sink it wrote into."""
    job, sink = Job(way, **options), MemorySink()
    if first == "compiler":
        job.compile()
    with Monitor(job.watched, sink=sink, capture=capture) as monitor:
        if first == "monitor":
            job.compile()
        for _ in range(EPOCHS):
            for _ in range(STEPS):
                monitor.log_batch(loss=job.step())
            monitor.log_epoch()
        assert monitor.step == EPOCHS * STEPS
    return job, sink


def elements(sink, kind, run="train"):
    """Layer -> elements captured of each epoch."""
    tags = [tag for tag in sink.tags(run) if tag.startswith(f"{kind}/")]
    return {
        tag.removeprefix(f"{kind}/"): [int(value.buckets[:, 2].sum()) for _, value in sink.series(tag, run)]
        for tag in tags
    }


def layers_captured(steps):
    return {name: [steps * BATCH * size] * EPOCHS for name, size in SIZES.items()}


@pytest.mark.parametrize("first", ["monitor", "compiler"])
@pytest.mark.parametrize("way", WAYS)
def test_captured_steps_show_every_layer_and_the_compiler_does_what_it_does_alone(way, first):
    expected, graphs, state = bare(way)
    job, sink = watched(way, first=first)
    assert job.figures() == expected and job.all_graphs() <= graphs
    assert elements(sink, "activations") == elements(sink, "activation_gradients") == layers_captured(2)
    gradients = elements(sink, "gradients")
    assert gradients == elements(sink, "updates") and gradients["first/weight"] == [2 * 32] * EPOCHS
    assert all(torch.allclose(mine, other) for mine, other in zip(job.model.state_dict().values(), state.values()))
    assert torch._dynamo.eval_frame._stance.stance == "default"


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_without_fullgraph_and_with_a_real_backward_graph_it_is_the_same(backend):
    expected, _, _ = bare("torch.compile(model)", backend=backend, fullgraph=False)
    job, sink = watched("torch.compile(model)", backend=backend, fullgraph=False)
    assert job.figures() == expected
    assert elements(sink, "activation_gradients") == layers_captured(2)


def test_steps_that_are_not_captured_run_compiled_without_a_hook_and_to_the_bit():
    (frames, graphs, _), _, state = bare("torch.compile(model)", backend="aot_eager")
    job, sink = watched("torch.compile(model)", Capture(compiled="skip"), backend="aot_eager", first="compiler")
    assert job.figures()[:2] == (frames, graphs)
    assert all(torch.equal(mine, other) for mine, other in zip(job.model.state_dict().values(), state.values()))
    assert elements(sink, "activations") == {} and "first/weight" in elements(sink, "gradients")
    assert not any(module._forward_hooks for module in job.model.modules())


def test_what_is_captured_of_a_compiled_step_is_what_an_eager_model_shows():
    sinks = [watched(way, Capture(every=1))[1] for way in ("not compiled", "torch.compile(model)")]
    for kind in ("activations", "activation_gradients", "gradients", "updates"):
        tags = [tag for tag in sinks[0].tags("train") if tag.startswith(f"{kind}/")]
        assert tags
        for tag in tags:
            for (_, eager), (_, compiled) in zip(*(sink.series(tag) for sink in sinks)):
                assert (eager.buckets == compiled.buckets).all()


@pytest.mark.parametrize("way", WAYS[:4])
def test_the_first_pass_of_a_validation_is_captured_and_the_others_run_compiled(way):
    job, sink = Job(way), MemorySink()
    job.compile()
    with Monitor(job.watched, sink=sink) as monitor:
        monitor.log_batch(loss=job.step())
        job.model.eval()
        with monitor.phase("validation"), torch.no_grad():
            frames = []
            for _ in range(3):
                job.call(torch.randn(BATCH, 4))
                frames.append(job.backend.frame_count)
        monitor.log_epoch()
    assert frames[0] == 0 and frames[1] == frames[2]  # the only training step and the first pass were captured ones
    assert frames[1] or way == "compiled layers"  # older compilers leave torch's own layers as they are
    assert elements(sink, "activations", "validation") == {name: [BATCH * size] for name, size in SIZES.items()}


def test_pictures_of_a_model_with_compiled_layers_compile_nothing():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    for layer in model:
        layer.compile(backend=counter, fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sink = MemorySink()
    with Monitor(model, sink=sink) as monitor:
        model(torch.randn(4, 1, 8, 8)).sum().backward()
        optimizer.step()
        monitor.log_epoch()
    assert counter.frame_count == 0 and "feature_maps/0" in sink.tags("train")


def test_a_captured_step_records_the_graph_of_a_compiled_model():
    _, sink = watched("torch.compile(model)", first="compiler")
    ((_, graph),) = sink.series("__run_graph__")
    assert {"linear", "batch_norm"} <= {node.op for node in graph.nodes}


def test_two_monitors_share_the_window_and_the_last_one_gives_the_compiler_back():
    job = Job("torch.compile(model)")
    job.compile()
    sinks = [MemorySink(), MemorySink()]
    monitors = [Monitor(job.watched, sink=sink, capture=Capture(every=every)) for sink, every in zip(sinks, (2, 3))]
    for _ in range(STEPS):
        job.step()
    assert job.backend.frame_count == 1
    for monitor in monitors:
        monitor.log_epoch()
        monitor.close()
    assert [elements(sink, "activations")["head"] for sink in sinks] == [[3 * BATCH * 3], [2 * BATCH * 3]]
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_a_stance_of_the_users_comes_back_after_each_window():
    job = Job("torch.compile(model)")
    job.compile()
    job.step()
    with torch.compiler.set_stance("fail_on_recompile"):
        _, sink = monitored(job)
        assert torch._dynamo.eval_frame._stance.stance == "fail_on_recompile"
    assert elements(sink, "activations")["head"] == [BATCH * 3] and job.backend.frame_count == 1


def test_a_stance_set_within_a_window_stays():
    job = Job("torch.compile(model)")
    monitor = Monitor(job.watched, sink=MemorySink())
    torch.compiler.set_stance("eager_on_recompile")
    monitor.close()
    assert torch._dynamo.eval_frame._stance.stance == "eager_on_recompile"
    torch.compiler.set_stance("default")


def test_a_forgotten_monitor_gives_the_compiler_back():
    job = Job("torch.compile(model)")
    monitor = Monitor(job.watched, sink=MemorySink())
    assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    del monitor
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_a_copy_of_a_compiled_model_made_in_a_window_compiles_and_is_silent():
    job, sink = Job("torch.compile(model)"), MemorySink()
    job.compile()
    with Monitor(job.watched, sink=sink) as monitor:
        copy.deepcopy(job.model)(torch.randn(BATCH, 4))
        monitor.log_epoch()
    assert elements(sink, "activations") == {}


@pytest.mark.parametrize("compiled", ["graph", "yes", None])
def test_a_way_that_there_is_not_is_refused_in_three_parts(compiled):
    with pytest.raises(InvalidValueError, match="give 'eager'"):
        Capture(compiled=compiled)


def monitored(job):
    """Three steps with a monitor on, of which the first is captured."""
    sink = MemorySink()
    with Monitor(job.watched, sink=sink) as monitor:
        for _ in range(3):
            monitor.log_batch(loss=job.step())
        monitor.log_epoch()
    return monitor, sink
