"""Sound: any form that people have it in, and the same samples out."""

from __future__ import annotations

import io
import math
import wave

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.audio import metadata as their_metadata
from tensorboard.plugins.audio import plugin_data_pb2
from tensorboard.util import tensor_util
from torch.utils.tensorboard.summary import audio as peer

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values import Audio, Event, encode
from torchboard.values.audio import encode_wav, to_clips

CLIP = hnp.arrays(np.int16, st.tuples(st.integers(1, 8), st.integers(1, 50)))


def wire(value):
    (message,) = encode(Event(0, 1.0, (("sound", value),)))
    return message.SerializeToString()


@given(st.lists(CLIP, min_size=1, max_size=3), st.sampled_from([1, 8000, 44100.0, np.int64(192_000)]))
def test_clips_come_back_to_the_sample(clips, rate):
    back = Audio.decode(proto.Event.FromString(wire(Audio(tuple(clips), rate, "about"))).summary.value[0])
    assert (back.sample_rate, back.description, len(back.clips)) == (rate, "about", len(clips))
    assert all(np.array_equal(*pair) for pair in zip(back.clips, clips))


def test_tensorboard_finds_wav_files_and_is_told_so():
    clips = (np.zeros((2, 5), np.int16), np.ones((1, 3), np.int16))
    value = event_pb2.Event.FromString(wire(Audio(clips, 8000))).summary.value[0]
    content = their_metadata.parse_plugin_metadata(value.metadata.plugin_data.content)
    assert (value.metadata.plugin_data.plugin_name, content.encoding) == ("audio", plugin_data_pb2.AudioPluginData.WAV)
    files = tensor_util.make_ndarray(value.tensor)
    assert files.shape == (2,)
    with wave.open(io.BytesIO(files[0])) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (2, 2, 8000, 5)


@pytest.mark.parametrize("frames", [2, 127, 128, 16_383, 16_384, 2_100_000])
def test_one_clip_takes_no_more_bytes_than_the_peers(frames):
    clip = np.zeros((1, frames), np.int16)
    theirs = event_pb2.Event(wall_time=1.0, summary=peer("sound", torch.zeros(1, frames), 44_100))
    assert len(wire(Audio((clip,)))) <= theirs.ByteSize()


def test_sound_of_the_peer_and_of_files_with_labels_is_read():
    samples = torch.tensor([[0.0, 0.5, -1.0]])
    message = proto.Summary.FromString(peer("tag", samples, 8000).SerializeToString()).value[0]
    back = Audio.decode(message)
    assert back.sample_rate == 8000 and back.clips[0].tolist() == [[0, 16383, -32767]]
    file = encode_wav(np.array([[1, 2]], np.int16), 16000)
    labelled = proto.Summary.Value(tensor=proto.TensorProto(string_val=[file, b"first", file, b"second"]))
    for size in (2, 2):
        labelled.tensor.tensor_shape.dim.add(size=size)
    assert [clip.tolist() for clip in Audio.decode(labelled).clips] == [[[1, 2]], [[1, 2]]]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_are_clipped_and_nan_is_silence(kind):
    (clip,) = to_clips(np.array([0.0, 1.0, -1.0, 7.0, -math.inf, math.nan, 0.25], kind))
    assert clip.tolist() == [[0, 32767, -32767, 32767, -32767, 0, 8192]]


def test_samples_of_16_bits_are_taken_as_they_are():
    (clip,) = to_clips(np.array([[-32768, 32767]], np.int16))
    assert clip.tolist() == [[-32768, 32767]]


@pytest.mark.parametrize(
    ("shape", "clips"),
    [
        ((5,), [(1, 5)]),
        ((1, 5), [(1, 5)]),
        ((5, 1), [(1, 5)]),
        ((2, 5), [(2, 5)]),
        ((3, 2, 5), [(2, 5)] * 3),
    ],
)
def test_every_form_ends_as_channels_and_frames(shape, clips):
    assert [clip.shape for clip in to_clips(np.zeros(shape))] == clips


@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_clips_do_not_share_memory_with_what_they_were_made_of(kind):
    array = np.zeros((1, 4), kind)
    (clip,) = to_clips(array)
    array[:] = 1
    assert not clip.any()


@pytest.mark.parametrize(
    "array",
    [np.zeros(5, np.int64), np.zeros(5, bool), np.array(0.5), np.zeros((1, 1, 1, 5)), np.array(["a"])],
    ids=["int64", "bool", "number", "4d", "text"],
)
def test_what_is_no_sound_is_refused(array):
    with pytest.raises(InvalidValueError, match="; "):
        to_clips(array)


@pytest.mark.parametrize("shape", [(0,), (44100, 2), (1, 0), (0, 1, 5), (2, 9, 5)])
def test_clips_of_impossible_shape_are_refused(shape):
    with pytest.raises(InvalidValueError, match="; "):
        Audio(to_clips(np.zeros(shape)))


@pytest.mark.parametrize("rate", [0, -1, 44100.5, None, 2**40, math.nan, math.inf, "8000"])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(InvalidValueError, match="frames a second"):
        Audio((np.zeros((1, 1), np.int16),), rate)


def test_samples_of_another_type_and_files_of_another_width_are_refused():
    with pytest.raises(InvalidValueError, match="int16"):
        Audio((np.zeros((1, 5)),))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"abc")
    with pytest.raises(InvalidValueError, match="16 bits"):
        Audio.decode(proto.Summary.Value(audio={"encoded_audio_string": buffer.getvalue()}))
