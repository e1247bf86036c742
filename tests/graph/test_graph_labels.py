"""Where nodes are drawn: in boxes that say what they are, and none that is not needed."""

from __future__ import annotations

import torch
from graph_models import Block, ConvNet, record
from torch import nn

from torchboard.graph.conceptual import conceptual_graph
from torchboard.graph.labels import drawn_names
from torchboard.graph.op_graph import graph_profile, op_graph


def names(model: nn.Module, *args: torch.Tensor, **kwargs: torch.Tensor) -> list[str]:
    return list(drawn_names(record(model, *args, **kwargs)).values())


class Wrapped(nn.Module):
    """A body in a box that holds nothing else, and numbered boxes that do."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Sequential(nn.Sequential(nn.Linear(4, 2)), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.encoder.layer:
            x = layer(x)
        return {"logits": self.head(x)}


def test_numbered_layers_are_called_after_their_class_and_numbered_blocks_are_not():
    found = names(Wrapped(), torch.zeros(1, 3, 4, 4))
    assert "Wrapped/encoder.layer/0/conv1/conv2d" in found
    assert "Wrapped/head/0/0_Linear/weight" in found
    assert "Wrapped/head/1_Dropout" in found


def test_a_box_with_one_operation_in_it_is_that_operation():
    graph = record(Block(), torch.zeros(1, 3, 4, 4))
    nodes = {node.name: node for node in op_graph(graph).nodes}
    assert (nodes["Block/relu"].op, nodes["Block/relu_1"].op) == ("relu", "relu")
    assert nodes["Block/conv2/conv2d"].inputs == ("Block/relu", "Block/conv2/weight")
    assert {"Block/relu", "Block/relu_1"} <= {stats.name for stats in graph_profile(graph).nodes}


def test_the_models_own_box_stays_when_there_is_one_thing_in_it():
    assert names(nn.ReLU(), torch.zeros(1)) == ["input", "ReLU/relu", "output"]


def test_a_box_that_holds_one_box_is_drawn_together_with_it():
    found = names(Wrapped(), torch.zeros(1, 3, 4, 4))
    assert {name.split("/")[1] for name in found if name.startswith("Wrapped/")} == {"encoder.layer", "head"}


def test_named_outputs_have_their_names():
    assert names(Wrapped(), torch.zeros(1, 3, 4, 4))[-1] == "logits"

    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x + 1, x + 2

    assert names(Two(), torch.zeros(1))[-2:] == ["output_0", "output_1"]


def test_a_tensor_given_twice_is_one_input():
    class Language(nn.Module):
        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return input_ids * labels

    x = torch.zeros(3)
    assert names(Language(), x, labels=x) == ["input_ids", "Language/mul", "output"]
    halves = torch.zeros(4).chunk(2)
    assert names(Language(), halves[0], labels=halves[1])[:2] == ["input_ids", "labels"]


def test_the_counter_of_a_batch_norm_is_not_drawn_and_everything_else_is():
    graph = record(ConvNet(), torch.zeros(2, 1, 8, 8))
    undrawn = [graph.nodes[number] for number in range(len(graph.nodes)) if number not in drawn_names(graph)]
    assert [(node.kind, node.name) for node in undrawn] == [("buffer", "num_batches_tracked"), ("op", "add_")]


def test_what_has_nothing_to_do_with_inputs_is_drawn_where_there_is_nothing_else():
    class Made(nn.Module):
        def forward(self) -> None:
            torch.ones(2) * 3

    assert names(Made()) == ["Made/ones", "Made/mul"]

    class Products(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.ones(2, 2) @ torch.ones(2, 2)
            return x + torch.arange(2)

    found = names(Products(), torch.zeros(2))
    assert {"Products/matmul", "Products/ones", "Products/arange", "Products/add"} <= set(found)


def test_layers_of_the_conceptual_graph_are_called_after_their_class_too():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    assert [layer.name for layer in conceptual_graph(model, record(model, torch.zeros(1, 4))).layers] == [
        "input",
        "0_Linear",
        "1_ReLU",
    ]
