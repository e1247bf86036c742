"""Units that never change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from torchboard import Capture, MemorySink, Monitor
from torchboard.capture.pictures.dead_units import unit_map
from torchboard.capture.recorder import Recorder
from torchboard.errors import InvalidValueError
from torchboard.values import Event


def dead(model, *batches, options=None, forward=None):
    """Tag -> what captured steps of these batches say of the model's units."""
    recorder = Recorder(model, options or Capture())
    recorder.arm(True)
    for batch in batches:
        (forward or model)(batch)
    recorder.arm(False)
    assert recorder.error is None
    return dict(Event(0, 0.0, (), "", tuple(recorder.dead_units.collect())).settled().pairs)


def shares(values):
    return {tag: value.value for tag, value in values.items() if tag.startswith("units_dead/")}


def silenced(layer, *units):
    """A layer whose units of these numbers put out -1 or less, and all others 1 and more, on inputs of no more than 1."""
    nn.init.constant_(layer.weight, 0.01)
    nn.init.constant_(layer.bias, 1.5)
    with torch.no_grad():
        layer.bias[list(units)] = -1.5
    return layer


CASES = [
    (lambda: silenced(nn.Linear(6, 10), 3, 7), (5, 6)),
    (lambda: silenced(nn.Linear(6, 10), 3, 7), (5, 4, 6)),
    (lambda: silenced(nn.Linear(6, 10), 3, 7), (5, 4, 3, 6)),
    (lambda: silenced(nn.Conv1d(2, 10, 3), 3, 7), (5, 2, 9)),
    (lambda: silenced(nn.Conv2d(2, 10, 3), 3, 7), (5, 2, 9, 8)),
    (lambda: silenced(nn.Conv3d(2, 10, 3), 3, 7), (5, 2, 9, 8, 7)),
    (lambda: silenced(nn.ConvTranspose2d(2, 10, 3), 3, 7), (5, 2, 4, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), CASES)
def test_silent_units_are_found_whatever_the_axis_they_lie_on(layer, shape):
    values = dead(nn.Sequential(layer(), nn.ReLU()), torch.rand(shape), torch.rand(shape))
    assert shares(values) == {"units_dead/1": pytest.approx(0.2)}
    description = values["units_dead_map/1"].description
    assert description.startswith("2 of 10 units dead (dark), ") and "values each 3, 7" in description


def test_channels_last_memory_and_other_floats_are_the_same_to_it():
    for dtype in (torch.bfloat16, torch.float64):
        model = nn.Sequential(silenced(nn.Conv2d(2, 10, 3), 3), nn.ReLU(inplace=True)).to(dtype)
        batch = torch.rand(4, 2, 9, 9, dtype=dtype).to(memory_format=torch.channels_last)
        assert shares(dead(model, batch)) == {"units_dead/1": pytest.approx(0.1)}


def test_a_unit_that_spoke_in_one_captured_step_of_the_epoch_is_alive_and_the_next_epoch_begins_anew():
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU())
    nn.init.ones_(model[0].weight)
    loud, silent = torch.tensor([[1.0], [2.0]]), torch.tensor([[-1.0], [-2.0]])
    recorder = Recorder(model, Capture())
    found = []
    for epoch in ((silent, silent), (silent, loud), (silent,)):
        recorder.arm(True)
        for batch in epoch:
            model(batch)
        recorder.arm(False)
        found += [value.value for _, value in recorder.dead_units.collect()[0].settle() if hasattr(value, "value")]
    assert found == [1.0, 0.0, 1.0]
    assert recorder.dead_units.collect() == []


@pytest.mark.parametrize(("activation", "far"), [(nn.Sigmoid(), 200.0), (nn.Tanh(), -200.0), (nn.ReLU6(), 200.0)])
def test_a_saturated_unit_is_as_dead_as_a_silent_one(activation, far):
    model = nn.Sequential(nn.Linear(3, 4), activation)
    nn.init.constant_(model[0].bias, 0.5)
    with torch.no_grad():
        model[0].bias[2] = far
    assert shares(dead(model, torch.rand(20, 3))) == {"units_dead/1": 0.25}


def test_a_reused_activation_has_a_range_for_each_layer_before_it():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = silenced(nn.Linear(4, 8), 1), silenced(nn.Linear(8, 8), 2, 3)
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(self.second(self.relu(self.first(x))))

    values = dead(Net(), torch.rand(5, 4), torch.rand(5, 4))
    assert shares(values) == {"units_dead/relu": 0.125, "units_dead/relu.2": 0.25}
    assert values["units_dead_map/relu.2"].description.endswith("called after second")


def test_what_one_value_alone_says_of_a_unit_is_not_told():
    assert dead(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.rand(1, 2)) == {}


def test_nothing_that_is_not_a_number_makes_a_unit_dead():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    values = dead(model, torch.full((4, 1), float("nan")))
    assert shares(values) == {"units_dead/1": 0.0} and "units_dead_map/1" not in values


class Scaled(nn.Module):
    """What a ReLU sees where linear layers make factors for the channels of a convolution, a row or a plane each."""

    def __init__(self, rank=2):
        super().__init__()
        self.conv = silenced((nn.Conv1d, nn.Conv2d)[rank - 1](2, 10, 1), 3, 7)
        self.factors = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 10), nn.Sigmoid())
        self.relu = nn.ReLU()

    def forward(self, x):
        maps = self.conv(x)
        factors = self.factors(maps.flatten(2).mean(2))
        return self.relu(maps * factors.unflatten(1, (10, *[1] * (maps.ndim - 2))))


class Reshaped(nn.Module):
    """A layer, and a ReLU of its outputs in another shape."""

    def __init__(self, layer, reshape):
        super().__init__()
        self.layer, self.relu, self.reshape = layer, nn.ReLU(), reshape

    def forward(self, x):
        return self.relu(self.reshape(self.layer(x)))


@pytest.mark.parametrize("shape", [(4, 2, 9), (4, 2, 9, 8), (4, 2, 9, 10)])
def test_layers_that_make_factors_for_channels_leave_them_where_they_are(shape):
    model = Scaled(len(shape) - 2)
    assert shares(dead(model, torch.rand(shape), torch.rand(shape)))["units_dead/relu"] == pytest.approx(0.2)


RESHAPED = [
    (lambda: nn.Conv1d(2, 10, 3), lambda y: y.transpose(1, 2), (5, 2, 9)),
    (lambda: nn.Conv2d(2, 10, 3), lambda y: y.flatten(2).transpose(1, 2), (5, 2, 9, 8)),
    (lambda: nn.Conv2d(2, 10, 3), lambda y: y.flatten(2), (5, 2, 9, 8)),
    (lambda: nn.Conv2d(2, 10, 3), lambda y: y.permute(0, 2, 3, 1), (5, 2, 9, 8)),
    (lambda: nn.Linear(6, 10), lambda y: y.permute(0, 3, 1, 2), (5, 4, 3, 6)),
]


@pytest.mark.parametrize(("layer", "reshape", "shape"), RESHAPED)
def test_units_that_were_moved_to_the_other_axis_are_found_by_their_number(layer, reshape, shape):
    model = Reshaped(silenced(layer(), 3, 7), reshape)
    assert shares(dead(model, torch.rand(shape))) == {"units_dead/relu": pytest.approx(0.2)}


@pytest.mark.parametrize(
    ("layer", "shape"), [(lambda: nn.Conv1d(2, 10, 3), (5, 2, 9)), (lambda: nn.Conv2d(2, 10, 3), (5, 2, 9, 8))]
)
def test_a_part_of_the_channels_lies_where_all_of_them_did(layer, shape):
    model = Reshaped(silenced(layer(), 3, 7), lambda y: y.chunk(2, 1)[0])
    assert shares(dead(model, torch.rand(shape))) == {"units_dead/relu": pytest.approx(0.2)}


def test_features_made_into_planes_are_channels_on_axis_1():
    model = Reshaped(nn.Linear(6, 80), lambda y: y.unflatten(1, (10, 4, 2)))
    silenced(model.layer, *range(24, 32), *range(56, 64))
    assert shares(dead(model, torch.rand(5, 6))) == {"units_dead/relu": pytest.approx(0.2)}


@pytest.mark.parametrize(("layer", "shape"), [CASES[1], *CASES[3:]])
@pytest.mark.parametrize("stands_first", ["layer", "relu"])
def test_layers_that_are_not_captured_tell_the_axis_by_where_they_stand(layer, shape, stands_first):
    model = Reshaped(silenced(layer(), 3, 7), lambda y: y)
    if stands_first == "relu":
        model.layer = model._modules.pop("layer")
    values = dead(model, torch.rand(shape), options=Capture(include=nn.ReLU))
    assert shares(values) == {"units_dead/relu": pytest.approx(0.2)}


def test_what_ran_in_one_captured_step_is_not_before_what_runs_in_the_next():
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 3))
    recorder = Recorder(model, Capture())
    for _ in range(2):
        recorder.arm(True)
        model(torch.rand(5, 4))
        recorder.arm(False)
    assert recorder.dead_units.collect()[0].tags == ("0",)


def test_a_recurrent_layer_has_its_features_last_after_a_convolution():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.rnn, self.relu = nn.Conv1d(2, 10, 1), nn.GRU(10, 10, batch_first=True), nn.ReLU()

        def forward(self, x):
            return self.relu(self.rnn(self.conv(x).transpose(1, 2))[0] * torch.tensor([-1.0] * 5 + [1.0] * 5))

    model = Net()
    nn.init.constant_(model.rnn.bias_ih_l0, 5.0)
    for weight in (model.rnn.weight_ih_l0, model.rnn.weight_hh_l0):
        nn.init.zeros_(weight)
    assert shares(dead(model, torch.rand(4, 2, 10)))["units_dead/relu"] >= 0.5


def test_other_layers_are_looked_at_if_named_and_none_if_not_wanted():
    model = nn.Sequential(silenced(nn.Conv2d(1, 4, 1), 0), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    nn.init.zeros_(model[3].weight)
    batch = torch.rand(3, 1, 2, 2)
    assert shares(dead(model, batch, options=Capture(dead_units=["3", nn.Conv2d]))) == {
        "units_dead/0": 0.0,
        "units_dead/3": 1.0,
    }
    by_hand = Capture(dead_units=lambda name, module: name == "1")
    assert shares(dead(model, batch, options=by_hand)) == {"units_dead/1": 0.25}
    for options in (Capture(dead_units=False), Capture(activations=False)):
        assert dead(model, batch, options=options) == {}
    with pytest.raises(InvalidValueError):
        Capture(dead_units=3)


def test_layers_that_are_computed_again_in_the_backward_pass_count_once():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())

    def forward(batch):
        checkpoint(model, batch.requires_grad_(), use_reentrant=False).sum().backward()

    values = dead(model, torch.rand(10, 2), forward=forward, options=Capture(dead_units=nn.Linear))
    assert shares(values) == {"units_dead/0": 0.0}
    recorder = Recorder(model, Capture())
    recorder.arm(True)
    forward(torch.rand(10, 2))
    (seen,) = recorder.dead_units.collect()[0].facts
    recorder.release()
    assert seen.count == 10


def test_the_monitor_writes_shares_each_epoch_of_training_alone_and_a_map_where_units_are_dead():
    sink = MemorySink()
    model = nn.Sequential(silenced(nn.Linear(2, 4), 1), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with Monitor(model, sink=sink, capture=Capture(every=1)) as monitor:
        for _ in range(2):
            for _ in range(3):
                model(torch.rand(8, 2)).sum().backward()
                optimizer.step()
                monitor.log_batch()
            with monitor.phase("validation"):
                model(torch.rand(8, 2))
            monitor.log_epoch()
    assert [(step, value.value) for step, value in sink.series("units_dead/1", "train")] == [(0, 0.25), (1, 0.25)]
    assert [step for step, _ in sink.series("units_dead_map/1", "train")] == [0, 1]
    assert not sink.series("units_dead/1", "validation")


def test_the_map_has_a_dark_square_for_each_dead_unit_in_its_place():
    units = np.zeros(40, bool)
    units[[0, 17, 39]] = True
    none, some = (unit_map(these, ["units"]).astype(int) for these in (np.zeros(40, bool), units))
    rows, columns = np.nonzero((none != some).any(-1))
    side = 20
    squares = {
        ((row - rows.min()) // (side + 1), (column - columns.min()) // (side + 1)) for row, column in zip(rows, columns)
    }
    assert len(rows) == 3 * side * side
    assert squares == {(0, 0), (1, 1), (2, 7)}


@pytest.mark.parametrize("count", [1, 16, 17, 4096, 100_000])
def test_maps_of_any_number_of_units_are_of_a_bounded_size(count):
    picture = unit_map(np.arange(count) % 3 == 0, ["units"])
    assert max(picture.shape) < 600
