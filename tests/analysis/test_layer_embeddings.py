"""What a layer makes of a set of examples, as points in the projector."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from torchboard import Capture, MemorySink, Monitor, proto
from torchboard.errors import ClosedError, InvalidValueError
from torchboard.values import OpGraph
from torchboard.values.projector import Embedding, entries


class Net(nn.Module):
    """Dropout, a buffer that training changes, and an output of several parts."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4 * 36, 3)
        self.lstm = nn.LSTM(3, 5)
        self.unused = nn.Linear(1, 1)

    def forward(self, x, shift=None):
        x = self.head(self.stem(x).flatten(1))
        self.head(torch.zeros(2, 144))  # a second call, which does not count
        return self.lstm(x if shift is None else x + shift)


def embeddings(sink, run="train"):
    """The embeddings of a run, by name."""
    listed = entries(sink.files[run, "projector_config.pbtxt"])
    return {entry.tensor_name: Embedding.decode(entry, lambda path: sink.files[run, path]) for entry in listed}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


INPUTS = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_points_are_what_the_layer_puts_out_in_evaluation_mode_with_labels_and_pictures():
    sink, model = MemorySink(), Net()
    with Monitor(model, sink=sink) as monitor:
        before, generator = state(model), torch.get_rng_state()
        monitor.log_embeddings("head", INPUTS, labels=[f"digit {n}" for n in range(10)], images=INPUTS, batch_size=3)
        assert model.training and torch.equal(generator, torch.get_rng_state())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        monitor.log_epoch()
        monitor.log_embeddings("stem.0", INPUTS, labels=[(n, n % 2) for n in range(10)], header=("number", "odd"))
    found = embeddings(sink)
    assert set(found) == {"activations/head:00000", "activations/stem/0:00001"}
    head = found["activations/head:00000"]
    model.eval()
    with torch.no_grad():
        expected = model.head(model.stem(INPUTS).flatten(1))
    np.testing.assert_allclose(head.points, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert head.labels[3] == ("digit 3",) and head.pictures.shape == (10, 8, 8, 1)
    np.testing.assert_allclose(head.pictures[2, :, :, 0], INPUTS[2, 0].numpy() * 255, atol=1)
    stem = found["activations/stem/0:00001"]
    assert stem.points.shape == (10, 4 * 36) and stem.header == ("number", "odd") and stem.labels[3] == ("3", "1")


def test_a_layer_with_several_outputs_gives_its_first_and_inputs_may_be_several():
    sink = MemorySink()
    with Monitor(Net(), sink=sink) as monitor:
        with monitor.phase("validation"):
            monitor.log_embeddings("lstm", {"x": INPUTS, "shift": torch.ones(10, 1)})
            monitor.log_embeddings("Net", (INPUTS, torch.ones(10, 3)))
    found = embeddings(sink, "validation")
    assert found["activations/lstm:00000"].points.shape == (10, 5)
    np.testing.assert_array_equal(found["activations/lstm:00000"].points, found["activations/Net:00000"].points)


def test_of_several_models_the_one_that_the_layer_is_part_of_is_run():
    sink = MemorySink()
    models = {"generator": nn.Sequential(nn.Linear(2, 3)), "discriminator": nn.Sequential(nn.Linear(3, 1))}
    with Monitor(models, sink=sink) as monitor:
        monitor.log_embeddings("generator.0", torch.rand(4, 2))
        monitor.log_embeddings("discriminator.0", torch.rand(4, 3))
    shapes = [embedding.points.shape for embedding in embeddings(sink).values()]
    assert shapes == [(4, 3), (4, 1)]


def train(monitor, model, optimizer, batches):
    for _ in range(batches):
        optimizer.zero_grad()
        model(torch.rand(4, 1, 8, 8))[0].sum().backward()
        optimizer.step()
        monitor.log_batch(loss=1.0)


def captured(sink, run):
    """Tag -> what was written of it, once encoded: histograms, pictures and graphs."""
    found = {}
    for event in sink.events:
        for name, value in event.pairs:
            if event.run == run and (value.plugin in ("histograms", "images") or isinstance(value, OpGraph)):
                message = proto.Event()
                value.encode(name, message)
                found[name] = message.SerializeToString(deterministic=True)
    return found


@pytest.mark.parametrize("phase", ["train", "validation"])
def test_what_the_monitor_captures_is_what_it_captures_without(phase):
    seen = []
    for log in (False, True):
        torch.manual_seed(0)
        sink, model = MemorySink(), Net()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with Monitor(model, sink=sink, capture=Capture(every=1)) as monitor:
            if log:
                monitor.log_embeddings("head", INPUTS)
            train(monitor, model, optimizer, 1)
            with monitor.phase("validation"), torch.no_grad():
                if log:
                    monitor.log_embeddings("head", INPUTS)
                for _ in range(3):
                    model(torch.rand(4, 1, 8, 8))
            if log:
                monitor.log_embeddings("head", INPUTS)
            train(monitor, model, optimizer, 2)
            monitor.log_epoch()
        seen.append(captured(sink, phase))
    assert {"activations/head", "graph"} <= {"graph" if "graph" in name else name for name in seen[0]}
    assert set(seen[0]) == set(seen[1])
    assert [name for name in seen[0] if seen[0][name] != seen[1][name]] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "haed"}, r"layer 'haed': Net has none of that name; give one of its layers: head"),
        ({"layer": 3}, "none of that name"),
        ({"layer": "unused"}, "no output of Linear for 10 examples: a point of each example is needed"),
        ({"inputs": [1, 2]}, "inputs of type list"),
        ({"inputs": ()}, "inputs of type tuple"),
        ({"inputs": torch.tensor(1.0)}, "inputs of type Tensor"),
        ({"inputs": (INPUTS, torch.ones(9, 3))}, r"inputs of \[9, 10\] rows"),
        ({"inputs": INPUTS[:0]}, r"inputs of \[0\] rows"),
        ({"inputs": INPUTS * float("nan")}, "not finite"),
        ({"labels": ["a"] * 9}, "9 labels for the 10 points"),
        ({"labels": ["a"] * 10, "header": ["one", "two"]}, "2 columns"),
        ({"images": INPUTS[:4]}, "4 pictures for the 10 points"),
        ({"images": torch.zeros(10, 1, 8, 4000)}, "smaller pictures"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
    ],
)
def test_bad_input_is_refused_at_the_call_and_nothing_is_written(arguments, message):
    sink, model = MemorySink(), Net()
    with Monitor(model, sink=sink) as monitor:
        with pytest.raises(InvalidValueError, match=message):
            monitor.log_embeddings(**{"layer": "head", "inputs": INPUTS, **arguments})
        monitor.log_epoch(loss=1.0)
    assert sink.files == {} and sink.series("epoch_loss")
    assert not any(re.search("lambda", str(module._forward_hooks)) for module in model.modules())


def test_an_error_of_the_model_reaches_the_caller_and_leaves_the_model_as_it_was():
    model = Net()
    with Monitor(model, sink=MemorySink()) as monitor:
        with pytest.raises(RuntimeError):
            monitor.log_embeddings("head", torch.rand(4, 7, 8, 8))
        assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_closed_monitor_refuses():
    monitor = Monitor(Net(), sink=MemorySink())
    monitor.close()
    with pytest.raises(ClosedError):
        monitor.log_embeddings("head", INPUTS)
