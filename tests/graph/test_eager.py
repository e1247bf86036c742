"""Compiled code runs eagerly in windows, and the user's stance comes back."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from torchboard.graph.eager import compiled_modules, eager_windows, eagerly


@pytest.fixture
def function():
    """A compiled function, and the counter of its graphs."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    return torch.compile(lambda x: x + 1, backend=counter, fullgraph=True), counter


def test_nothing_is_compiled_until_the_last_window_is_left(function):
    call, counter = function
    assert eager_windows.enter() and eager_windows.enter()
    for _ in range(2):
        call(torch.ones(2))
        assert counter.frame_count == 0
        eager_windows.leave()
    call(torch.ones(2))
    assert counter.frame_count == 1


@pytest.mark.parametrize("fullgraph", [True, False])
def test_a_window_left_inside_a_compiled_call_ends_with_it(fullgraph):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    model = nn.Sequential(nn.Linear(2, 2))
    hook = model[0].register_forward_hook(lambda *_: eager_windows.leave())
    call = torch.compile(lambda x: model(x), backend=counter, fullgraph=fullgraph)
    assert eager_windows.enter()
    call(torch.ones(1, 2))
    hook.remove()
    assert counter.frame_count == 0
    call(torch.ones(1, 2))
    assert counter.frame_count == 1


def test_a_window_left_inside_a_compiled_call_that_raises_ends_with_it(function):
    def fails(x):
        eager_windows.leave()
        raise KeyError("mine")

    assert eager_windows.enter()
    with pytest.raises(KeyError, match="mine"):
        torch.compile(fails, backend="eager", fullgraph=True)(torch.ones(2))
    call, counter = function
    call(torch.ones(2))
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_a_window_is_not_entered_while_compiled_code_runs():
    torch._dynamo.reset()
    answers = []

    def inside(x):
        torch._dynamo.graph_break()
        answers.append(eager_windows.enter())
        return x

    torch.compile(inside, backend="eager")(torch.ones(2))
    assert answers == [False] and eager_windows.enter()
    eager_windows.leave()


def test_a_context_leaves_its_window_where_the_body_raises(function):
    call, counter = function
    with pytest.raises(KeyError), eagerly():
        call(torch.ones(2))
        raise KeyError
    assert counter.frame_count == 0
    call(torch.ones(2))
    assert counter.frame_count == 1


def test_compiled_modules_are_those_inside_too():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()), nn.Tanh())
    assert compiled_modules(model) == set()
    model[1].compile(backend="eager")
    assert compiled_modules(model) == {model[1], model[1][0]}
    assert compiled_modules(torch.compile(model, backend="eager")) >= set(model.modules())
