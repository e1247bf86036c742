"""Trainings under torch.compile: all is captured, and not one graph more, broken or compiled again."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from compiled_jobs import BATCH, EPOCHS, SIZES, STEPS, WAYS, Job, bare, elements, layers_captured, watched
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from torchboard import Capture, MemorySink, Monitor
from torchboard.errors import InvalidValueError

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, of a compiled layer


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


@pytest.mark.parametrize(
    "way, backend",
    [
        ("torch.compile(model)", "aot_eager"),
        ("model.compile()", "inductor"),
        ("a compiled function", "eager"),
        ("compiled layers", "eager"),
    ],
)
def test_without_fullgraph_and_with_a_real_backward_graph_it_is_the_same(way, backend):
    expected, _, _ = bare(way, backend=backend, fullgraph=False)
    job, sink = watched(way, backend=backend, fullgraph=False)
    assert job.figures() == expected
    assert elements(sink, "activation_gradients") == layers_captured(2)


def test_steps_that_are_not_captured_run_compiled_without_a_hook_and_to_the_bit():
    (frames, graphs, _), _, state = bare("torch.compile(model)", backend="aot_eager")
    job, sink = watched("torch.compile(model)", Capture(compiled="skip"), backend="aot_eager", first="compiler")
    assert job.figures()[:2] == (frames, graphs)
    assert all(torch.equal(mine, other) for mine, other in zip(job.model.state_dict().values(), state.values()))
    assert elements(sink, "activations") == {} and "first/weight" in elements(sink, "gradients")
    assert not any(module._forward_hooks for module in job.model.modules())


class Clipped(nn.Module):
    """Changes its input in place; torch 2.8 compiles layers that are not torch's own."""

    def forward(self, x):
        return x.relu_() + 1


@pytest.mark.parametrize("graph, when", [(True, 0), ("step", 0), (False, 0), ("step", 1), (True, 3)])
def test_layers_compiled_behind_the_monitor_meet_no_hook_where_they_are_skipped(graph, when):
    outcomes = []
    for is_watched in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        counter, sink, breaks = CompileCounterWithBackend("aot_eager"), MemorySink(), counters["graph_break"]
        breaks.clear()
        model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), Clipped(), nn.Flatten(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        capture = Capture(every=2, compiled="skip")
        monitor = Monitor(model, sink=sink, capture=capture, write_graph=graph) if is_watched else None
        for number in range(5):
            for layer in [*model][1:4] if number == when else ():
                layer.compile(backend=counter)
            optimizer.zero_grad()
            model(torch.randn(5, 1, 2, 2)).sum().backward()
            optimizer.step()
        if monitor:
            monitor.log_epoch()
            monitor.close()
        outcomes.append(
            (counter.frame_count, dict(breaks), [weight.tolist() for weight in model.state_dict().values()])
        )
    assert outcomes[0] == outcomes[1] and outcomes[0][0] and not any(m._forward_pre_hooks for m in model.modules())
    seen = elements(sink, "activations")
    assert (
        seen["4"] == [3 * 10]
        and seen.get("1", [0]) == [(when + 1) // 2 * 80]
        and "1/weight" in elements(sink, "updates")
    )
    assert ("__run_graph__" in sink.tags("train")) == bool(graph and when)
    assert not [tag for tag in sink.tags("train") if tag.startswith("feature_maps")]


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


@pytest.mark.parametrize("capture", [Capture(), Capture(activations=False, gradients=False)], ids=["all", "parameters"])
@pytest.mark.parametrize("frequency", [0, 1, 2])
def test_a_phase_compiles_nothing_where_the_monitor_knows_the_bare_model_alone(frequency, capture):
    counts = []
    for is_watched in (False, True):
        torch._dynamo.reset()
        counter, sink = CompileCounterWithBackend("eager"), MemorySink()
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        call = torch.compile(model, backend=counter, fullgraph=True)
        monitor = Monitor(model, sink=sink, histogram_freq=frequency, capture=capture) if is_watched else None
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            for _ in range(2):
                call(torch.randn(5, 4)).sum().backward()
                optimizer.step()
            with monitor.phase("validation") if monitor else nullcontext(), torch.no_grad():
                for _ in range(2):
                    call(torch.randn(5, 4))
            if monitor:
                monitor.log_epoch()
        counts.append(counter.frame_count)
        if monitor:
            monitor.close()
            assert "__run_graph__" in sink.tags("validation")
    assert counts[0] == counts[1] > 0


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


@pytest.mark.parametrize("compiled", ["yes", None])
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
