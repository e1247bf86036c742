"""Operators that take functions and compile themselves do the same in windows and in recorded passes as without."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from torchboard.graph.eager import eager_windows
from torchboard.graph.observed import GraphRecorder
from torchboard.graph.observed_step import StepRecorder
from torchboard.graph.quiet_pass import quiet_pass

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor", "ignore:.*backend=.eager")
COMPILE = torch.compile


class Steps(nn.Module):
    """A layer that only the operator's functions call, and one beside it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer, self.kind = nn.Linear(4, 4), nn.Linear(4, 4), kind

    def forward(self, x):
        return getattr(self, self.kind)(self.outer(x)) + x

    def cond(self, x):
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (self.inner(x),))

    def map(self, x):
        return torch_map(lambda row: self.inner(row).sin(), x)

    def scan(self, x):
        return scan(lambda carry, row: (carry + self.inner(row), (carry * row).clone()), torch.zeros(4), x)[0]

    def while_loop(self, x):
        with torch.no_grad():
            last = while_loop(lambda n, y: n < 3, lambda n, y: (n + 1, y.sin()), (torch.tensor(0), x))[1]
        return x + last


KINDS = "cond", "map", "scan", "while_loop"


def gradients(model: nn.Module, call) -> list[torch.Tensor]:
    model.zero_grad()
    out = call(torch.linspace(-1, 1, 20).view(5, 4))
    out.sum().backward()
    return [out.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [False, True])
def test_in_a_window_results_and_gradients_are_the_same(kind, compiled):
    torch._dynamo.reset()
    model = Steps(kind)
    call = torch.compile(model, backend="eager", fullgraph=compiled) if compiled else model
    bare = gradients(model, model)
    hook = model.inner.register_forward_hook(lambda *_: None)
    assert eager_windows.enter()
    seen = gradients(model, call)
    eager_windows.leave()
    hook.remove()
    assert len(seen) == len(bare) and all(map(torch.equal, seen, bare))
    assert torch.compile is COMPILE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [False, True])
def test_in_a_recorded_pass_they_are_the_same_and_there_is_a_box(kind, window):
    torch._dynamo.reset()
    model = Steps(kind)
    bare = gradients(model, model)
    recorder = GraphRecorder(model)
    recorder.attach()
    if window:
        assert eager_windows.enter()
    seen = gradients(model, model)
    if window:
        eager_windows.leave()
    assert len(seen) == len(bare) and all(map(torch.equal, seen, bare))
    assert recorder.error is None
    (box,) = [node for node in recorder.graph.nodes if node.name == kind]
    readers = {source.node for node in recorder.graph.nodes for source in node.inputs}
    assert box.inputs and box.id in readers
    assert torch.compile is COMPILE and torch._C._len_torch_dispatch_stack() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_recorded_step_with_its_backward_pass_they_are_the_same(kind):
    torch._dynamo.reset()
    model = Steps(kind)
    bare = gradients(model, model)
    recorder = StepRecorder(model)
    recorder.attach()
    seen = gradients(model, model)
    recorder.end()
    recorder.close()
    assert len(seen) == len(bare) and all(map(torch.equal, seen, bare))
    assert recorder.error is None and kind in [node.name for node in recorder.graph.nodes]


def test_a_pass_of_our_own_goes_through_them():
    model = Steps("cond")
    quiet_pass(model, (torch.ones(5, 4),), {})
    assert torch.compile is COMPILE


def test_what_the_user_compiles_in_a_window_is_compiled_behind_it():
    torch._dynamo.reset()
    assert eager_windows.enter()
    call = torch.compile(lambda x: x + 1, backend="eager")
    assert torch.equal(call(torch.ones(2)), torch.full((2,), 2.0))
    eager_windows.leave()
    assert torch.equal(call(torch.ones(2)), torch.full((2,), 2.0))
    assert torch.compile is COMPILE
    assert isinstance(call, type(lambda: None)) and call._torchdynamo_orig_callable


def test_the_stance_of_the_user_holds_for_them():
    """In a module that is named as torch's are, as what is traced cannot ask for the stance."""
    home = {"__name__": "torch._higher_order_ops.mine", "torch": torch}
    exec("def mine(call): return torch.compile(call, backend='eager')()", home)
    stances = []

    def see():
        stances.append(torch._dynamo.eval_frame._stance)

    with torch.compiler.set_stance("eager_on_recompile"):
        present = torch._dynamo.eval_frame._stance
        assert eager_windows.enter()
        window = torch._dynamo.eval_frame._stance
        home["mine"](see)
        see()
        eager_windows.leave()
        see()
    assert present is not window and stances == [present, window, present]
