"""Weights as pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, init_device_mesh

from torchboard import MemorySink, Monitor
from torchboard.capture.pictures.weight_images import WeightImages, shown
from torchboard.drawing.sheets import Kernels, Planes, Table, Vector
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


def test_weights_of_every_number_of_axes_are_drawn_and_all_that_can_be():
    drawn = {tag.removeprefix("weights/"): image.description for tag, image in pictures(Zoo()).items()}
    assert drawn == {
        "one/weight": "5 outputs, 3 x 4",
        "one/bias": "5 numbers, row by row",
        "two/weight": "8 outputs, 3 inputs; kernels of 3 x 3, those of an output side by side",
        "two/bias": "8 numbers, row by row",
        "grey/weight": "9 outputs, 3 x 3",
        "grey/bias": "9 numbers, row by row",
        "three/weight": "4 outputs, 4 slices (2 of an input); kernels of 3 x 3, those of an output side by side",
        "three/bias": "4 numbers, row by row",
        "line/weight": "10 rows (down) x 6 columns (across)",
        "line/bias": "10 numbers, row by row",
        "words/weight": "20 rows (down) x 7 columns (across)",
        "half/weight": "2 rows (down) x 2 columns (across)",
    }


def test_kernels_of_transposed_and_grouped_convolutions_are_labelled_as_what_they_are():
    layers = {
        "up": nn.ConvTranspose2d(16, 3, 4),
        "groups": nn.Conv2d(64, 16, 3, groups=4),
        "up_groups": nn.ConvTranspose2d(8, 12, 3, groups=4),
        "up_line": nn.ConvTranspose1d(8, 4, 3),
        "up_one": nn.ConvTranspose2d(16, 1, 3),
        "one": nn.Conv2d(16, 1, 3),
        "deep": nn.Conv3d(8, 6, (2, 3, 3), groups=2),
        "norm": nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(16, 3, 4)),
    }
    side = "those of an output side by side"
    drawn = {tag.removeprefix("weights/"): image.description for tag, image in pictures(nn.ModuleDict(layers)).items()}
    assert {name: said for name, said in drawn.items() if not name.endswith("bias")} == {
        "up/weight": f"3 outputs, 16 inputs; kernels of 4 x 4, {side}",
        "groups/weight": f"16 outputs, 16 inputs each, of 64; kernels of 3 x 3, {side}",
        "up_groups/weight": f"12 outputs, 2 inputs each, of 8; kernels of 3 x 3, {side}",
        "up_line/weight": "4 outputs, 8 x 3",
        "up_one/weight": "16 inputs, 3 x 3",
        "one/weight": "16 inputs, 3 x 3",
        "deep/weight": f"6 outputs, 8 slices (2 of an input) each, of 8 inputs; kernels of 3 x 3, {side}",
        "norm/parametrizations/weight/original0": "16 inputs, 1 x 1",
        "norm/parametrizations/weight/original1": f"3 outputs, 16 inputs; kernels of 4 x 4, {side}",
    }


def test_the_kernels_of_a_transposed_convolution_are_turned_group_by_group():
    layer = nn.ConvTranspose1d(4, 6, 1, groups=2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(12.0).reshape(4, 3, 1))
    _, part = shown(layer.weight.detach(), layer=layer)
    for at in range(6):
        assert part[at, :, 0].tolist() == [layer.weight[at // 3 * 2 + place, at % 3] for place in range(2)]
    outputs = layer(torch.eye(4)[None])[0].detach()
    assert torch.equal(part[4, :, 0], outputs[4, 2:]), "what output 4 makes of inputs 2 and 3"


@pytest.mark.parametrize(
    ("shape", "kind", "kept"),
    [
        ((70_000,), Vector, (1, 65_536)),
        ((4, 6), Table, (4, 6)),
        ((2000, 700), Table, (500, 350)),
        ((1, 4, 6), Table, (4, 6)),
        ((100, 3, 5), Planes, (64, 3, 5)),
        ((9, 1, 3, 3), Planes, (9, 3, 3)),
        ((100, 90, 3, 3), Kernels, (64, 64, 3, 3)),
        ((100, 3, 2, 3, 3), Kernels, (64, 6, 3, 3)),
    ],
)
def test_what_is_copied_is_bounded_whatever_the_shape(shape, kind, kept):
    sheet, part = shown(torch.zeros(shape))
    assert type(sheet) is kind and part.shape == kept


def test_of_a_large_matrix_numbers_from_all_over_it_are_drawn_and_the_picture_says_which():
    matrix = torch.arange(2000.0)[:, None] * 10_000 + torch.arange(700)
    sheet, part = shown(matrix)
    assert part[3, 5] == 4 * 3 * 10_000 + 2 * 5 and part[-1, -1] == 1996 * 10_000 + 698
    assert sheet.heading == [
        "2000 rows (down) x 700 columns (across)",
        "every 4th of the rows, every 2nd of the columns",
    ]


def test_slices_of_a_volume_kernel_stand_beside_each_other_for_each_input():
    weight = torch.zeros(2, 3, 4, 5, 5)
    weight[1, 2, 1] = 1.0
    _, part = shown(weight)
    assert part.shape == (2, 12, 5, 5) and part.abs().sum((2, 3)).nonzero().tolist() == [[1, 2 * 4 + 1]]


def test_of_very_many_parameters_vectors_are_left_out_first_and_a_text_says_so_once():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(200)))
    images = WeightImages(model)
    snapshot, text = images.collect()
    assert len(snapshot.tags) == 200 and all(tag.endswith("/weight") for tag in snapshot.tags)
    ((tag, value),) = text.settle()
    assert tag == "monitor/left_out/weights" and "200 of 400" in value.markdown
    assert len(images.collect()) == 1


def test_where_there_are_many_pictures_large_matrices_are_drawn_smaller():
    few, many = (nn.Sequential(*(nn.Linear(512, 1) for _ in range(count)), nn.Linear(512, 512)) for count in (2, 60))
    sizes = [WeightImages(model).collect()[0].copy.wait()[-2].shape for model in (few, many)]
    assert sizes == [(512, 512), (256, 256)]


def test_a_picture_shows_the_weights_as_they_were_when_collected():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    (snapshot,) = WeightImages(layer).collect()
    with torch.no_grad():
        layer.weight.fill_(-1.0)
    assert snapshot.copy.wait()[0].tolist() == [[1.0]]


def test_sharded_weights_are_left_out_and_named(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        model = nn.Linear(2, 3)
        mesh = init_device_mesh("cpu", (1,))
        model.weight = nn.Parameter(DTensor.from_local(model.weight.detach(), mesh))
        drawn = pictures(model)
    finally:
        torch.distributed.destroy_process_group()
    assert set(drawn) == {"weights/bias", "monitor/left_out/weights"}
    assert "`weight`" in drawn["monitor/left_out/weights"].markdown


@pytest.mark.parametrize("asked", [True, False])
def test_the_monitor_writes_them_in_epochs_of_histograms_if_asked(asked):
    sink = MemorySink()
    model = nn.Sequential(nn.Conv2d(2, 5, 3))
    with Monitor(model, sink=sink, write_images=asked, histogram_freq=2) as monitor:
        for _ in range(3):
            monitor.log_epoch(loss=1.0)
    steps = [step for step, _ in sink.series("weights/0/weight", "train")]
    assert steps == ([0, 2] if asked else [])


def test_every_picture_has_room_for_its_words():
    for tag, image in pictures(Zoo()).items():
        picture = image.pixels[0]
        assert (picture[:, -2:] == 255).all() and (picture[-2:] == 255).all(), tag
        assert np.ptp(picture) > 200, tag
