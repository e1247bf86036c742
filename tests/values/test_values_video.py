"""Videos: animations that an image viewer plays, with the frames and the time that were given."""

from __future__ import annotations

import io
import math

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values import Event, Image, Video, encode
from torchboard.values.video import to_frames


def videos(channels):
    sizes = st.tuples(st.integers(1, 2), st.integers(2, 4), st.integers(1, 6), st.integers(1, 6), channels)
    return sizes.flatmap(lambda size: hnp.arrays(np.uint8, size)).filter(moves)


def moves(frames):
    """Whether every frame differs from the one before: equal ones are stored as one."""
    return all((one[:-1] != one[1:]).any(axis=(1, 2, 3)).all() for one in frames)


def rgba(frames):
    """Frames as they look: grey as RGB, and opaque where there is no alpha."""
    color = frames[..., : 3 if frames.shape[-1] > 2 else 1]
    alpha = frames[..., -1:] if frames.shape[-1] in (2, 4) else np.full_like(frames[..., :1], 255)
    return np.concatenate([np.broadcast_to(color, (*frames.shape[:-1], 3)), alpha], axis=-1)


def wire(value):
    (message,) = encode(Event(0, 1.0, (("video", value),)))
    return message.SerializeToString()


def back_of(value):
    return Video.decode(proto.Event.FromString(wire(value)).summary.value[0])


@settings(deadline=None, max_examples=40)
@given(videos(st.sampled_from([1, 2, 3, 4])), st.sampled_from([1, 4, 20, 50]))
def test_a_lossless_video_comes_back_to_the_pixel(frames, fps):
    back = back_of(Video(frames, fps, lossless=True, description="about"))
    assert np.array_equal(back.frames, rgba(frames))
    assert (round(back.fps, 6), back.lossless, back.description) == (fps, True, "about")


@settings(deadline=None, max_examples=40)
@given(videos(st.sampled_from([1, 2, 4])), st.sampled_from([1, 4, 20, 50]))
def test_grey_and_transparent_frames_are_kept_exactly_without_asking(frames, fps):
    back = back_of(Video(frames, fps))
    assert np.array_equal(back.frames, rgba(frames)) and round(back.fps, 6) == fps
    assert back.lossless == (frames.shape[-1] in (2, 4))


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 256), st.integers(0, 1000))
def test_up_to_256_colors_are_kept_exactly_however_close_they_are(count, seed):
    random = np.random.default_rng(seed)
    palette = random.integers(100, 116, (count, 3), np.uint8)
    frames = palette[random.integers(0, count, (1, 4, 16, 16))]
    if moves(frames):
        assert np.array_equal(back_of(Video(frames)).frames, rgba(frames))


def test_colors_of_a_gif_are_close():
    t, y, x = np.meshgrid(np.arange(8), np.arange(32), np.arange(32), indexing="ij")
    frames = np.stack([t * 30, y * 8, x * 8], axis=-1).astype(np.uint8)[None]
    back = back_of(Video(frames))
    assert back.frames.shape == (1, 8, 32, 32, 4) and back.fps == 4
    assert np.abs(back.frames[..., :3].astype(int) - frames).mean() < 16


def test_frames_that_repeat_are_shown_as_long():
    frames = np.zeros((1, 6, 4, 4, 1), np.uint8)
    frames[0, 4:] = 200
    frames[0, 5:] = 100
    back = back_of(Video(frames, 10))
    assert np.array_equal(back.frames, rgba(frames)) and back.fps == 10


def test_videos_that_repeat_differently_keep_step_with_each_other():
    frames = np.zeros((3, 6, 4, 4, 1), np.uint8)
    frames[0, 2:4], frames[0, 4:] = 100, 200
    frames[1] = 50 * np.arange(6).reshape(6, 1, 1, 1) // 2
    for lossless in (False, True):
        back = back_of(Video(frames, 10, lossless))
        assert np.array_equal(back.frames, rgba(frames)) and round(back.fps, 6) == 10


def test_a_video_that_does_not_move_is_one_picture():
    for lossless in (False, True):
        assert (back_of(Video(np.full((1, 3, 4, 4, 3), 255, np.uint8), lossless=lossless)).frames[0] == 255).all()


@pytest.mark.parametrize(("lossless", "form"), [(False, "GIF"), (True, "PNG")])
def test_tensorboard_finds_width_height_and_one_animation_a_video(lossless, form):
    frames = np.random.default_rng(0).integers(0, 255, (2, 3, 5, 7, 3), np.uint8)
    value = event_pb2.Event.FromString(wire(Video(frames, lossless=lossless))).summary.value[0]
    width, height, *files = tensor_util.make_ndarray(value.tensor)
    assert (value.metadata.plugin_data.plugin_name, width, height, len(files)) == ("images", b"7", b"5", 2)
    for data in files:
        with PIL.Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size, picture.n_frames, picture.info["loop"]) == (form, (7, 5), 3, 0)


@pytest.mark.parametrize(("fps", "delay"), [(4, 250), (30, 30), (1000, 20), (np.float32(0.5), 2000), (1e-9, 655_350)])
def test_the_time_between_frames_is_one_that_browsers_keep(fps, delay):
    frames = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(1, 2, 4, 4, 1)
    data = proto.Event.FromString(wire(Video(frames, fps))).summary.value[0].tensor.string_val[2]
    with PIL.Image.open(io.BytesIO(data)) as picture:
        assert picture.info["duration"] == delay


def test_who_reads_images_gets_the_first_frame():
    frames = np.random.default_rng(0).integers(0, 255, (1, 3, 5, 7, 3), np.uint8)
    message = proto.Event.FromString(wire(Video(frames, lossless=True))).summary.value[0]
    assert np.array_equal(Image.decode(message).pixels[..., :3], frames[:, 0])


def test_numbers_of_a_video_are_taken_like_those_of_an_image():
    frames = to_frames(np.array([0.0, 0.5, 2.0, math.nan]).reshape(1, 4, 1, 1, 1))
    assert frames.shape == (1, 4, 1, 1, 1) and frames.reshape(-1).tolist() == [0, 127, 255, 0]
    array = np.arange(2 * 3 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 3, 4, 5)
    assert np.array_equal(to_frames(array), array.transpose(0, 1, 3, 4, 2))
    assert not np.shares_memory(to_frames(array), array)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 2, 5, 4, 4), (0, 2, 3, 4, 4), (1, 0, 3, 4, 4), (1, 2, 3, 0, 4)])
def test_a_video_of_impossible_shape_is_refused(shape):
    with pytest.raises(InvalidValueError, match="; "):
        Video(to_frames(np.zeros(shape, np.uint8)))


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf, "4", None])
def test_an_impossible_rate_is_refused(fps):
    with pytest.raises(InvalidValueError, match="frames a second"):
        Video(np.zeros((1, 2, 4, 4, 3), np.uint8), fps)


def test_frames_of_another_type_are_refused():
    with pytest.raises(InvalidValueError, match="to_frames"):
        Video(np.zeros((1, 2, 4, 4, 3)))
