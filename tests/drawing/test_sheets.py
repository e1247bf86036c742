"""Numbers as pictures: colours, scales and labels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from torchboard.drawing.frame import CARD, framed, numbered
from torchboard.drawing.sheets import Heads, Kernels, Planes, Table, Vector, Volumes
from torchboard.drawing.tiles import Scale, tiles
from torchboard.values.png import MAX_COLORS, with_palette


def is_red(colors):
    return colors[..., 0].astype(int) > colors[..., 2].astype(int) + 50


def is_blue(colors):
    return colors[..., 2].astype(int) > colors[..., 0].astype(int) + 50


def test_white_is_zero_red_is_above_and_blue_below():
    colors = Scale(2.0).paint(np.array([-5.0, -2.0, -0.1, 0.0, 0.1, 2.0, 5.0, np.inf, -np.inf, np.nan]))
    assert is_blue(colors).tolist() == [True, True, False, False, False, False, False, False, True, False]
    assert is_red(colors).tolist() == [False, False, False, False, False, True, True, True, False, False]
    assert (colors[3] > 240).all() and (colors[0] == colors[1]).all() and (colors[5] == colors[7]).all()
    assert colors[9].tolist() == [0, 160, 0]


def test_a_scale_without_signs_begins_at_white():
    colors = Scale(1.0, signed=False).paint(np.array([-1.0, 0.0, 1.0]))
    assert (colors[0] == colors[1]).all() and (colors[1] > 240).all() and is_red(colors)[2]


@pytest.mark.parametrize(
    ("greatest", "limit"), [(0.9, 1.0), (1.0, 1.0), (1.01, 1.5), (2.7, 3.0), (0.0061, 0.007), (8e8, 1e9)]
)
def test_a_scale_ends_at_the_next_round_number_so_that_frames_share_it(greatest, limit):
    assert Scale.of(np.linspace(-greatest, greatest, 50)).limit == pytest.approx(limit)


def test_one_huge_number_does_not_take_the_colour_from_the_others():
    values = np.random.default_rng(0).normal(size=(30, 30))
    values[3, 4] = 1e30
    assert 1.0 < Scale.of(values).limit < 5.0


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf, 3.0e38, 1.7e308, 5e-324])
def test_odd_numbers_are_drawn_without_complaint(value):
    values = np.full((4, 3, 2, 2), value)
    values[0, 0] = 0.0
    sheets = [
        (Planes((4, 3, 4), 4), values.reshape(4, 3, 4)),
        (Volumes((4, 3, 2, 2), (0, 1, 2), 4), values),
        (Kernels((4, 3, 2, 2), (4, 3)), values),
        (Table((12, 4), "rows", "columns"), values.reshape(12, 4)),
        (Heads((4, 6, 2), (1, 1), 4), values.reshape(4, 6, 2)),
        (Vector(48), values.reshape(1, 48)),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sheet, array in sheets:
            picture = sheet.draw(array)
            assert picture.dtype == np.uint8 and picture.ndim == 3


@pytest.mark.parametrize(
    "sheet",
    [
        (Planes((9, 5, 5), 9), (9, 5, 5)),
        (Volumes((4, 3, 6, 6), (0, 1, 2), 4), (4, 3, 6, 6)),
        (Kernels((20, 3, 3, 3), (20, 3)), (20, 3, 3, 3)),
        (Kernels((4, 9, 3, 3), (4, 9)), (4, 9, 3, 3)),
        (Table((40, 60), "rows", "columns"), (40, 60)),
        (Heads((4, 8, 8), (1, 1), 4), (4, 8, 8)),
        (Vector(300), (1, 300)),
    ],
    ids=lambda sheet: type(sheet[0]).__name__,
)
def test_one_great_number_is_one_red_square_and_the_picture_fits_a_palette(sheet):
    drawing, shape = sheet
    values = np.random.default_rng(0).uniform(-0.16, 0.16, shape)
    values[tuple(length // 2 for length in shape)] = 1e9
    picture = drawing.draw(values)
    assert with_palette(picture, MAX_COLORS) is not None
    end = Scale(1.0).paint(np.array([1.0]))[0]
    rows, columns = np.nonzero((picture == end).all(-1))
    below_legend = rows > rows.min() + 20
    rows, columns = rows[below_legend], columns[below_legend]
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert len(rows) == height * width and max(height, width) <= 24


def test_planes_lie_row_by_row_and_what_is_left_is_white():
    planes = np.zeros((5, 2, 2, 3), np.uint8)
    planes[3] = 7
    sheet = tiles(planes, columns=3, zoom=2)
    assert sheet.shape == (10, 16, 3)
    assert (sheet[6:, :4] == 7).all() and (sheet[6:, 12:] == 255).all() and (sheet[:4, 12:] == 0).all()


def test_kernels_have_a_row_for_each_output_and_a_column_for_each_input():
    values = np.zeros((3, 4, 2, 2))
    values[2, 1] = 1.0
    bare = Kernels((3, 4, 2, 2), (3, 4)).draw(values)
    rows, columns = np.nonzero(is_red(bare))
    below = rows > 80
    values[2, 1], values[0, 3] = 0.0, 1.0
    moved = Kernels((3, 4, 2, 2), (3, 4)).draw(values)
    moved_rows, moved_columns = np.nonzero(is_red(moved))
    assert rows[below].min() > moved_rows[moved_rows > 50].min()
    assert columns[below].max() < moved_columns[moved_rows > 50].max()


def test_the_frame_is_white_around_the_picture_and_as_wide_as_the_words_need():
    picture = np.full((40, 20, 3), 9, np.uint8)
    narrow, wide = (framed(picture, [words]) for words in ("a", "a long line of words " * 4))
    assert narrow.shape[1] == CARD < wide.shape[1]
    for sheet in (narrow, wide):
        rows, columns = np.nonzero((sheet == 9).all(-1))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (40, 20)
        assert (sheet[-1] == 255).all() and (sheet[:20] < 128).any()


def test_labels_that_would_touch_are_left_out():
    picture = np.full((100, 200, 3), 9, np.uint8)
    few = framed(picture, ["x"], None, [(50.0, "1")])
    many = framed(picture, ["x"], None, [(50.0, "1"), *((51.0 + place, "1") for place in range(8))])
    assert np.array_equal(few, many)


def test_letters_grow_with_the_picture_since_it_is_shown_smaller():
    small, large = (framed(np.full((10, width, 3), 9, np.uint8), ["words"]) for width in (300, 1000))
    ink = [int((sheet[: len(sheet) - 14] < 128).any(-1).any(1).sum()) for sheet in (small, large)]
    assert ink[1] > 2 * ink[0]


def test_ticks_are_round_numbers_far_enough_from_each_other():
    assert numbered(4, 30.0) == [(15.0, "0"), (45.0, "1"), (75.0, "2"), (105.0, "3")]
    assert [label for _, label in numbered(64, 4.0)] == [str(number) for number in range(0, 64, 5)]
    assert [label for _, label in numbered(500, 1.0, step=99)][:3] == ["0", "2000", "4000"]
    assert [label for _, label in numbered(8, 40.0, step=8)] == ["0", "8", "16", "24", "32", "40", "48", "56"]
