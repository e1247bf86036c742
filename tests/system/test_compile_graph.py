"""Captured steps that stay compiled: the same is shown, by one more graph for each, and the bare one is left as it is."""

from __future__ import annotations

import copy
import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from compiled_jobs import BATCH, EPOCHS, SIZES, STEPS, WAYS, Job, Net, bare, elements, layers_captured, watched
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from torchboard import Capture, MemorySink, Monitor
from torchboard.capture.compiled.checks import NEEDED_TORCH
from torchboard.errors import TorchboardWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),  # torch's own, of a compiled layer
    pytest.mark.skipif(torch.__version__ < NEEDED_TORCH, reason="refused with this torch"),
]

GRAPH = Capture(every=2, compiled="graph")


@dataclass
class Parts:
    summed: torch.Tensor
    more: tuple


class Split(nn.Module):
    def forward(self, x):
        return Parts(x * 2, ({"shifted": x + 1, "nothing": None, "largest": x.argmax(1)}, 3))


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.relu, self.last = nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8)

    def forward(self, x):
        return self.last(self.relu(self.first(x)))


class Mixed(nn.Module):
    """Outputs of several forms, and a block that may be checkpointed, compiled with the rest or by itself."""

    def __init__(self, run_inner=None):
        super().__init__()
        self.stem, self.inner, self.split, self.head = nn.Linear(4, 8), Inner(), Split(), nn.Linear(8, 3)
        self.run_inner = run_inner or (lambda inner, x: inner(x))

    def forward(self, x):
        parts = self.split(self.run_inner(self.inner, self.stem(x)))
        return self.head(parts.summed + parts.more[0]["shifted"])


def checkpointed(inner, x):
    return checkpoint(inner, x, use_reentrant=False)


def checkpointed_by_a_second_pass(inner, x):
    return checkpoint(inner, x, use_reentrant=True)


def mixed_training(compiled, run_inner=None, inner_only=False, sizes=(5,), micro_batches=1, frozen=False, exclude=None):
    """What a training of ``Mixed`` shows with every step captured, and the graphs that it took."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model, sink, backend = Mixed(run_inner), MemorySink(), CompileCounterWithBackend("aot_eager")
    model.stem.requires_grad_(not frozen)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], 0.1)
    capture = Capture(every=1, compiled=compiled, exclude=exclude)
    with Monitor(model, sink=sink, capture=capture, feature_maps=False) as monitor:
        (model.inner if inner_only else model).compile(backend=backend, fullgraph=True)
        for step in range(4):
            optimizer.zero_grad()
            for _ in range(micro_batches):
                model(torch.randn(sizes[step % len(sizes)], 4)).square().sum().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
        monitor.log_epoch()
    return sink, backend.frame_count


def histograms(sink, *kinds):
    tags = [tag for tag in sink.tags("train") if tag.partition("/")[0] in kinds]
    return {tag: [value.buckets.tolist() for _, value in sink.series(tag, "train")] for tag in tags}


@pytest.mark.parametrize("way", WAYS)
def test_captured_steps_are_one_more_graph_for_each_and_the_others_run_the_bare_ones(way):
    backend = "aot_eager" if way == WAYS[0] else "eager"
    (frames, graphs, breaks), total, state = bare(way, backend=backend)
    job, sink = watched(way, GRAPH, backend=backend)
    seen, traced, broken = job.figures()
    assert seen == 2 * frames and job.all_graphs() <= total + frames and broken == breaks
    assert [len(nodes) for nodes in traced if "observe" not in "".join(nodes)] == [len(nodes) for nodes in graphs]
    assert elements(sink, "activations") == elements(sink, "activation_gradients") == layers_captured(3)
    stepped = [32] if way == "a compiled optimizer too" else [3 * 32] * EPOCHS  # its hooks run in eager steps alone
    assert elements(sink, "gradients")["first/weight"] == elements(sink, "updates")["first/weight"] == stepped
    assert all(torch.allclose(mine, other) for mine, other in zip(job.model.state_dict().values(), state.values()))
    assert not any(module._forward_hooks for module in job.model.modules())


SITUATIONS = {
    "outputs of many forms": {},
    "three micro-batches": {"micro_batches": 3},
    "batches of changing size": {"sizes": (5, 7, 6)},
    "frozen first layers": {"frozen": True},
    "no hook outside of the graph": {"exclude": "Mixed"},
    "a checkpoint in the graph": {"run_inner": checkpointed},
    "a checkpoint around a compiled block": {"run_inner": checkpointed, "inner_only": True},
    "a reentrant one around it": {"run_inner": checkpointed_by_a_second_pass, "inner_only": True},
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_histograms_are_those_of_eager_captured_steps_to_the_bin(situation):
    eager, _ = mixed_training("eager", **SITUATIONS[situation])
    sink, graphs = mixed_training("graph", **SITUATIONS[situation])
    kinds = "activations", "activation_gradients", "gradients", "updates"
    assert histograms(sink, *kinds) == histograms(eager, *kinds)
    assert graphs and not counters["graph_break"]
    norms = [sink.series("gradient_norm_before_clipping", "train") for sink in (eager, sink)]
    assert norms[0] and norms[0][0][1].value == pytest.approx(norms[1][0][1].value)


def test_inductor_compiles_the_measuring_too():
    sinks = [
        watched("model.compile()", Capture(every=1, compiled=way), backend="inductor")[1] for way in ("graph", "eager")
    ]
    assert elements(sinks[0], "activations") == elements(sinks[0], "activation_gradients") == layers_captured(STEPS)
    for kind in ("activations", "activation_gradients"):
        for tag in [tag for tag in sinks[0].tags("train") if tag.startswith(f"{kind}/")]:
            for (_, mine), (_, eager) in zip(*(sink.series(tag, "train") for sink in sinks)):
                assert mine.buckets[[0, -1], [0, 1]] == pytest.approx(
                    eager.buckets[[0, -1], [0, 1]], rel=1e-4, abs=1e-6
                )


def test_a_second_monitor_of_such_a_model_uses_the_graphs_that_there_are():
    job, sinks = Job("torch.compile(model)", backend="aot_eager"), []
    for _ in range(2):
        job.model, sink = Net(), MemorySink()
        job.optimizer = torch.optim.SGD(job.model.parameters(), 0.1)
        job.step_optimizer = job.optimizer.step
        job.compile()
        with Monitor(job.watched, sink=sink, capture=GRAPH) as monitor:
            for _ in range(STEPS):
                job.step()
            monitor.log_epoch()
        sinks.append(elements(sink, "activation_gradients"))
    assert job.backend.frame_count == 2
    assert sinks[0] == sinks[1] == {name: [3 * BATCH * size] for name, size in SIZES.items()}


def test_layers_that_are_compiled_one_by_one_share_the_armed_graph_too():
    torch._dynamo.reset()
    backend, sink = CompileCounterWithBackend("aot_eager"), MemorySink()
    model = nn.Sequential(*(Inner() for _ in range(12)))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Monitor(model, sink=sink, capture=GRAPH) as monitor:
        for block in model:
            block.compile(backend=backend, fullgraph=True)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(BATCH, 8)).square().sum().backward()
            optimizer.step()
        monitor.log_epoch()
    assert (
        backend.frame_count == 4
    )  # the first block's input needs no gradient: two graphs, and each with the measuring
    counted = elements(sink, "activation_gradients")
    assert len(counted) == 4 * 12 + 1 and set(map(tuple, counted.values())) == {(2 * BATCH * 8,)}


def test_the_first_pass_of_another_phase_runs_eagerly():
    job, sink = Job("torch.compile(model)"), MemorySink()
    job.compile()
    with Monitor(job.watched, sink=sink, capture=GRAPH) as monitor:
        for _ in range(3):
            monitor.log_batch(loss=job.step())
        trained = job.backend.frame_count
        job.model.eval()
        with monitor.phase("validation"), torch.no_grad():
            frames = [job.call(torch.randn(BATCH, 4)) is not None and job.backend.frame_count for _ in range(3)]
        monitor.log_epoch()
    assert trained == frames[0] == 2 and frames[1] == frames[2] == 3
    assert elements(sink, "activations", "validation") == {name: [BATCH * size] for name, size in SIZES.items()}
    assert elements(sink, "activations")["head"] == [2 * BATCH * 3]


def test_a_model_that_is_not_compiled_shows_the_same():
    sinks = [watched("not compiled", Capture(every=2, compiled=way))[1] for way in ("graph", "eager")]
    kinds = "activations", "activation_gradients", "gradients"
    assert histograms(sinks[0], *kinds) == histograms(sinks[1], *kinds) and histograms(sinks[0], *kinds)


@pytest.mark.parametrize("way", ["torch.compile(model)", "not compiled"])
def test_dead_units_are_left_out_and_that_is_said_once(way):
    _, sink = watched(way, GRAPH)
    tags = sink.tags("train")
    assert not any(tag.startswith("units_dead") for tag in tags) and elements(sink, "activations")
    ((epoch, text),) = sink.series("monitor/left_out/dead_units", "train")
    assert epoch == 0 and "`compiled='eager'` does" in text.markdown
    _, sink = watched(way, Capture(every=2, compiled="graph", dead_units=False))
    assert "monitor/left_out/dead_units" not in sink.tags("train")


def test_copies_and_pickles_of_the_model_are_silent_between_captured_steps_too():
    job, sink = Job("torch.compile(model)"), MemorySink()
    job.compile()
    with Monitor(job.watched, sink=sink, capture=GRAPH) as monitor:
        job.step()
        copies = [copy.deepcopy(job.model), pickle.loads(pickle.dumps(job.model))]
        torch.save(job.model, io.BytesIO())
        job.step()
        for other in copies:
            other(torch.randn(BATCH, 4))
        monitor.log_epoch()
    assert elements(sink, "activations")["head"] == [BATCH * 3]


def test_an_exported_program_has_none_of_it():
    with Monitor(Net(), sink=MemorySink(), capture=GRAPH) as monitor:
        model = monitor._watch._model
        program = torch.export.export(model.eval(), (torch.randn(BATCH, 4),))
    assert "observe" not in str(program.graph)


def test_a_function_that_was_compiled_before_is_told_of_when_its_layers_stay_silent():
    job = Job("a compiled function", backend="aot_eager")
    job.compile()
    job.step()
    sink = MemorySink()
    with Monitor(job.model, sink=sink, capture=GRAPH) as monitor:
        for _ in range(4):
            job.step()
        with pytest.warns(TorchboardWarning, match="compiled steps showed nothing of 12 outputs and gradients"):
            monitor.log_epoch()
    assert elements(sink, "activations")["head"] == [BATCH * 3]


def test_nothing_is_told_of_where_an_epochs_only_captured_step_is_the_first():
    job, sink = Job("torch.compile(model)"), MemorySink()
    job.compile()
    with Monitor(job.watched, sink=sink, capture=Capture(every=100, compiled="graph")) as monitor:
        for _ in range(4):
            job.step()
            monitor.log_epoch()
    assert elements(sink, "activations")["head"] == [BATCH * 3] * 4


class Taker:
    """A compiled training with captured steps 0, 2 and 4, before one of which somebody takes hooks off a layer."""

    def __init__(self, take, step: int, others: int = 0) -> None:
        self.job, self.sink = Job("torch.compile(model)"), MemorySink()
        self.job.compile()
        for number in range(2):
            if number:
                self.monitor = Monitor(self.job.watched, sink=self.sink, capture=GRAPH, write_graph=False)
            if others:
                self.job.model.first.register_forward_hook(lambda *_: None)
        self.order = [*self.job.model.first._forward_hooks]
        for number in range(STEPS):
            if number == step:
                take(self.job.model.first)
            self.job.step()

    def end(self) -> list[int]:
        """Ends the epoch; how many elements were seen of the layer's output in each."""
        self.monitor.log_epoch()
        return elements(self.sink, "activations").get("first", [])


def all_hooks(layer):
    layer._forward_hooks.clear()


def the_dictionary(layer):
    layer._forward_hooks = OrderedDict()


def ours_among_others(layer):
    del layer._forward_hooks[[*layer._forward_hooks][1]]


TAKEN = [(all_hooks, 0, 2, 2), (all_hooks, 1, 3, 2), (all_hooks, 3, 3, 3), (all_hooks, 4, 2, 3)]
TAKEN += [(the_dictionary, 3, 3, 3), (ours_among_others, 3, 3, 3), (ours_among_others, 4, 2, 3)]


@pytest.mark.parametrize("take, step, seen, graphs", TAKEN)
def test_hooks_that_somebody_takes_away_are_put_back_in_their_place_and_told_of(take, step, seen, graphs):
    taker = Taker(take, step, others := 2 * (take is ours_among_others))
    with pytest.warns(TorchboardWarning, match="our hooks on first: something took them away and steps without them"):
        assert taker.end() == [seen * BATCH * SIZES["first"]]
    assert taker.job.backend.frame_count == graphs, "one more for the step without them, and none for putting them back"
    assert [*taker.job.model.first._forward_hooks] == taker.order
    taker.monitor.close()
    assert len(taker.job.model.first._forward_hooks) == others


def test_a_layer_that_loses_its_hook_in_a_captured_step_is_not_seen_in_compiled_ones_again():
    taker = Taker(all_hooks, 2)
    with pytest.warns(TorchboardWarning, match="our hooks on first"):
        assert taker.end() == [BATCH * SIZES["first"]], "the first captured step, which runs eagerly"
    for _ in range(STEPS):
        taker.job.step()
    assert taker.end() == [BATCH * SIZES["first"]], "and it is told once"
    assert elements(taker.sink, "activations")["head"] == [3 * BATCH * SIZES["head"]] * 2
    taker.monitor.close()
