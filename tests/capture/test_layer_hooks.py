"""Hooks go on and off the layers that the options choose, and leave everybody else's alone."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import nn

from torchboard import Capture
from torchboard.capture.layer_hooks import LayerHooks


class Sites:
    """A model with hooks that note the layers that ran."""

    def __init__(self, options: Capture | None = None) -> None:
        self.model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        self.ran: list[str] = []
        self.hooks = LayerHooks(self.model, options or Capture(), self._hook)
        self.made: list[str] = []

    def _hook(self, name: str):
        self.made.append(name)
        return lambda module, args, output: self.ran.append(name)

    def window(self) -> list[str]:
        """The layers that ran in a window."""
        self.ran.clear()
        assert self.hooks.choose()
        self.hooks.put_on()
        self.model(torch.ones(1, 2))
        self.hooks.take_off()
        return [*self.ran]


LAYERS = ["0", "1", "2", "Sequential"]


def test_hooks_run_in_windows_only_and_are_made_once():
    sites = Sites()
    assert sites.window() == LAYERS and sites.window() == LAYERS
    assert sorted(sites.made) == sorted(LAYERS) and not sites.hooks.are_on
    sites.model(torch.ones(1, 2))
    assert sites.ran == LAYERS and not any(layer._forward_hooks for layer in sites.model.modules())


def test_others_hooks_stay_and_run_before_ours():
    sites, order = Sites(), []
    handle = sites.model[1].register_forward_hook(lambda *_: order.append(len(sites.ran)))
    for _ in range(2):
        sites.window()
    late = sites.model[1].register_forward_hook(lambda *_: order.append("late"))
    sites.window()
    assert order == [1, 1, 1, "late"]
    handle.remove()
    late.remove()
    assert sites.window() == LAYERS


def test_whoever_takes_ours_away_does_no_harm():
    sites = Sites()
    assert sites.hooks.choose()
    sites.hooks.put_on()
    sites.model[0]._forward_hooks.clear()
    sites.model(torch.ones(1, 2))
    sites.hooks.take_off()
    assert sites.ran == LAYERS[1:] and sites.window() == LAYERS


def test_layers_that_come_and_go_are_chosen_anew_and_the_others_keep_their_hooks():
    sites = Sites()
    sites.window()
    gone = weakref.ref(sites.model[2])
    sites.model[2] = nn.Linear(3, 4)
    sites.model.append(nn.Tanh())
    gc.collect()
    assert gone() is None, "what is gone is not kept alive"
    assert sites.window() == ["0", "1", "2", "3", "Sequential"]
    assert sorted(sites.made) == sorted([*LAYERS, "3"])


def test_a_layer_that_goes_within_a_window_does_no_harm():
    sites = Sites()
    sites.hooks.choose()
    sites.hooks.put_on()
    sites.model[1] = nn.Identity()
    gc.collect()
    sites.hooks.take_off()
    assert not any(layer._forward_hooks for layer in sites.model.modules())


def test_a_predicate_is_asked_for_every_window():
    wanted = {"0"}
    sites = Sites(Capture(include=lambda name, module: name in wanted))
    assert sites.window() == ["0"]
    wanted.add("2")
    assert sites.window() == ["0", "2"]
    wanted.clear()
    assert not sites.hooks.choose()


def test_compiled_layers_are_left_out_where_they_are_to_be_skipped():
    sites = Sites(Capture(compiled="skip"))
    assert sites.window() == LAYERS
    sites.model[2].compile(backend="eager")
    sites.hooks.choose()
    sites.hooks.put_on()
    assert not sites.model[2]._forward_hooks and sites.model[0]._forward_hooks
    sites.hooks.take_off()
