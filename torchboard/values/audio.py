"""Sound over steps: the Audio dashboard.

Sound is kept as 16-bit samples, and put into WAV files when the event is encoded, off the training thread. In the event
file that is two bytes a sample, and about 70 bytes around each clip.
"""

from __future__ import annotations

import io
import math
import numbers
import wave
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.value import BLOB_SEQUENCE, UNKNOWN, metadata, string_tensor

MAX_CHANNELS = 8
"""Most channels of one clip: 7.1 surround."""

_CONTENT = proto.AudioPluginData(encoding=proto.AudioPluginData.WAV).SerializeToString()
_FULL_SCALE = 32767
_MAX_RATE = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Audio:
    """One or more clips under one tag, paged by TensorBoard.

    Attributes:
        clips: int16[channels, frames] each, of 1 to 8 channels.
        sample_rate: frames a second.
        description: Markdown shown with the card.

    Raises:
        InvalidValueError: no clip, an empty one, too many channels, or an impossible rate.
    """

    clips: tuple[np.ndarray, ...]  # int16[channels, frames]
    sample_rate: int = 44100
    description: str = ""

    plugin: ClassVar[str] = "audio"

    def __post_init__(self) -> None:
        _check_rate(self.sample_rate)
        if not self.clips:
            raise InvalidValueError("no clips", "a sound needs at least one", "leave it out")
        for clip in self.clips:
            if clip.dtype != np.int16 or clip.ndim != 2:
                raise InvalidValueError(
                    f"a clip {clip.dtype}{list(clip.shape)}", "a clip is int16[channels, frames]", "use to_clips()"
                )
            _check_clip(*clip.shape)

    @property
    def nbytes(self) -> int:
        return sum(clip.nbytes for clip in self.clips)

    def encode(self, tag: str, event: Any) -> None:
        """Adds them as WAV files: one as a ``Summary.Audio``, the smallest form, several as a string tensor.

        Of several the class of data is left for TensorBoard to fill in. Where the first record of a tag says it, the Python
        loader takes all later ones as they are, and a ``Summary.Audio`` among them would have two parts.
        """
        message = event.summary.value.add(tag=tag)
        files = [encode_wav(clip, self.sample_rate) for clip in self.clips]
        kind = BLOB_SEQUENCE if len(files) == 1 else UNKNOWN
        message.metadata.CopyFrom(metadata(self.plugin, kind, _CONTENT, self.description))
        if len(files) == 1:
            message.audio.encoded_audio_string = files[0]
        else:
            message.tensor.CopyFrom(string_tensor(files, (len(files),)))

    @classmethod
    def decode(cls, message: Any) -> Audio:
        """The clips of a ``Summary.Value``: a tensor of files, one of files and labels, or one ``Summary.Audio``."""
        if message.WhichOneof("value") == "audio":
            files = [message.audio.encoded_audio_string]
        else:
            labelled = len(message.tensor.tensor_shape.dim) == 2
            files = message.tensor.string_val[:: 2 if labelled else 1]
        clips, rates = zip(*(decode_wav(data) for data in files))
        return cls(clips, rates[0], message.metadata.summary_description)


def encode_wav(clip: np.ndarray, sample_rate: int) -> bytes:
    """int16[channels, frames] as a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(clip.shape[0])
        file.setsampwidth(2)
        file.setframerate(int(sample_rate))
        file.writeframes(np.ascontiguousarray(clip.T, dtype="<i2").tobytes())
    return buffer.getvalue()


def decode_wav(data: bytes) -> tuple[np.ndarray, int]:
    """A 16-bit WAV file as int16[channels, frames] and its sample rate.

    Raises:
        InvalidValueError: its samples have another width.
    """
    with wave.open(io.BytesIO(data), "rb") as file:
        width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
        samples = file.readframes(file.getnframes())
    if width != 2:
        raise InvalidValueError(f"a WAV file of {8 * width} bits", "only 16 bits are read", "convert the file")
    return np.frombuffer(samples, "<i2").astype(np.int16).reshape(-1, channels).T, rate


def check_sound(shape: tuple[int, ...], dtype: np.dtype, sample_rate: int) -> None:
    """Refuses what ``to_clips`` cannot take, or would make no ``Audio`` of, without a look at the numbers.

    Raises:
        InvalidValueError: another type, another number of axes, no frame, too many channels, or an impossible rate.
    """
    if dtype != np.int16 and dtype.kind != "f":
        raise InvalidValueError(
            f"sound of {dtype}", "samples are floats in -1..1 or int16", "divide it by its full scale"
        )
    if not 1 <= len(shape) <= 3:
        raise InvalidValueError(
            f"sound of shape {list(shape)}",
            "it is [frames], [channels, frames] or [clips, channels, frames]",
            "reshape it",
        )
    clips, channels, frames = _axes(shape)
    if not clips:
        raise InvalidValueError("no clips", "a sound needs at least one", "leave it out")
    _check_clip(channels, frames)
    _check_rate(sample_rate)


def to_clips(array: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sound as clips of int16[channels, frames] of their own memory.

    Args:
        array: [frames], [frames, 1], [channels, frames] or [clips, channels, frames]; floats in -1..1, clipped, where
            NaN is silence, or int16 samples, taken as they are.

    Raises:
        InvalidValueError: another type, or another number of axes.
    """
    check_sound(array.shape, array.dtype, 1)
    if array.dtype == np.int16:
        samples = array.copy()
    else:
        wide = np.nan_to_num(np.clip(array, -1.0, 1.0).astype(np.float32, copy=False), nan=0.0)
        samples = np.rint(wide * _FULL_SCALE).astype(np.int16)
    return tuple(samples.reshape(_axes(array.shape)))


def _axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Clips, channels and frames of a sound, the missing ones 1; a single column is one channel."""
    if len(shape) == 2 and shape[1] == 1:
        shape = shape[::-1]
    return (1,) * (3 - len(shape)) + tuple(shape)


def _check_clip(channels: int, frames: int) -> None:
    if not 1 <= channels <= MAX_CHANNELS or not frames:
        raise InvalidValueError(
            f"a clip of {channels} channels and {frames} frames",
            f"a clip has 1 to {MAX_CHANNELS} channels and at least one frame",
            "give [channels, frames]; transpose it if the frames come first",
        )


def _check_rate(sample_rate: object) -> None:
    whole = isinstance(sample_rate, numbers.Real) and math.isfinite(sample_rate) and sample_rate == int(sample_rate)
    if not whole or not 1 <= sample_rate <= _MAX_RATE:
        raise InvalidValueError(
            f"sample_rate={sample_rate!r}", "it is a whole number of frames a second", "give 44100, say"
        )
