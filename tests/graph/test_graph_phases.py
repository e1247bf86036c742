"""A monitor records one graph a phase, and tells what the layers cost."""

from __future__ import annotations

import pytest
import torch
from graph_models import ConvNet, Fragile
from torch import nn

from torchboard import MemorySink, Monitor
from torchboard.errors import TorchboardWarning
from torchboard.graph.observed import GraphRecorder


def ops(sink: MemorySink, run: str) -> set[str]:
    return {node.op for _, graph in sink.series("__run_graph__", run) for node in graph.nodes}


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def train(model: nn.Module) -> None:
    model.train()
    model(torch.rand(2, 1, 8, 8)).sum().backward()


def evaluate(model: nn.Module) -> None:
    model.eval()
    with torch.inference_mode():
        model(torch.rand(3, 1, 8, 8))


def test_training_and_evaluation_are_two_graphs_in_two_runs():
    model, sink = ConvNet(), MemorySink()
    with Monitor(model, sink=sink, histogram_freq=0, feature_maps=False) as monitor:
        for _ in range(2):
            train(model)
            with monitor.phase("validation"):
                evaluate(model)
                evaluate(model)
            monitor.log_epoch()
        assert hooks(model) == 0
    assert {"dropout", "batch_norm"} <= ops(sink, "train")
    assert "batch_norm" in ops(sink, "validation") and "dropout" not in ops(sink, "validation")
    for run, size in (("train", 2), ("validation", 3)):
        ((step, graph),) = sink.series("__run_graph__", run)
        assert step == 0
        (convolution,) = (node for node in graph.nodes if node.op == "conv2d")
        assert convolution.output_shapes[0][0] == size
        norms = [dict(node.attributes)["training"] for node in graph.nodes if node.op == "batch_norm"]
        assert norms and set(norms) == {str(run == "train")}
        assert {tag for tag in sink.tags(run) if tag in ("step1", "model", "run/layers")} == {
            "step1",
            "model",
            "run/layers",
        }


def test_an_evaluation_before_training_is_not_taken_for_training():
    model, sink = ConvNet(), MemorySink()
    with Monitor(model, sink=sink) as monitor:
        with monitor.phase("validation"):
            evaluate(model)
        train(model)
    assert "dropout" in ops(sink, "train") and "dropout" not in ops(sink, "validation")


def test_an_evaluation_before_training_outside_of_a_phase_is_not_taken_for_training_either():
    model, sink = ConvNet(), MemorySink()
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        for _ in range(2):
            evaluate(model)
        monitor.log_epoch()
        assert ops(sink, "train") == set()
        train(model)
        monitor.log_epoch()
    assert "dropout" in ops(sink, "train") and len(sink.series("__run_graph__", "train")) == 1


def test_where_there_is_no_training_the_first_evaluation_is_drawn_in_the_end():
    model, sink = ConvNet(), MemorySink()
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        for _ in range(2):
            evaluate(model)
        monitor.log_epoch()
    assert ops(sink, "train") and "dropout" not in ops(sink, "train") and hooks(model) == 0


def test_of_evaluations_before_training_one_is_recorded():
    recorder = GraphRecorder(model := ConvNet(), of_training=True)
    recorder.attach()
    evaluate(model)
    first = recorder.partial
    evaluate(model)
    assert first is not None and recorder.partial is first and recorder.graph is None and not recorder.is_bypassed
    train(model)
    assert recorder.graph is not None and hooks(model) == 0


def test_a_phase_without_a_pass_leaves_no_hook_and_no_graph():
    model, sink = ConvNet(), MemorySink()
    with Monitor(model, sink=sink, histogram_freq=0, feature_maps=False) as monitor:
        train(model)
        with monitor.phase("validation"):
            pass
        assert hooks(model) == 0
    assert ops(sink, "validation") == set()


def test_without_graphs_nothing_is_recorded():
    model, sink = ConvNet(), MemorySink()
    with Monitor(model, sink=sink, write_graph=False) as monitor:
        train(model)
        with monitor.phase("validation"):
            evaluate(model)
        assert monitor.summary().startswith("ConvNet: 698 parameters, 0 FLOPs. Note: no pass")
    assert ops(sink, "train") == ops(sink, "validation") == set()


def test_the_summary_is_the_table_of_the_first_training_pass():
    model, sink = ConvNet(), MemorySink()
    with Monitor(model, sink=sink) as monitor:
        assert "no pass has been recorded" in monitor.summary()
        train(model)
        assert monitor.summary().startswith("ConvNet: 698 parameters, 11,776 FLOPs, ")
        monitor.log_epoch()
        summary = monitor.summary()
    ((_, text),) = sink.series("run/layers", "train")
    assert text.markdown == summary == monitor.summary()


def test_of_a_training_that_fails_half_way_what_ran_is_written():
    model, sink = Fragile(), MemorySink()
    model.failure = ZeroDivisionError
    with pytest.raises(ZeroDivisionError), Monitor(model, sink=sink) as monitor:
        model(torch.zeros(1, 4))
        monitor.log_epoch()
    assert "linear" in ops(sink, "train")
    ((_, text),) = sink.series("run/layers", "train")
    assert "the pass raised ZeroDivisionError" in text.markdown
    assert hooks(model) == 0


def test_a_pass_that_went_through_is_preferred_to_one_that_did_not():
    model, sink = Fragile(), MemorySink()
    with Monitor(model, sink=sink) as monitor:
        model.failure = ValueError
        with pytest.raises(ValueError):
            model(torch.zeros(1, 4))
        monitor.log_epoch()
        assert ops(sink, "train") == set()
        model.failure = None
        model(torch.zeros(1, 4))
    ((_, text),) = sink.series("run/layers", "train")
    assert "raised" not in text.markdown


@pytest.mark.filterwarnings("error", category=TorchboardWarning)
def test_a_model_that_returns_nothing_and_takes_nothing_is_monitored():
    class Silent(nn.Module):
        def forward(self) -> None:
            return None

    model, sink = Silent(), MemorySink()
    with Monitor(model, sink=sink) as monitor:
        model()
        monitor.log_epoch()
    assert "run/layers" in sink.tags("train") and "__run_graph__" not in sink.tags("train")


def test_a_layer_that_is_elsewhere_when_the_graph_is_written_is_in_it():
    model, sink = ConvNet(), MemorySink()
    with Monitor(model, sink=sink, feature_maps=False) as monitor:
        train(model)
        for name, layer in [*model.named_children()]:
            delattr(model, name)
            setattr(model, f"moved_{name}", layer)
        monitor.log_epoch(loss=1.0)
    assert {"conv2d", "linear"} <= ops(sink, "train") and sink.series("epoch_loss")
