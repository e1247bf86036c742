"""Moving pictures over steps: the Images dashboard, which plays animated GIF and PNG files.

Frames are kept as they came and turned into files when the event is encoded, off the training thread. A GIF has at most
256 colours: all frames share one palette, found once, which makes it many times faster than a palette a frame.
A million colour pixels take 30 to 120 ms.
"""

from __future__ import annotations

import io
import math
import numbers
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from torchboard.errors import InvalidValueError
from torchboard.values.image import check_picture, to_pixels
from torchboard.values.png import MODES, with_palette
from torchboard.values.value import BLOB_SEQUENCE, metadata, string_tensor

_MIN_DELAY, _MAX_DELAY = 20, 655_350
"""Milliseconds between two frames: browsers slow a GIF down below the one, and it cannot hold more than the other."""

_STILL = 250.0
"""Milliseconds that a picture without a time of its own is taken to be shown."""


@dataclass(frozen=True, eq=False)
class Video:
    """One or more videos of one size under one tag, paged by TensorBoard, each played in a loop.

    Grey frames and those of 256 colours or less are kept exactly, and so are those with an alpha channel, which only a PNG
    can show.

    Attributes:
        frames: uint8[N, T, height, width, channels]; 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        fps: frames a second, at most 50; the time between two is a whole hundredth of a second.
        lossless: keep every colour, in an animated PNG: several times the bytes of a GIF and the time to make it.
        description: Markdown shown with the card.

    Raises:
        InvalidValueError: no frame, an empty one, a number of channels that no picture has, or an impossible rate.
    """

    frames: np.ndarray  # uint8[N, T, height, width, channels]
    fps: float = 4
    lossless: bool = False
    description: str = ""

    plugin: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 5:
            raise InvalidValueError(
                f"frames {self.frames.dtype}{list(shape)}",
                "a video is uint8[N, T, height, width, channels]",
                "use to_frames()",
            )
        if shape[4] not in MODES or 0 in shape:
            raise InvalidValueError(
                f"{shape[0]} videos of {shape[1]} frames of {shape[3]} x {shape[2]} pixels and {shape[4]} channels",
                "a video has at least one frame, a frame at least one pixel, and a pixel 1 to 4 channels",
                "check the order of the axes: N, T, C, H and W",
            )
        _check_rate(self.fps)

    @property
    def nbytes(self) -> int:
        return self.frames.nbytes

    def encode(self, tag: str, event: Any) -> None:
        """Adds them as animations in a string tensor ``[width, height, file, …]``, the form of an image."""
        count, _, height, width, channels = self.frames.shape
        message = event.summary.value.add(tag=tag)
        message.metadata.CopyFrom(metadata(self.plugin, BLOB_SEQUENCE, description=self.description))
        make = encode_apng if self.lossless or channels in (2, 4) else encode_gif
        delay = min(max(10 * round(100 / self.fps), _MIN_DELAY), _MAX_DELAY)
        files = [make(frames, delay) for frames in self.frames]
        message.tensor.CopyFrom(string_tensor([b"%d" % width, b"%d" % height, *files], (2 + count,)))

    @classmethod
    def decode(cls, message: Any) -> Video:
        """The videos of a ``Summary.Value`` of one or more animations, as RGBA; a still is a video of one frame.

        Frames that equal the one before are not in the files; they come back by the time that each is shown.
        """
        files = message.tensor.string_val[2:]
        videos = [decode_animation(data) for data in files]
        unit = min((time for video in videos for _, time in video if time), default=_STILL)
        frames = [[frame for frame, time in video for _ in range(round(time / unit) or 1)] for video in videos]
        longest = max(map(len, frames))
        full = np.stack([np.stack(one + one[-1:] * (longest - len(one))) for one in frames])
        lossless = all(data.startswith(b"\x89PNG") for data in files)
        return cls(full, 1000 / unit, lossless, message.metadata.summary_description)


def encode_gif(frames: np.ndarray, delay: int) -> bytes:
    """uint8[T, height, width, 1 or 3] as an animated GIF of at most 256 colours, ``delay`` milliseconds a frame."""
    count, height, width, channels = frames.shape
    pixels = frames.reshape(count * height, width, channels)
    strip = _picture(pixels) if channels == 1 else _paletted(pixels)
    pictures = [strip.crop((0, top, width, top + height)) for top in range(0, count * height, height)]
    return _animation(pictures, "GIF", delay, optimize=False)


def _paletted(pixels: np.ndarray) -> Any:
    """RGB pixels as a Pillow picture with a palette: of its own colours where they are 256 or less, else of near ones."""
    import PIL.Image

    own = with_palette(pixels)
    if own is None:
        return _picture(pixels).quantize(256, PIL.Image.Quantize.FASTOCTREE)
    palette, index = own
    exact = PIL.Image.fromarray(index)
    exact.putpalette(palette.tobytes())
    return exact


def encode_apng(frames: np.ndarray, delay: int) -> bytes:
    """uint8[T, height, width, channels] as an animated PNG, ``delay`` milliseconds a frame; lossless."""
    return _animation([_picture(frame) for frame in frames], "PNG", delay, compress_level=1)


def decode_animation(data: bytes) -> list[tuple[np.ndarray, float]]:
    """The frames of an animated file, uint8[height, width, 4], and the milliseconds of each; 0 where it says none."""
    import PIL.Image
    import PIL.ImageSequence

    with PIL.Image.open(io.BytesIO(data)) as file:
        return [
            (np.asarray(frame.convert("RGBA")), frame.info.get("duration", 0))
            for frame in PIL.ImageSequence.Iterator(file)
        ]


def check_video(shape: tuple[int, ...], dtype: np.dtype, fps: float) -> None:
    """Refuses what ``to_frames`` cannot take, or would make no ``Video`` of, without a look at the numbers.

    Raises:
        InvalidValueError: it has other axes, its elements are not numbers, or there is no frame; or an impossible rate.
    """
    if len(shape) != 5:
        raise InvalidValueError(
            f"a video of shape {list(shape)}", "its axes are N, T, C, H and W", "add the ones it lacks"
        )
    check_picture((shape[0] * shape[1], *shape[2:]), dtype, "NCHW")
    _check_rate(fps)


def to_frames(array: np.ndarray) -> np.ndarray:
    """A video [N, T, C, H, W] of any numeric type as uint8[N, T, height, width, channels] of its own memory.

    Numbers are taken as ``to_pixels`` takes them.

    Raises:
        InvalidValueError: as ``check_video``.
    """
    check_video(array.shape, array.dtype, 1)
    pixels = to_pixels(array.reshape(array.shape[0] * array.shape[1], *array.shape[2:]), "NCHW")
    return pixels.reshape(*array.shape[:2], *pixels.shape[1:])


def _check_rate(fps: float) -> None:
    if not isinstance(fps, numbers.Real) or not 0 < fps < math.inf:
        raise InvalidValueError(f"fps={fps!r}", "it is a number of frames a second", "give 4, say")


def _picture(pixels: np.ndarray) -> Any:
    """uint8[height, width, channels] as a Pillow picture."""
    import PIL.Image

    return PIL.Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def _animation(pictures: list[Any], form: str, delay: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pictures[0].save(buffer, form, save_all=True, append_images=pictures[1:], duration=delay, loop=0, **options)
    return buffer.getvalue()
