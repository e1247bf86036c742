"""Weights as pictures."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from torchboard import MemorySink, Monitor
from torchboard.capture.weight_images import WeightImages, scale_of, shown, weight_picture
from torchboard.values import Event


class Zoo(nn.Module):
    """Weights of every number of axes."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv1d(3, 5, 4)
        self.two = nn.Conv2d(3, 8, 3)
        self.grey = nn.Conv2d(1, 9, 3)
        self.three = nn.Conv3d(2, 4, (2, 3, 3))
        self.line = nn.Linear(6, 10)
        self.words = nn.Embedding(20, 7)
        self.half = nn.Linear(2, 2, bias=False, dtype=torch.bfloat16)
        self.number = nn.Parameter(torch.tensor(1.0))
        self.none = nn.Parameter(torch.zeros(0, 3))


def pictures(model):
    return dict(Event(0, 0.0, (), "", tuple(WeightImages(model).collect())).settled().pairs)


def is_red(pixel):
    return int(pixel[0]) > int(pixel[2]) + 50


def is_blue(pixel):
    return int(pixel[2]) > int(pixel[0]) + 50


def test_weights_of_every_number_of_axes_are_drawn_and_all_that_can_be():
    drawn = pictures(Zoo())
    assert set(drawn) == {
        *(f"weights/{name}/{part}" for name in ("one", "two", "grey", "three", "line") for part in ("weight", "bias")),
        "weights/words/weight",
        "weights/half/weight",
    }
    assert all(image.pixels.shape[3] == 3 and image.pixels.shape[0] == 1 for image in drawn.values())


@pytest.mark.parametrize(
    ("shape", "place"),
    [((4, 6), (1, 2)), ((3, 2, 5, 5), (2, 1, 4, 0)), ((9, 1, 3, 3), (4, 0, 2, 2)), ((5, 3, 4), (3, 2, 3))],
)
def test_one_positive_number_is_the_one_red_place_and_a_negative_one_the_blue(shape, place):
    for sign, is_hue, is_other in ((1.0, is_red, is_blue), (-1.0, is_blue, is_red)):
        weight = torch.zeros(shape)
        weight[place] = sign
        picture = weight_picture(shown(weight).numpy(), 1.0)
        hues = np.apply_along_axis(is_hue, 2, picture)
        rows, columns = np.nonzero(hues)
        side = rows.max() - rows.min() + 1
        assert hues.sum() == side * side and columns.max() - columns.min() + 1 == side
        assert not np.apply_along_axis(is_other, 2, picture).any()
        row, column = rows.min() // side, columns.min() // side
        if len(shape) == 2:
            assert (row, column) == place


def test_kernels_have_a_row_for_each_output_and_a_column_for_each_input():
    weight = torch.zeros(3, 2, 2, 2)
    weight[2, 1] = 1.0
    picture = weight_picture(shown(weight).numpy(), 1.0)
    rows, columns = np.nonzero(np.apply_along_axis(is_red, 2, picture))
    height, width = (picture.shape[0] + 2) // 3, (picture.shape[1] + 2) // 2
    assert {(row // height, column // width) for row, column in zip(rows, columns)} == {(2, 1)}


def test_a_vector_is_a_strip_that_is_broken_where_it_is_long():
    short = weight_picture(shown(torch.tensor([-1.0, 0.0, 1.0])).numpy(), 1.0)
    assert short.shape == (8, 24, 3)
    assert is_blue(short[0, 0]) and is_red(short[7, 23])
    long = weight_picture(shown(torch.ones(1025)).numpy(), 1.0)
    assert long.shape == (24, 342, 3)
    assert is_red(long[-1, -2]) and (long[-1, -1] == 255).all()


def test_one_huge_number_does_not_take_the_colour_from_the_others():
    weight = np.random.default_rng(0).normal(size=(30, 30))
    weight[3, 4] = 1e30
    assert 1.0 < scale_of(weight) < 5.0
    picture = weight_picture(weight, scale_of(weight))
    assert np.apply_along_axis(is_blue, 2, picture).mean() > 0.1


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -float("inf"), 3.0e38, 5e-324])
def test_odd_numbers_are_drawn_without_complaint(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = np.full((2, 3), value)
        part[0, 0] = 0.0
        picture = weight_picture(part, scale_of(part))
    if value != value:
        assert tuple(picture[-1, -1]) == (0, 160, 0)


def test_large_weights_are_cut_on_their_device_and_the_caption_says_so():
    (snapshot,) = WeightImages(nn.Linear(3000, 2000, bias=False)).collect()
    assert snapshot.nbytes == 512 * 512 * 4
    ((_, image),) = snapshot.settle()
    assert image.pixels.shape == (1, 512, 512, 3)
    assert image.description.startswith("2000 x 3000, the first 512 x 512 of it, from -")
    assert shown(torch.zeros(100, 100, 2, 3, 3)).shape == (64, 64, 3, 3)


def test_a_picture_shows_the_weights_as_they_were_when_collected():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    (snapshot,) = WeightImages(layer).collect()
    with torch.no_grad():
        layer.weight.fill_(-1.0)
    ((tag, image),) = snapshot.settle()
    assert tag == "weights/weight" and is_red(image.pixels[0, 0, 0])


@pytest.mark.parametrize("asked", [True, False])
def test_the_monitor_writes_them_in_epochs_of_histograms_if_asked(asked):
    sink = MemorySink()
    model = nn.Sequential(nn.Conv2d(2, 5, 3))
    with Monitor(model, sink=sink, write_images=asked, histogram_freq=2) as monitor:
        for _ in range(3):
            monitor.log_epoch(loss=1.0)
    steps = [step for step, _ in sink.series("weights/0/weight", "train")]
    assert steps == ([0, 2] if asked else [])
