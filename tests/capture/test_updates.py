"""Updates are read from samples that are small, even and always the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from torchboard.capture.sketches import Sketches
from torchboard.capture.updates import SAMPLE, Updates, sample
from torchboard.sketch import layout


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))


def changed(weight: nn.Parameter, step) -> torch.Tensor | None:
    """What is said of a step that changes one parameter."""
    updates = Updates()
    updates.note([("weight", weight)])
    with torch.no_grad():
        step(weight)
    changes = taken(updates)
    assert taken(updates) == {}
    return changes.get("weight")


def taken(updates: Updates) -> dict[str, torch.Tensor]:
    """The changes, those too that compiled code folds: where they lie is looked up, and what the sketch says of them."""
    parameters, compiled = updates._on_host or ([], None)
    sketches = Sketches()
    found = dict(updates.take(sketches, tuple))
    (rows,) = sketches.collect() or (None,)
    tags, moments = (rows.tags, rows.moments()[0]) if rows else ((), ())
    for place, (name, weight) in enumerate(parameters):
        if name in tags and moments[tags.index(name)][layout.COUNT]:
            kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
            values = torch.frombuffer(bytearray(compiled.values(place)), dtype=kind)
            assert moments[tags.index(name)][layout.MAX] == values.max()
            assert moments[tags.index(name)][layout.COUNT] == values.numel()
            found[name] = values.view(weight.shape) if values.numel() == weight.numel() else values
    return found


def test_a_small_parameter_is_read_whole():
    weight, step = parameter(64, 64), torch.randn(64, 64)
    assert torch.allclose(changed(weight, lambda weight: weight.add_(step)), step, atol=1e-6)
    assert sample(parameter(256, 256)).numel() == SAMPLE


@pytest.mark.parametrize("shape", [(2048, 1024), (4096, 1536), (1000, 2048), (512, 512, 3, 3), (50_257, 32)], ids=str)
def test_a_large_one_is_sampled_alike_in_all_rows_and_columns(shape):
    numbers = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
    taken = sample(nn.Parameter(numbers)).long()
    assert SAMPLE / 3 < taken.numel() <= SAMPLE and taken.unique().numel() == taken.numel()
    for axis, size in enumerate(shape):
        per_index = (taken // math.prod(shape[axis + 1 :]) % size).bincount(minlength=size)
        even = taken.numel() / size
        assert per_index.max() <= 1.1 * even + 2 and per_index.min() >= 0.9 * even - 2, axis


def test_the_sample_is_the_same_at_every_step_and_draws_no_random_number():
    weight = parameter(2048, 300)
    state = torch.get_rng_state()
    first = sample(weight)
    assert torch.equal(first, sample(weight)) and torch.equal(state, torch.get_rng_state())
    whole = weight.detach().square().mean().sqrt()
    assert first.square().mean().sqrt() == pytest.approx(whole.item(), rel=0.02)


@pytest.mark.parametrize(
    "laid",
    [
        lambda weight: weight,
        lambda weight: weight.to(memory_format=torch.channels_last),
        lambda weight: weight.transpose(0, 1),
    ],
    ids=["contiguous", "channels last", "transposed"],
)
def test_no_more_is_copied_than_the_sample_whatever_the_layout(laid):
    weight = nn.Parameter(laid(parameter(256, 128, 3, 3).detach()))
    values = sample(weight)
    assert values.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr() and values.numel() <= SAMPLE


def test_a_parameter_with_holes_is_sampled_too():
    weight = nn.Parameter(parameter(1000, 400).detach()[:, ::2])
    assert set(sample(weight).tolist()) <= set(weight.flatten().tolist()) and 3 * sample(weight).numel() > SAMPLE


def test_what_is_held_during_a_step_is_bounded():
    updates = Updates()
    updates.note([(str(number), parameter(2048, 512)) for number in range(3)])
    held = [before.untyped_storage().nbytes() for *_, before in updates._before]
    held += [len(updates._on_host[1].values(number)) for number in range(3)] if updates._on_host else []
    assert len(held) == 3 and all(0 < size <= 4 * SAMPLE for size in held)


def test_an_optimizer_that_gives_a_parameter_new_data_is_seen():
    def step(weight):
        weight.data = weight.data - 0.5

    assert changed(parameter(4, 4), step).allclose(torch.tensor(-0.5))


def test_parameters_with_holes_and_new_data_are_read_together_with_the_others():
    weights = {
        "plain": parameter(4, 4),
        "holes": nn.Parameter(parameter(1000, 400).detach()[:, ::2]),
        "large": parameter(2048, 512),
        "new data": parameter(5),
        "other type": parameter(3).requires_grad_(),
    }
    updates = Updates()
    updates.note([*weights.items()])
    with torch.no_grad():
        for name in ("plain", "holes", "large"):
            weights[name].add_(0.25)
        weights["new data"].data = weights["new data"].data + 0.25
        weights["other type"].data = weights["other type"].data.double()
    changes = taken(updates)
    assert set(changes) == {"plain", "holes", "large", "new data"}
    assert all(torch.allclose(change, torch.tensor(0.25), atol=1e-6) for change in changes.values())


def test_a_parameter_that_was_replaced_by_another_is_left_out():
    def step(weight):
        weight.data = torch.zeros(2, 2)

    assert changed(parameter(4, 4), step) is None
    assert changed(nn.Parameter(torch.zeros(3, device="meta")), lambda weight: None) is None
