"""PNG files: every reader finds the same pixels, and they are about as small as a general encoder makes them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchboard.values.png import MODES, decode_png, encode_png, encode_pngs, with_palette

RANDOM = np.random.default_rng(0)


def noise(*shape):
    return RANDOM.integers(0, 256, shape, np.uint8)


def photograph(height, width, channels):
    """Shades that change slowly, and noise on them."""
    y, x = np.ogrid[:height, :width, :1][:2]
    shades = 128 + 60 * np.sin(x / 40 + np.arange(channels)) + 50 * np.cos(y / 25)
    return (shades + RANDOM.normal(0, 3, (height, width, channels))).astype(np.uint8)


def drawing(height, width, channels):
    """Disks of many colours on white."""
    picture = np.full((height, width, channels), 255, np.uint8)
    y, x = np.ogrid[:height, :width]
    for _ in range(300):
        radius, top, left = RANDOM.integers(2, 30), RANDOM.integers(height), RANDOM.integers(width)
        picture[(y - top) ** 2 + (x - left) ** 2 < radius**2] = noise(channels)
    return picture


def as_pillow_reads(data):
    with PIL.Image.open(io.BytesIO(data)) as picture:
        picture.verify()
    with PIL.Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)


def size_from_pillow(picture):
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(buffer, "PNG")
    return len(buffer.getvalue())


@settings(deadline=None, max_examples=150)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 3, 4]))))
def test_any_small_picture_comes_back_to_the_pixel(picture):
    data = encode_png(picture)
    assert np.array_equal(decode_png(data), picture)
    assert np.array_equal(as_pillow_reads(data).reshape(picture.shape), picture)


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("make", [noise, photograph, drawing], ids=lambda make: make.__name__)
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (33, 65), (3, 70_000), (900, 1300)], ids=str)
def test_every_content_size_and_number_of_channels_comes_back_to_the_pixel(make, size, channels):
    picture = make(*size, channels)
    data = encode_png(picture)
    assert np.array_equal(as_pillow_reads(data).reshape(picture.shape), picture)
    assert np.array_equal(decode_png(data), picture)


@pytest.mark.parametrize("count, size", [(40, (32, 33)), (5, (300, 500)), (2, (1, 1))], ids=str)
@pytest.mark.parametrize("channels", MODES)
def test_pictures_written_together_are_those_written_alone(count, size, channels):
    makes = (noise, photograph, drawing, lambda *shape: np.zeros(shape, np.uint8))
    pictures = np.stack([makes[number % 4](*size, channels) for number in range(count)])
    files = encode_pngs(pictures)
    assert len(files) == count
    assert all(np.array_equal(decode_png(file), picture) for file, picture in zip(files, pictures))


def chunks(data):
    """The chunks of a PNG file in order, their checksums verified."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found, offset = [], 8
    while offset < len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        body = data[offset + 8 : offset + 8 + length]
        assert struct.unpack_from(">I", data, offset + 8 + length)[0] == zlib.crc32(kind + body)
        found.append((kind, body))
        offset += 12 + length
    return found


def unfiltered(data, height, step):
    """The bytes of each row, by the letter of the PNG specification, section 9."""
    lines = np.frombuffer(data, np.uint8).reshape(height, -1).astype(int)
    rows = [[0] * (lines.shape[1] - 1)]
    for kind, *line in lines.tolist():
        row, above = [], rows[-1]
        for position, rest in enumerate(line):
            left, corner = (row[position - step], above[position - step]) if position >= step else (0, 0)
            up = above[position]
            near = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
            row.append((rest + (0, left, up, (left + up) // 2, near)[kind]) % 256)
        rows.append(row)
    return np.array(rows[1:], np.uint8)


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("make", [noise, photograph, drawing], ids=lambda make: make.__name__)
def test_a_file_keeps_to_the_specification(make, channels):
    picture = make(50, 64, channels)
    (first, header), *others, (last, rest) = chunks(encode_png(picture))
    assert (first, last, rest) == (b"IHDR", b"IEND", b"")
    width, height, depth, color_type, *methods = struct.unpack(">IIBBBBB", header)
    assert (width, height, depth, methods) == (64, 50, 8, [0, 0, 0])
    data = zlib.decompress(dict(others)[b"IDAT"])
    if color_type == 3:
        palette = np.frombuffer(dict(others)[b"PLTE"], np.uint8).reshape(-1, 3)
        assert channels == 3 and np.array_equal(palette[unfiltered(data, 50, 1)], picture)
    else:
        assert color_type == {1: 0, 2: 4, 3: 2, 4: 6}[channels]
        assert np.array_equal(unfiltered(data, 50, channels).reshape(picture.shape), picture)


def wheel(height, width, channels):
    """Every shade once, side by side: what a search for repetitions is for."""
    y, x = np.ogrid[:height, :width, :1][:2]
    angle = np.arctan2(y - height / 2, x - width / 2) + np.arange(channels) * 2
    return (127.5 * (1 + np.cos(angle))).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("make", [noise, photograph, drawing, wheel], ids=lambda make: make.__name__)
@pytest.mark.parametrize("size", [(32, 32), (256, 320)], ids=str)
def test_a_file_is_as_small_as_that_of_a_general_encoder(size, make, channels):
    picture = make(*size, channels)
    assert len(encode_png(picture)) < 1.01 * size_from_pillow(picture) + 12


def ramp(height, width, channels):
    """Shades from left to right: few colours, of which each row is the same."""
    return np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (height, width, channels))


def one_color(height, width, channels):
    return np.full((height, width, channels), 77, np.uint8)


def squares(height, width, channels):
    return noise(4, 4, channels).repeat(height // 4, 0).repeat(width // 4, 1)


def strokes(height, width, channels):
    """A bright line on black, with soft edges."""
    y, x = np.ogrid[:height, :width, :1][:2]
    return np.broadcast_to(np.clip(2 - abs(0.6 * x - 0.8 * y), 0, 1) * 255, (height, width, channels)).astype(np.uint8)


SMALL = (noise, photograph, ramp, one_color, squares, strokes)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", SMALL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("side", [8, 16, 28, 32, 64])
def test_a_small_picture_takes_no_more_than_that_of_a_general_encoder(side, make, channels):
    picture = np.ascontiguousarray(make(side, side, channels))
    data = encode_png(picture)
    assert len(data) <= size_from_pillow(picture)
    assert np.array_equal(decode_png(data), picture)


def plot(draw):
    """uint8[480, 640, 3]: what matplotlib draws."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    draw(figure, figure.subplots())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[:, :, :3]


RANDOM_WALK = np.random.default_rng(0).normal(size=300).cumsum()
POINTS = np.random.default_rng(0).normal(size=(3, 500))
PLOTS = {
    "lines": lambda figure, axes: axes.plot(RANDOM_WALK),
    "bars": lambda figure, axes: axes.bar(range(12), RANDOM_WALK[:12] ** 2, color=[f"C{index}" for index in range(12)]),
    "histogram": lambda figure, axes: axes.hist(POINTS[0], 50),
    "points": lambda figure, axes: figure.colorbar(axes.scatter(*POINTS[:2], c=POINTS[2], alpha=0.6)),
    "matrix": lambda figure, axes: figure.colorbar(axes.imshow(POINTS[:, :300].reshape(30, 30))),
    "photograph": lambda figure, axes: axes.imshow(photograph(300, 400, 3)),
}


@pytest.mark.parametrize("kind", PLOTS)
def test_a_plot_takes_no_more_than_that_of_a_general_encoder(kind):
    picture = plot(PLOTS[kind])
    data = encode_png(picture)
    assert len(data) <= size_from_pillow(picture)
    assert np.array_equal(decode_png(data), picture)


def test_rows_of_a_drawing_that_the_row_above_tells_little_of_are_stored_as_they_are():
    picture = drawing(200, 300, 4)
    picture[:50], picture[50:100] = 255, 90
    filters = zlib.decompress(dict(chunks(encode_png(picture)))[b"IDAT"])[:: 1 + 4 * 300]
    assert (filters[0], filters[50]) == (0, 0) and set(filters[1:50] + filters[51:100]) == {2}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_photograph_between_rows_that_are_all_the_same_takes_no_more_than_that_of_a_general_encoder(channels):
    picture = np.zeros((400, 300, channels), np.uint8)
    picture[100:250] = photograph(150, 300, channels)
    data = encode_png(picture)
    assert len(data) <= size_from_pillow(picture)
    assert np.array_equal(decode_png(data), picture)


def test_of_small_pictures_written_together_each_has_what_suits_it():
    pictures = np.stack([photograph(32, 32, 3) // divisor for divisor in (1, 2, 4, 8) for _ in range(8)])
    pictures[::8] = np.where(noise(4, 32, 32, 3) < 20, noise(4, 32, 32, 3), 128)  # specks: guesses make two of each
    together = np.array([len(file) for file in encode_pngs(pictures)])
    alone = np.array([len(encode_png(picture)) for picture in pictures])  # in every way
    more = (together - alone).reshape(4, 8)
    assert more[:, 0].max() < 150 and more[:, 1:].mean() < 3


@pytest.mark.parametrize("side", [200, 400])
def test_a_picture_of_few_colors_is_stored_as_indices(side):
    levels = (photograph(side, side, 1)[:, :, 0] // 4).astype(np.uint8)
    colors = noise(64, 3)
    data = encode_png(colors[levels])
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "P"
    assert np.array_equal(decode_png(data), colors[levels])
    assert len(data) < 0.8 * size_from_pillow(colors[levels])


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257])
def test_a_palette_holds_each_color_once_from_dark_to_bright(count):
    numbers = np.arange(count) * 65_521 % (1 << 24)
    colors = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=-1).astype(np.uint8)
    pixels = colors[RANDOM.permutation(np.arange(60 * 50) % count).reshape(60, 50)]
    found = with_palette(pixels)
    if count > 256:
        assert found is None
        return
    palette, index = found
    assert np.array_equal(palette[index], pixels) and len(np.unique(palette, axis=0)) == len(palette) == count
    assert (np.diff(palette @ np.array([299, 587, 114])) >= 0).all()


def test_other_forms_of_files_are_read():
    picture = PIL.Image.fromarray(noise(5, 6, 3)).convert("P")
    for extra, channels in (({}, 3), ({"transparency": 0}, 4)):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", **extra)
        assert decode_png(buffer.getvalue()).shape == (5, 6, channels)
