"""What users pass to a writer, as arrays: tensors of any device, arrays, lists, figures, and pictures with marks on them."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from torchboard.errors import InvalidValueError, TorchboardError
from torchboard.values.deferred import Arrived, Copied
from torchboard.values.image import to_levels

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

_BOX_COLOR = "red"
_BOX_WIDTH = 2
_MASK_COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
_MASK_OPACITY = 0.5
_FAR = 2.0**24


def to_array(values: Any) -> np.ndarray:
    """Anything array-like as an array; it may share the caller's memory. Waits for the device of a tensor.

    Raises:
        InvalidValueError: nested lists of different lengths, or a tensor without values.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        from torchboard.capture.snapshot import host_array

        return host_array(values)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InvalidValueError(
            f"{type(values).__name__} {values!r:.80}", f"it makes no array ({error})", "give lists of one length"
        ) from None


def copied(values: Any) -> Copied:
    """A copy of anything array-like, which the caller may write to afterwards; it does not wait for a CUDA device.

    Raises:
        InvalidValueError: as ``to_array``.
    """
    torch = sys.modules.get("torch")
    if torch is not None and _is_plain(torch, values):
        return _on_its_way(values.detach().clone())
    return _arrived(np.array(to_array(values)))


def copied_levels(values: Any) -> Copied:
    """The same, but floats as the uint8 levels 0..255 that a picture has of them: a quarter of the bytes to keep and move.

    The levels are made where the numbers are, and are those of ``values.image.to_pixels``.

    Raises:
        InvalidValueError: as ``to_array``.
    """
    torch = sys.modules.get("torch")
    if torch is not None and _is_plain(torch, values):
        if values.dtype in (torch.float16, torch.bfloat16) and values.numel():
            values = values.detach().float()
        if values.dtype in (torch.float32, torch.float64) and values.ndim and values.numel():
            if not values.is_cpu:
                return _on_its_way(values.detach().float().nan_to_num(0.0).clamp_(0, 1).mul_(255).to(torch.uint8))
            values = to_array(values)
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.size and values.ndim:
        return _arrived(to_levels(values))
    return copied(values)


def _is_plain(torch: ModuleType, values: Any) -> bool:
    """Whether these are a tensor of torch's own, whose elements lie in memory, each on its own."""
    if type(values) not in (torch.Tensor, torch.nn.Parameter):
        return False
    return values.layout is torch.strided and not values.is_quantized and values.device.type != "meta"


def _on_its_way(tensor: torch.Tensor) -> Copied:
    """A tensor that nobody writes to any more."""
    from torchboard.capture.snapshot import HostCopy, host_array

    return Copied(HostCopy([tensor]), tuple(tensor.shape), host_array(tensor.new_empty(0, device="cpu")).dtype)


def _arrived(array: np.ndarray) -> Copied:
    return Copied(Arrived(array), array.shape, array.dtype)


def draw_figure(figure: Figure) -> np.ndarray:
    """A figure's pixels, uint8[height, width, 4], on the figure's own background.

    Raises:
        InvalidValueError: it is no figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if not hasattr(figure, "canvas"):
        raise InvalidValueError(
            f"figure {type(figure).__name__} {figure!r:.80}", "it is no figure of matplotlib", "give plt.gcf(), say"
        )
    own_canvas = figure.canvas
    try:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.array(canvas.buffer_rgba())
    finally:
        figure.set_canvas(own_canvas)


def draw_boxes(
    picture: np.ndarray, boxes: Any, labels: Sequence[str] | None = None, masks: Any | None = None
) -> np.ndarray:
    """A picture with boxes around things in red, and half transparent colours over others, drawn by torchvision.

    Args:
        picture: uint8[height, width, channels] of 1 to 4 channels; grey becomes RGB, and an alpha channel stays.
        boxes: [N, 4] finite numbers: left, top, right and bottom, in pixels; or None.
        labels: one a box, written into its upper left corner.
        masks: [N, height, width], true where the thing is; or None.

    Raises:
        InvalidValueError: one of these does not hold.
        TorchboardError: torchvision is not installed, or broken.
    """
    import torch

    utils = _torchvision_utils()
    corners, covers = _check_boxes(boxes, labels), _check_masks(masks, picture.shape[:2])
    colors = picture.shape[2] - (picture.shape[2] in (2, 4))
    rgb = np.broadcast_to(picture[:, :, :colors], (*picture.shape[:2], 3))
    drawn = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))
    if len(covers):
        palette = [_MASK_COLORS[index % len(_MASK_COLORS)] for index in range(len(covers))]
        drawn = utils.draw_segmentation_masks(drawn, torch.from_numpy(covers), _MASK_OPACITY, palette)
    if len(corners):
        try:
            drawn = utils.draw_bounding_boxes(
                drawn, torch.from_numpy(corners), labels, _BOX_COLOR, width=_BOX_WIDTH, fill_labels=labels is not None
            )
        except UnicodeError as error:
            wrong = f"the font of Pillow cannot draw them ({error})"
            raise InvalidValueError(f"labels {labels!r:.80}", wrong, "use plain letters") from None
    return np.concatenate([drawn.numpy().transpose(1, 2, 0), picture[:, :, colors:]], axis=2)


def resized(picture: np.ndarray, scale: float) -> np.ndarray:
    """A picture uint8[height, width, channels] ``scale`` times as wide and high.

    Raises:
        InvalidValueError: the scale is not a positive number, or nothing would be left.
    """
    import PIL.Image

    if not isinstance(scale, (int, float, np.number)) or not 0 < scale < math.inf:
        raise InvalidValueError(f"rescale={scale!r}", "it is a positive number", "give 1 to keep the size")
    height, width = (int(size * scale) for size in picture.shape[:2])
    if not height or not width:
        raise InvalidValueError(f"rescale={scale!r}", "no pixel would be left", "give a greater number")
    if (height, width) == picture.shape[:2]:
        return picture
    flat = picture[:, :, 0] if picture.shape[2] == 1 else picture
    scaled = PIL.Image.fromarray(flat).resize((width, height), PIL.Image.Resampling.LANCZOS)
    return np.asarray(scaled).reshape(height, width, -1)


def _check_boxes(boxes: Any, labels: Sequence[str] | None) -> np.ndarray:
    """Boxes as float32[N, 4]; their coordinates at most 2^24, which lies outside of any picture."""
    corners = np.zeros((0, 4)) if boxes is None else to_array(boxes)
    if not corners.size:
        corners = np.zeros((0, 4))
    if corners.ndim != 2 or corners.shape[1] != 4 or corners.dtype.kind not in "iuf":
        came = f"boxes of shape {list(corners.shape)} and {corners.dtype}"
        raise InvalidValueError(came, "they are numbers [N, 4]", "give left, top, right and bottom of each")
    wide = corners.astype(np.float64)
    wrong = ~np.isfinite(wide).all(1) | (wide[:, 0] > wide[:, 2]) | (wide[:, 1] > wide[:, 3])
    if wrong.any():
        came = f"box {int(np.flatnonzero(wrong)[0])} = {wide[wrong][0].tolist()}"
        raise InvalidValueError(came, "left <= right and top <= bottom, all finite", "check the order of the four")
    texts = labels is None or (isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels))
    if not texts or (labels is not None and len(labels) != len(corners)):
        came = f"labels {labels!r:.80} for {len(corners)} boxes"
        raise InvalidValueError(came, "each box has one, a text", "give a list of as many str")
    return np.clip(wide, -_FAR, _FAR).astype(np.float32)


def _check_masks(masks: Any, size: tuple[int, ...]) -> np.ndarray:
    """Masks as bool[N, height, width]."""
    covers = np.zeros((0, *size), np.bool_) if masks is None else to_array(masks)
    covers = covers[None] if covers.ndim == 2 else covers
    if covers.ndim != 3 or covers.shape[1:] != size or covers.dtype != np.bool_:
        came = f"masks of shape {list(covers.shape)} and {covers.dtype} for a picture of {size[1]} x {size[0]} pixels"
        raise InvalidValueError(came, "they are booleans [N, height, width]", "give such as logits > 0")
    return covers


def _torchvision_utils() -> ModuleType:
    try:
        from torchvision import utils
    except Exception as error:
        raise TorchboardError(
            "a picture with boxes",
            f"torchvision cannot be imported ({error})",
            "install the torchvision that goes with this torch, or draw the boxes yourself and use add_image",
        ) from error
    return utils
