"""Several models of one monitor, each recorded by itself, in one graph."""

from __future__ import annotations

import torch
from graph_models import record
from torch import nn

from torchboard import MemorySink, Monitor
from torchboard.graph.conceptual import conceptual_graph
from torchboard.graph.joined import joined
from torchboard.graph.layer_costs import layer_costs
from torchboard.graph.op_graph import graph_profile, op_graph


def models() -> nn.ModuleDict:
    shared = nn.Linear(3, 3)
    first = nn.Sequential(shared, nn.ReLU())
    return nn.ModuleDict({"first": first, "second": nn.Sequential(nn.Linear(3, 3), shared), "third": nn.Tanh()})


def graph_of(model: nn.ModuleDict) -> object:
    return joined(model, {name: record(part, torch.zeros(2, 3)) for name, part in model.items()})


def test_every_model_is_a_box_and_nothing_is_around_them():
    model = models()
    graph = graph_of(model)
    assert [node.id for node in graph.nodes] == list(range(len(graph.nodes)))
    nodes = {node.name: node for node in op_graph(graph).nodes}
    assert nodes["first/0_Linear/linear"].inputs[-1] == "first_input"
    assert nodes["second/1_Linear/linear"].inputs[-1] == "second/0_Linear/linear"
    assert nodes["third/tanh"].inputs == ("third_input",)
    assert {"first_output", "second_output", "third_output"} <= set(nodes)


def test_costs_lie_one_after_the_other_and_add_up_by_the_names_of_the_whole():
    model = models()
    graph = graph_of(model)
    costs = [node.cost for node in graph.nodes if node.kind == "op"]
    assert all(later.start >= sooner.start + sooner.seconds - 1e-12 for sooner, later in zip(costs, costs[1:]))
    assert len(graph_profile(graph).nodes) == len(costs)
    table = layer_costs(model, graph)
    assert table.total.parameters == sum(weight.numel() for weight in model.parameters())
    assert {layer.name: layer.flops for layer in table.layers} == {
        "first.0": 2 * 36,
        "first.1": 0,
        "second.0": 36,
        "third": 0,
    }


def test_the_layers_of_all_models_are_drawn():
    model = models()
    names = [layer.name for layer in conceptual_graph(model, graph_of(model)).layers]
    assert {"first/0_Linear", "first/1_ReLU", "second/0_Linear", "second/1_Linear", "third"} <= set(names)


def test_models_that_run_later_join_those_that_ran_before():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    sink = MemorySink()
    with Monitor({"a": first, "b": second}, sink=sink, histogram_freq=0) as monitor:
        first(torch.zeros(1, 2))
        monitor.log_epoch()
        assert "b" not in monitor.summary().split("`b`")[0].split("\n")[0]
        second(torch.zeros(1, 2))
        monitor.log_epoch()
        monitor.log_epoch()
        assert "16 FLOPs" in monitor.summary()
    graphs = [{node.name for node in graph.nodes} for _, graph in sink.series("__run_graph__", "train")]
    assert ["a/linear" in names and "a_input" in names for names in graphs] == [True, True]
    assert ["b/linear" in names for names in graphs] == [False, True]
    assert not [hook for model in (first, second) for hook in model._forward_hooks]
