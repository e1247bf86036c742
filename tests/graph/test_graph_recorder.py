"""A recorder changes nothing, leaves nothing behind and never makes a pass fail."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref

import pytest
import torch
from graph_models import Block, ConvNet, Fragile, Gates, ops
from torch import nn
from torch.overrides import (
    TorchFunctionMode,
    _len_torch_function_stack,
)
from torch.utils._python_dispatch import TorchDispatchMode, _len_torch_dispatch_stack

from torchboard.graph.observed import GraphRecorder
from torchboard.graph.tape import Tape


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def modes() -> tuple[int, int]:
    return _len_torch_function_stack(), _len_torch_dispatch_stack()


def models() -> dict[str, tuple[nn.Module, tuple[torch.Tensor, ...]]]:
    return {
        "conv": (ConvNet(), (torch.rand(2, 1, 8, 8),)),
        "block": (Block(), (torch.rand(2, 3, 4, 4),)),
        "lstm": (nn.LSTM(3, 4, dropout=0.5, num_layers=2), (torch.rand(5, 2, 3),)),
        "encoder": (nn.TransformerEncoderLayer(8, 2, 16), (torch.rand(3, 2, 8),)),
        "gates": (Gates(), (torch.rand(2, 4),)),
    }


def step(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Everything a training step leaves: outputs, gradients, buffers and random state."""
    torch.manual_seed(0)
    leaves = torch.utils._pytree.tree_leaves(model(*inputs))
    sum(leaf.sum() for leaf in leaves).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [*leaves, *gradients, *model.buffers(), torch.get_rng_state()]


@pytest.mark.parametrize("name", models())
def test_recording_changes_no_bit_of_a_training_step(name):
    model, inputs = models()[name]
    plain = step(copy.deepcopy(model), inputs)
    recorder = GraphRecorder(model)
    recorder.attach()
    recorded = step(model, inputs)
    assert recorder.graph is not None
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))


def test_after_the_pass_nothing_is_left_on_the_model_or_the_thread():
    model, before = ConvNet(), modes()
    recorder = GraphRecorder(model)
    recorder.attach()
    assert hooks(model) > 0
    model(torch.zeros(2, 1, 8, 8))
    assert (hooks(model), modes()) == (0, before)
    graph = recorder.graph
    model(torch.zeros(2, 1, 8, 8))
    assert recorder.graph is graph


def test_no_tensor_is_kept_alive():
    model, x = ConvNet(), torch.zeros(2, 1, 8, 8)
    recorder = GraphRecorder(model)
    recorder.attach()
    out = model(x)
    gone = [weakref.ref(x), weakref.ref(out)]
    del x, out
    gc.collect()
    assert [reference() for reference in gone] == [None, None]
    assert recorder.graph is not None


def test_detach_is_idempotent_and_before_the_pass_leaves_no_graph():
    model = ConvNet()
    recorder = GraphRecorder(model)
    recorder.attach()
    recorder.detach()
    recorder.detach()
    model(torch.zeros(2, 1, 8, 8))
    assert (recorder.graph, hooks(model)) == (None, 0)


def test_a_pass_that_raises_leaves_no_mode_and_the_next_one_is_recorded():
    model, before = Fragile(), modes()
    recorder = GraphRecorder(model)
    recorder.attach()
    model.failure = ValueError
    with pytest.raises(ValueError):
        model(torch.zeros(1, 4))
    assert (recorder.graph, recorder.error, modes()) == (None, None, before)
    model.failure = None
    model(torch.zeros(1, 4))
    assert list(ops(recorder.graph)) == ["Fragile/fc/linear"]
    assert hooks(model) == 0


def test_a_pass_within_an_except_block_is_recorded():
    model = Fragile()
    recorder = GraphRecorder(model)
    recorder.attach()
    try:
        raise KeyError
    except KeyError:
        model(torch.zeros(1, 4))
    assert recorder.graph is not None


def test_an_interrupted_pass_records_no_more_and_the_next_one_tidies_up():
    model, before = Fragile(), modes()
    recorder = GraphRecorder(model)
    recorder.attach()
    model.failure = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        model(torch.zeros(1, 4))
    torch.zeros(3) + 1
    model.failure = None
    model(torch.zeros(1, 4))
    assert list(ops(recorder.graph)) == ["Fragile/fc/linear"]
    assert modes() == before


def test_detach_after_an_interrupted_pass_tidies_up():
    model, before = Fragile(), modes()
    recorder = GraphRecorder(model)
    recorder.attach()
    model.failure = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        model(torch.zeros(1, 4))
    recorder.detach()
    assert (modes(), hooks(model)) == (before, 0)


def test_detach_within_the_pass_ends_it():
    class Impatient(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            recorder.detach()
            return y + 1

    model, before = Impatient(nn.Linear(4, 4)), modes()
    recorder = GraphRecorder(model)
    recorder.attach()
    assert model(torch.zeros(1, 4)).shape == (1, 4)
    assert (recorder.graph, hooks(model), modes()) == (None, 0, before)


def test_detach_from_another_thread_takes_effect_when_the_pass_ends():
    class Waiting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            thread = threading.Thread(target=recorder.detach)
            thread.start()
            thread.join()
            return x + 1

    model, before = Waiting(), modes()
    recorder = GraphRecorder(model)
    recorder.attach()
    assert model(torch.zeros(1)).shape == (1,)
    assert (recorder.graph, hooks(model), modes()) == (None, 0, before)


def test_two_threads_that_call_the_model_at_once_are_recorded_as_one_pass():
    barrier = threading.Barrier(2, timeout=10)

    class Meeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            barrier.wait()
            y = self.fc(x)
            barrier.wait()
            return y

    model = Meeting()
    recorder = GraphRecorder(model)
    recorder.attach()
    threads = [threading.Thread(target=model, args=(torch.zeros(1, 4),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.error is None
    assert list(ops(recorder.graph)) == ["Meeting/fc/linear"]
    assert hooks(model) == 0


def test_an_error_of_the_recorder_ends_the_recording_and_not_the_pass(monkeypatch):
    def fails(self: Tape, *arguments: object) -> None:
        raise ZeroDivisionError("an error of ours")

    monkeypatch.setattr(Tape, "_draft_of", fails)
    model, x, before = ConvNet().eval(), torch.rand(2, 1, 8, 8), modes()
    expected = model(x)
    recorder = GraphRecorder(model)
    recorder.attach()
    assert torch.equal(model(x), expected)
    assert recorder.graph is None
    assert str(recorder.error) == "an error of ours"
    assert (hooks(model), modes()) == (0, before)


def test_a_copy_or_a_pickle_made_while_attached_does_not_report():
    model = ConvNet()
    recorder = GraphRecorder(model)
    recorder.attach()
    pickled, buffer = pickle.dumps(model), io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert b"torchboard" not in pickled
    for copied in (copy.deepcopy(model), pickle.loads(pickled), torch.load(buffer, weights_only=False)):
        copied(torch.zeros(2, 1, 8, 8))
        assert recorder.graph is None
    model(torch.zeros(2, 1, 8, 8))
    assert recorder.graph is not None


class _Quiet(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class _QuietFunctions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [_Quiet, _QuietFunctions])
def test_a_mode_that_another_hook_enters_within_the_pass_is_left_alone(kind):
    model, before, mode = nn.Linear(4, 4), modes(), kind()
    recorder = GraphRecorder(model)
    recorder.attach()
    model.register_forward_pre_hook(lambda *_: mode.__enter__() and None)
    inside = []
    model.register_forward_hook(lambda *_: inside.append(modes()))
    model.register_forward_hook(lambda *_: mode.__exit__(None, None, None))
    model(torch.zeros(1, 4))
    assert sum(inside[0]) == sum(before) + 1
    assert modes() == before
    assert not torch.utils._python_dispatch.is_in_torch_dispatch_mode()
    assert list(ops(recorder.graph)) == ["Linear/linear"]


def test_a_model_may_be_recorded_again():
    model = nn.Linear(4, 4)
    recorder = GraphRecorder(model)
    shapes = []
    for size in (1, 2):
        recorder.attach()
        model(torch.zeros(size, 4))
        shapes.append(recorder.graph.nodes[-1].outputs[0].shape)
    assert shapes == [(1, 4), (2, 4)]
