"""One real pass is recorded as it ran."""

from __future__ import annotations

import pytest
import torch
from graph_models import Block, ConvNet, DataclassOut, Gates, TwoTowers, ops, reads, record
from torch import nn
from torch.overrides import (
    handle_torch_function,
    has_torch_function_unary,
)
from torch.utils.checkpoint import checkpoint

from torchboard.graph.observed import GraphRecorder


def test_a_conv_net_is_recorded_with_scopes_shapes_parameters_and_arguments():
    graph = record(ConvNet(), torch.zeros(2, 1, 8, 8))
    assert list(ops(graph)) == [
        "ConvNet/conv1/conv2d",
        "ConvNet/norm/add_",
        "ConvNet/norm/batch_norm",
        "ConvNet/relu",
        "ConvNet/pool/max_pool2d",
        "ConvNet/flatten",
        "ConvNet/drop/dropout",
        "ConvNet/fc/linear",
    ]
    conv = ops(graph)["ConvNet/conv1/conv2d"]
    assert [graph.nodes[source.node].name for source in conv.inputs] == ["image", "weight", "bias"]
    assert conv.outputs[0].shape == (2, 4, 8, 8)
    assert (conv.outputs[0].dtype, conv.outputs[0].device) == ("float32", "cpu")
    assert (conv.module, conv.aten) == ("conv1", ("aten::convolution",))
    assert ("padding", "[1, 1]") in conv.attributes
    kept = {node.name for node in graph.nodes if node.kind == "buffer"}
    assert kept == {"running_mean", "running_var", "num_batches_tracked"}
    assert [node.outputs[0].shape for node in graph.nodes if node.kind == "output"] == [(2, 10)]


def test_the_calls_of_modules_are_listed_in_order():
    graph = record(ConvNet(), torch.zeros(2, 1, 8, 8))
    assert [call.module for call in graph.calls] == ["", "conv1", "norm", "pool", "drop", "fc"]


def test_a_residual_block_reads_what_was_added_in_place():
    graph = record(Block(), torch.zeros(1, 3, 4, 4))
    assert reads(graph, "Block/add_") == ["Block/conv2/conv2d", "x"]
    assert reads(graph, "Block/relu_1/relu") == ["Block/add_"]
    assert [graph.nodes[node.inputs[0].node].scope for node in graph.nodes if node.kind == "output"] == [
        ("Block", "relu_1")
    ]


def test_the_second_call_of_a_module_has_a_scope_of_its_own_and_the_same_parameters():
    shared = nn.Linear(4, 4)
    graph = record(nn.Sequential(shared, nn.ReLU(), shared), torch.zeros(1, 4))
    first, second = ops(graph)["Sequential/0/linear"], ops(graph)["Sequential/0_1/linear"]
    assert set(first.inputs) & set(second.inputs) == set(first.inputs[:2])
    assert reads(graph, "Sequential/0_1/linear") == ["Sequential/1/relu"]


def test_the_scope_of_a_second_call_is_never_another_module():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()
            self.act_1 = nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act_1(self.act(self.act(x)))

    assert list(ops(record(Net(), torch.zeros(1)))) == ["Net/act/relu", "Net/act_2/relu", "Net/act_1/tanh"]


def test_columns_written_in_place_are_read_apart():
    graph = record(Gates(), torch.zeros(2, 4))
    read = [[graph.nodes[source.node] for source in node.inputs] for node in graph.nodes if node.name == "getitem"]
    written = [node for node in graph.nodes if node.name == "setitem"]
    assert [[node for node in nodes if node.name == "setitem"] for nodes in read] == [[node] for node in written]
    assert [[graph.nodes[source.node].name for source in node.inputs] for node in written] == [["zeros", "linear"]] * 4


def test_keyword_inputs_and_dict_outputs_are_named_as_the_user_named_them():
    graph = record(TwoTowers(), torch.zeros(1, 4), second=torch.zeros(1, 4))
    assert [node.name for node in graph.nodes if node.kind == "input"] == ["first", "second"]
    assert [node.name for node in graph.nodes if node.kind == "output"] == ["output_sum", "output_left"]
    assert reads(graph, "TwoTowers/right/linear") == ["second"]
    assert reads(graph, "TwoTowers/add") == ["TwoTowers/left/linear", "TwoTowers/right/linear"]


def test_a_dataclass_of_outputs_is_named_by_its_fields():
    graph = record(DataclassOut(), torch.zeros(1, 4))
    assert [node.name for node in graph.nodes if node.kind == "output"] == ["output_logits"]


def test_an_lstm_is_one_operation_with_three_outputs():
    graph = record(nn.LSTM(3, 4, num_layers=2), torch.zeros(5, 2, 3))
    lstm = ops(graph)["LSTM/lstm"]
    assert [spec.shape for spec in lstm.outputs] == [(5, 2, 4), (2, 2, 4), (2, 2, 4)]
    assert [node.inputs[0].output for node in graph.nodes if node.kind == "output"] == [0, 1, 2]
    assert len([node for node in graph.nodes if node.kind == "parameter"]) == 8


def test_a_parameter_of_a_module_that_is_never_called_is_drawn_in_its_place():
    graph = record(nn.MultiheadAttention(8, 2), *[torch.zeros(3, 1, 8)] * 3)
    scopes = {node.scope: node.module for node in graph.nodes if node.kind == "parameter"}
    assert scopes == {("MultiheadAttention",): "", ("MultiheadAttention", "out_proj"): "out_proj"}


def test_autocast_draws_no_edge_from_the_first_call_of_a_shared_module_to_the_second():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            with torch.autocast("cpu", torch.bfloat16):
                return self.fc(x), self.fc(x + 1)

    graph = record(Net(), torch.zeros(1, 4))
    assert reads(graph, "Net/fc_1/linear") == ["Net/add"]
    assert ops(graph)["Net/fc/linear"].outputs[0].dtype == "bfloat16"


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_block_is_recorded_once(reentrant):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.block, self.first(x), use_reentrant=reentrant)

    model = Net()
    recorder = GraphRecorder(model)
    recorder.attach()
    model(torch.zeros(1, 4)).sum().backward()
    assert list(ops(recorder.graph)) == ["Net/first/linear", "Net/block/0/linear", "Net/block/1/relu"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recorder_attached_between_forward_and_backward_ignores_the_recomputation(reentrant):
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    out = checkpoint(inner, torch.zeros(1, 4, requires_grad=True), use_reentrant=reentrant)
    recorder = GraphRecorder(inner)
    recorder.attach()
    out.sum().backward()
    assert recorder.graph is None
    recorder.detach()


def test_functional_calls_and_vmap_are_followed():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            swapped = {"weight": self.fc.weight * 2, "bias": torch.ones(4)}
            x = torch.func.functional_call(self.fc, swapped, (x,))
            return torch.vmap(lambda row: self.fc(row).sin())(x)

    graph = record(Net(), torch.zeros(2, 4))
    assert reads(graph, "Net/fc/linear") == ["Net/mul", "Net/ones", "x"]
    assert reads(graph, "Net/fc_1/linear") == ["Net/fc/linear"]
    assert reads(graph, "Net/sin") == ["Net/fc_1/linear"]


def test_parameters_that_are_put_in_for_the_call_are_parameters():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.fast = {"weight": torch.ones(4, 4), "bias": torch.ones(4)}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(self.fc, self.fast, (x,))

    nodes = record(Net(), torch.zeros(1, 4)).nodes
    assert [(node.kind, node.name) for node in nodes[1:3]] == [("parameter", "weight"), ("parameter", "bias")]


def around(x: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """A function of the user's that takes part in torch's overrides and calls a module."""
    if has_torch_function_unary(x):
        return handle_torch_function(around, (x,), x, module)
    return module(x * 2) + x


def test_a_function_that_calls_a_module_is_two_nodes_with_the_module_between():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return around(x, self.fc)

    graph = record(Net(), torch.zeros(1, 4))
    assert [node.name for node in graph.nodes if node.kind == "op"] == ["around", "t", "addmm", "around"]
    last = graph.nodes[-2]
    assert [graph.nodes[source.node].module for source in last.inputs] == ["fc", None]
    assert all(source.node < node.id for node in graph.nodes for source in node.inputs)


def test_a_view_that_autograd_makes_of_an_argument_is_no_node():
    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient

    class Net(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(Same.apply(x * 2))

    graph = record(Net(4, 4), torch.zeros(1, 4, requires_grad=True))
    assert list(ops(graph)) == ["Net/mul", "Net/linear"]
    assert reads(graph, "Net/linear") == ["Net/mul"]


def test_a_gradient_taken_within_the_pass_is_one_operation():
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 1)

        def forward(self, position: torch.Tensor) -> torch.Tensor:
            position.requires_grad_()
            energy = self.fc(position).square().sum()
            return -torch.autograd.grad(energy, position, create_graph=True)[0]

    assert list(ops(record(Forces(), torch.zeros(2, 3))))[-2:] == ["Forces/grad", "Forces/neg"]


def test_a_compiled_model_is_recorded_when_it_runs_eagerly():
    model = torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager")
    recorder = GraphRecorder(model)
    recorder.attach()
    with torch.compiler.set_stance("force_eager"):
        model(torch.zeros(1, 4))
    assert list(ops(recorder.graph)) == ["Sequential/0/linear", "Sequential/1/relu"]


def test_an_export_is_not_a_pass():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    recorder = GraphRecorder(model)
    recorder.attach()
    exported = torch.export.export(model, (torch.zeros(1, 4),))
    assert recorder.graph is None
    assert [node.name for node in exported.graph.nodes if node.op == "call_function"] == ["linear", "relu"]
    recorder.detach()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
def test_a_scripted_module_is_seen_by_its_operators_and_a_scripted_root_is_refused():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    graph = record(nn.Sequential(scripted, nn.Linear(4, 4)), torch.zeros(1, 4))
    assert list(ops(graph)) == ["Sequential/t", "Sequential/addmm", "Sequential/relu", "Sequential/1/linear"]
    recorder = GraphRecorder(scripted)
    recorder.attach()
    assert "TorchScript" in str(recorder.error)


def test_a_model_may_call_itself():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, again: bool = True) -> torch.Tensor:
            return self(self.fc(x), again=False) if again else self.fc(x)

    graph = record(Twice(), torch.zeros(1, 4))
    assert list(ops(graph)) == ["Twice/fc/linear", "Twice/Twice/fc/linear"]
