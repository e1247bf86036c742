"""Modules and parameters have one name each, whatever the model is wrapped in."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from torchboard.graph.module_names import KnownNames, class_name, module_names, parameter_names, unwrapped


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 1)))


def test_names_are_the_dotted_paths_parents_first():
    net = model()
    assert {name: type(module).__name__ for module, name in module_names(net).items()} == {
        "": "Sequential",
        "0": "Linear",
        "1": "Sequential",
        "1.0": "ReLU",
        "1.1": "Linear",
    }
    assert [name for name, _ in parameter_names(net)] == [name for name, _ in net.named_parameters()]


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        checkpoint_wrapper,
        lambda net: torch.compile(nn.DataParallel(checkpoint_wrapper(net))),
    ],
    ids=["DataParallel", "compile", "checkpoint_wrapper", "all three"],
)
def test_wrappers_leave_no_trace(wrap):
    net = model()
    wrapped = wrap(net)
    assert unwrapped(wrapped) is net
    assert module_names(wrapped) == module_names(net)
    assert [name for name, _ in parameter_names(wrapped)] == [name for name, _ in parameter_names(net)]


def test_a_wrapper_inside_the_model_leaves_no_trace():
    inner = nn.Linear(3, 1)
    net = nn.Sequential(nn.Linear(2, 3), checkpoint_wrapper(inner))
    assert module_names(net)[inner] == "1"


def test_shared_modules_and_parameters_are_listed_once_under_their_first_name():
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    net["c"] = net["a"]
    net["b"].weight = net["a"].weight
    assert list(module_names(net).values()) == ["", "a", "b"]
    assert [name for name, _ in parameter_names(net)] == ["a.weight", "a.bias", "b.bias"]


def test_the_class_name_is_the_one_the_user_wrote():
    linear = nn.Linear(1, 1)
    sharded = type("FSDPLinear", (type("FSDPModule", (), {}), nn.Linear), {})
    assert class_name(linear) == "Linear"
    linear.__class__ = sharded
    assert class_name(linear) == "Linear"


def test_known_names_are_looked_up_anew_where_the_model_has_changed():
    net = model()
    known = KnownNames(net)

    def agree() -> int:
        here, there = known.parameters(), parameter_names(net)
        assert [name for name, _ in here] == [name for name, _ in there]
        assert all(one is other for (_, one), (_, other) in zip(here, there))
        return known.look()

    version = agree()
    assert agree() == version
    net[0].weight.data = torch.ones(3, 2)
    assert agree() == version, "another value is no other parameter"
    changes = [
        lambda: net.append(nn.Linear(1, 1)),
        lambda: setattr(net[0], "weight", nn.Parameter(torch.ones(3, 2))),
        lambda: net[0].register_parameter("scale", nn.Parameter(torch.ones(1))),
        lambda: setattr(net[1][1], "bias", None),
        lambda: net[1].register_module("1", nn.Linear(3, 1)),
        lambda: setattr(net[2], "weight", net[1][1].bias),
        lambda: net.__delitem__(2),
        lambda: nn.utils.parametrizations.weight_norm(net[0]),
        lambda: setattr(net, "_modules", {"only": nn.Linear(1, 2)}),
    ]
    for change in changes:
        change()
        version, before = agree(), version
        assert version == before + 1


def test_known_names_see_what_a_wrapper_holds_and_keep_nothing_alive():
    inner = model()
    wrapped = nn.DataParallel(inner)
    known = KnownNames(wrapped)
    assert [name for name, _ in known.parameters()] == [name for name, _ in inner.named_parameters()]
    wrapped.module = nn.Linear(1, 1)
    assert [name for name, _ in known.parameters()] == ["weight", "bias"]
    reference, weight = weakref.ref(wrapped.module), weakref.ref(wrapped.module.weight)
    wrapped.module = nn.Identity()
    assert reference() is None and weight() is None
    del wrapped
    assert known.parameters() == []
