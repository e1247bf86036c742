"""Pictures: any dtype and layout in, the same pixels out."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchboard.errors import InvalidValueError
from torchboard.values import Event, Image, encode
from torchboard.values.image import grid, to_levels, to_pixels

PICTURES = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 3, 4]))
)


def wire(value):
    (message,) = encode(Event(0, 1.0, (("image", value),)))
    return type(message).FromString(message.SerializeToString()).summary.value[0]


@given(PICTURES)
def test_pictures_come_back_to_the_pixel(pixels):
    back = Image.decode(wire(Image(pixels, "about"))).pixels
    assert back.shape == pixels.shape and (back == pixels).all()


def png_size(data):
    """Width and height, from the header of a PNG file."""
    return struct.unpack(">II", data[16:24])


def test_the_wire_form_is_width_height_and_one_png_a_picture():
    message = wire(Image(np.zeros((2, 5, 7, 3), np.uint8)))
    width, height, *pictures = message.tensor.string_val
    assert (width, height, [png_size(picture) for picture in pictures]) == (b"7", b"5", [(7, 5)] * 2)
    assert [dim.size for dim in message.tensor.tensor_shape.dim] == [4]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[-1.0, 0.5, 2.0, np.nan]]), [0, 127, 255, 0]),
        (np.array([[0.0, 0.5, 1.0, np.inf]], np.float16), [0, 127, 255, 255]),
        (np.array([[0, 1, 128, 255]], np.int64), [0, 1, 128, 255]),
        (np.array([[-5, 300, 7, 0]], np.int32), [0, 255, 7, 0]),
        (np.array([[0, 9, 65535, 255]], np.uint16), [0, 9, 255, 255]),
        (np.array([[True, False, True, True]]), [255, 0, 255, 255]),
    ],
    ids=["float64", "float16", "int64", "int32", "uint16", "bool"],
)
def test_numbers_of_any_type_become_the_pixels_one_means(array, expected):
    assert to_pixels(array, "HW").reshape(-1).tolist() == expected


STRANGE = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "negative": -0.5, "above": 1.5, "-0": -0.0, "within": 0.3}


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_one_strange_number_in_a_large_picture_changes_its_own_pixel_only(strange, layout):
    array = (
        np.random.default_rng(0)
        .random((400, 300, 3), np.float32)
        .transpose([2, 0, 1] if layout == "CHW" else [0, 1, 2])
    )
    array[1, 200, 2] = strange
    expected = (np.clip(np.where(np.isnan(array), 0, array), 0, 1) * np.float32(255)).astype(np.uint8)
    whole = np.ascontiguousarray(array)
    assert np.array_equal(to_levels(array), expected) and np.array_equal(to_levels(whole), expected)
    assert np.array_equal(to_pixels(whole, layout)[0], expected.transpose(1, 2, 0) if layout == "CHW" else expected)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "CHW", "HWC", "HW", "NHW", "WH"])
def test_every_layout_ends_as_nhwc(layout):
    sizes = {"N": 2, "C": 3, "H": 4, "W": 5}
    array = np.random.default_rng(0).integers(0, 255, [sizes[axis] for axis in layout], np.uint8)
    full = to_pixels(array, layout)
    assert full.shape == tuple(sizes[axis] if axis in layout else 1 for axis in "NHWC")
    index = {"N": 1, "C": 2, "H": 3, "W": 4}
    at = tuple(index[axis] for axis in layout)
    assert full[tuple(index[axis] if axis in layout else 0 for axis in "NHWC")] == array[at]


def test_pixels_do_not_share_memory_with_what_they_were_made_of():
    array = np.zeros((1, 2, 2, 3), np.uint8)
    pixels = to_pixels(array, "NHWC")
    array[:] = 9
    assert not pixels.any()


@pytest.mark.parametrize(
    ("array", "layout"),
    [(np.zeros((4, 4)), "CHW"), (np.zeros((4, 4, 4)), "HHW"), (np.zeros((2, 2)), "XY"), (np.array([["a"]]), "HW")],
)
def test_what_makes_no_picture_is_refused_with_a_remedy(array, layout):
    with pytest.raises(InvalidValueError, match="; "):
        to_pixels(array, layout)


@pytest.mark.parametrize("shape", [(1, 4, 4, 5), (1, 0, 4, 3), (0, 4, 4, 3), (4, 4, 3)])
def test_an_image_of_impossible_shape_is_refused(shape):
    with pytest.raises(InvalidValueError, match="; "):
        Image(np.zeros(shape, np.uint8))


def test_a_grid_puts_pictures_row_by_row_with_a_gap_between():
    pictures = np.stack([np.full((2, 3, 1), level, np.uint8) for level in (10, 20, 30)])
    sheet = grid(pictures, columns=2, gap=1, fill=0)
    assert sheet[:, :, 0].tolist() == [
        [10, 10, 10, 0, 20, 20, 20],
        [10, 10, 10, 0, 20, 20, 20],
        [0, 0, 0, 0, 0, 0, 0],
        [30, 30, 30, 0, 0, 0, 0],
        [30, 30, 30, 0, 0, 0, 0],
    ]
