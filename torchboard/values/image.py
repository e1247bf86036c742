"""Pictures over steps: the Images dashboard.

Pixels are turned into PNG when the event is encoded, off the training thread; and whatever numbers a user has are turned
into pixels by ``to_pixels``, in a few passes, once ``check_picture`` has said that they will make a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.png import MODES, decode_png, encode_pngs
from torchboard.values.value import metadata, string_tensor

_PART_BYTES = 1 << 19
"""So much of an array becomes pixels at a time: what stays in the cache."""


@dataclass(frozen=True, eq=False)
class Image:
    """One or more pictures of one size under one tag, paged by TensorBoard.

    Attributes:
        pixels: uint8[N, height, width, channels]; 1 channel is grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        description: Markdown shown with the card.

    Raises:
        InvalidValueError: no picture, an empty one, or a number of channels that no picture has.
    """

    pixels: np.ndarray  # uint8[N, height, width, channels]
    description: str = ""

    plugin: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 4:
            raise InvalidValueError(
                f"pixels {self.pixels.dtype}{list(shape)}",
                "an image is uint8[N, height, width, channels]",
                "use to_pixels()",
            )
        _check_sizes(shape, "NHWC")

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def encode(self, tag: str, event: Any) -> None:
        """Adds them as PNGs, lossless: one as a ``Summary.Image``, the smallest form, which needs no metadata; several, or one
        with a description, as a string tensor ``[width, height, png, …]``."""
        count, height, width, channels = self.pixels.shape
        message = event.summary.value.add(tag=tag)
        files = encode_pngs(self.pixels)
        if count == 1 and not self.description:
            picture = proto.Summary.Image(
                height=height, width=width, colorspace=channels, encoded_image_string=files[0]
            )
            message.image.CopyFrom(picture)
            return
        message.metadata.CopyFrom(metadata(self.plugin, description=self.description))
        message.tensor.CopyFrom(string_tensor([b"%d" % width, b"%d" % height, *files], (2 + count,)))

    @classmethod
    def decode(cls, message: Any) -> Image:
        """The pictures of a ``Summary.Value``, in the tensor form or as one ``Summary.Image``."""
        if message.WhichOneof("value") == "image":
            return cls(decode_png(message.image.encoded_image_string)[None])
        pictures = [decode_png(item) for item in message.tensor.string_val[2:]]
        return cls(np.stack(pictures), message.metadata.summary_description)


def check_picture(shape: tuple[int, ...], dtype: np.dtype, layout: str) -> None:
    """Refuses what ``to_pixels`` cannot take, or would make no ``Image`` of, without a look at the numbers.

    Raises:
        InvalidValueError: the layout does not name the axes, the elements are no numbers, there is no pixel, or a number of
            channels that no picture has.
    """
    layout = str(layout).upper()
    if not shape or len(layout) != len(shape) or len(layout) != len(set(layout)) or set(layout) - set("NCHW"):
        raise InvalidValueError(
            f"an array of shape {list(shape)} as {layout!r}",
            "the layout names each axis once, with the letters N, C, H and W",
            "give dataformats the letters of the array's axes, such as 'CHW', 'HWC', 'HW' or 'NCHW'",
        )
    if dtype.kind not in "biuf":
        raise InvalidValueError(f"an array of {dtype}", "pixels are numbers or booleans", "convert it first")
    _check_sizes(shape, layout)


def to_pixels(array: np.ndarray, layout: str) -> np.ndarray:
    """Any numeric array as uint8[N, height, width, channels] of its own memory, in a few passes.

    Floats are taken as 0..1, integers as 0..255 whatever their width, booleans as black and white; values beyond are
    clipped and NaN is black. Missing axes of ``layout`` (``"HW"``, ``"CHW"``, ``"NHWC"``…) get length 1.

    Raises:
        InvalidValueError: as ``check_picture``.
    """
    check_picture(array.shape, array.dtype, layout)
    layout = layout.upper()
    pixels = np.empty([array.shape[layout.index(axis)] if axis in layout else 1 for axis in "NHWC"], np.uint8)
    missing = tuple(number for number, axis in enumerate("NHWC") if axis not in layout)
    named = [axis for axis in "NHWC" if axis in layout]
    _put_levels(array, pixels.squeeze(missing).transpose([named.index(axis) for axis in layout]))
    return pixels


def to_levels(array: np.ndarray) -> np.ndarray:
    """Numbers as ``to_pixels`` takes them, with their axes as they are: uint8 of the same shape, in memory of its own."""
    levels = np.empty(array.shape, np.uint8)
    whole = array.flags.c_contiguous
    _put_levels(array.reshape(-1) if whole else array, levels.reshape(-1) if whole else levels)
    return levels


def _put_levels(array: np.ndarray, target: np.ndarray) -> None:
    """Puts the levels of an array in the target, channel by channel where those are not last: NumPy is quicker at that."""
    channels = int(np.argmin(target.strides))
    if channels < target.ndim - 1 and target.shape[channels] in MODES:
        for plane, levels in zip(np.moveaxis(array, channels, 0), np.moveaxis(target, channels, 0)):
            _put_levels(plane, levels)
        return
    part = max(1, _PART_BYTES // max(1, array[0].nbytes))
    for start in range(0, len(array), part):
        target[start : start + part] = _levels(array[start : start + part])


def _levels(array: np.ndarray) -> np.ndarray:
    """Numbers as levels 0..255: uint8, or floats whose whole part it is."""
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iu":
        return np.clip(array, 0, 255).astype(np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        wide = array.astype(np.float32, copy=False)
        least, greatest = wide.min(), wide.max()  # NaN where there is one
    if np.isnan(least):
        wide = np.fmax(wide, np.float32(0))  # of NaN and a number it gives the number
    if not 0 <= least <= greatest <= 1:
        wide = np.clip(wide, np.float32(0), np.float32(1))
    return wide * np.float32(255)


def _check_sizes(shape: tuple[int, ...], layout: str) -> None:
    channels = shape[layout.index("C")] if "C" in layout else 1
    if channels not in MODES:
        raise InvalidValueError(
            f"pixels of shape {list(shape)}",
            f"{channels} channels make no picture (1 grey, 2 grey and alpha, 3 RGB, 4 RGBA)",
            "check the layout (CHW or HWC), or log each channel as a picture of its own",
        )
    if 0 in shape:
        raise InvalidValueError(f"pixels of shape {list(shape)}", "a picture needs at least one pixel", "leave it out")


def over_white(pixels: np.ndarray) -> np.ndarray:
    """uint8[…, 4] on a white ground: uint8[…, 3]."""
    color, alpha = pixels[..., :3], pixels[..., 3:]
    if alpha.min() == 255:
        opaque = np.empty(color.shape, np.uint8)
        for channel in range(3):  # NumPy is quicker at that than at all three together
            opaque[..., channel] = color[..., channel]
        return opaque
    share = alpha / np.float32(255)
    return (color * share + 255 * (1 - share)).astype(np.uint8)


def grid(pictures: np.ndarray, columns: int, gap: int = 1, fill: int = 255) -> np.ndarray:
    """Pictures laid out row by row in one: uint8[N, H, W, C] -> uint8[rows * (H + gap) - gap, columns * (W + gap) - gap, C]."""
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + gap, width + gap, channels), fill, np.uint8)
    cells[:count, :height, :width] = pictures
    sheet = cells.reshape(rows, columns, height + gap, width + gap, channels).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap), channels)
    return sheet[: rows * (height + gap) - gap, : columns * (width + gap) - gap]
