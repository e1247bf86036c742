"""Pictures over steps: the Images dashboard.

Pixels are kept as they came and turned into PNG when the event is encoded, off the training thread.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from torchboard.errors import InvalidValueError
from torchboard.values.value import BLOB_SEQUENCE, metadata, string_tensor

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_PNG_LEVEL = 1
"""zlib effort: level 1 costs half the time of Pillow's default for about a tenth more bytes."""


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
        if shape[3] not in _MODES:
            raise InvalidValueError(
                f"pixels of shape {list(shape)}",
                f"{shape[3]} channels make no picture (1 grey, 2 grey and alpha, 3 RGB, 4 RGBA)",
                "check the layout (CHW or HWC), or log each channel as a picture of its own",
            )
        if 0 in shape:
            raise InvalidValueError(
                f"pixels of shape {list(shape)}", "a picture needs at least one pixel", "leave it out"
            )

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def encode(self, tag: str, event: Any) -> None:
        """Adds them as PNGs in a string tensor ``[width, height, png, …]``; lossless."""
        count, height, width, _ = self.pixels.shape
        message = event.summary.value.add(tag=tag)
        message.metadata.CopyFrom(metadata(self.plugin, BLOB_SEQUENCE, description=self.description))
        pictures = [encode_png(picture) for picture in self.pixels]
        message.tensor.CopyFrom(string_tensor([b"%d" % width, b"%d" % height, *pictures], (2 + count,)))

    @classmethod
    def decode(cls, message: Any) -> Image:
        """The pictures of a ``Summary.Value``, in the tensor form or as one ``Summary.Image``."""
        if message.WhichOneof("value") == "image":
            return cls(decode_png(message.image.encoded_image_string)[None])
        pictures = [decode_png(item) for item in message.tensor.string_val[2:]]
        return cls(np.stack(pictures), message.metadata.summary_description)


def encode_png(picture: np.ndarray) -> bytes:
    """uint8[height, width, channels] as a PNG file; lossless."""
    import PIL.Image

    mode = _MODES[picture.shape[2]]
    buffer = io.BytesIO()
    flat = picture[:, :, 0] if mode == "L" else picture
    PIL.Image.fromarray(np.ascontiguousarray(flat)).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """A picture file as uint8[height, width, channels]."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(data)) as picture:
        array = np.asarray(picture if picture.mode in _MODES.values() else picture.convert("RGBA"))
    return array[:, :, None] if array.ndim == 2 else array


def to_pixels(array: np.ndarray, layout: str) -> np.ndarray:
    """Any numeric array as uint8[N, height, width, channels] of its own memory, in one pass.

    Floats are taken as 0..1, integers as 0..255 whatever their width, booleans as black and white; values beyond are
    clipped and NaN is black. Missing axes of ``layout`` (``"HW"``, ``"CHW"``, ``"NHWC"``…) get length 1.

    Raises:
        InvalidValueError: the layout does not name the array's axes, or the array is not numeric.
    """
    layout = layout.upper()
    if len(layout) != array.ndim or sorted(layout) != sorted(set(layout)) or set(layout) - set("NCHW"):
        raise InvalidValueError(
            f"an array of shape {list(array.shape)} as {layout!r}",
            "the layout names each axis once, with the letters N, C, H and W",
            "give dataformats the letters of the array's axes, such as 'CHW', 'HWC', 'HW' or 'NCHW'",
        )
    if array.dtype == np.bool_:
        scaled = array * np.uint8(255)
    elif array.dtype == np.uint8:
        scaled = array.copy()
    elif np.issubdtype(array.dtype, np.integer):
        scaled = np.clip(array, 0, 255).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        wide = array.astype(np.float32, copy=False)
        scaled = np.nan_to_num(np.clip(wide, 0.0, 1.0) * 255.0, nan=0.0).astype(np.uint8)
    else:
        raise InvalidValueError(f"an array of {array.dtype}", "pixels are numbers or booleans", "convert it first")
    for axis in "NHWC":
        if axis not in layout:
            scaled, layout = scaled[..., None], layout + axis
    return np.ascontiguousarray(scaled.transpose([layout.index(axis) for axis in "NHWC"]))


def grid(pictures: np.ndarray, columns: int, gap: int = 1, fill: int = 255) -> np.ndarray:
    """Pictures laid out row by row in one: uint8[N, H, W, C] -> uint8[rows * (H + gap) - gap, columns * (W + gap) - gap, C]."""
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + gap, width + gap, channels), fill, np.uint8)
    cells[:count, :height, :width] = pictures
    sheet = cells.reshape(rows, columns, height + gap, width + gap, channels).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap), channels)
    return sheet[: rows * (height + gap) - gap, : columns * (width + gap) - gap]
