"""What users pass to a writer, as arrays: tensors of any device, arrays, lists and figures."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from torchboard.errors import InvalidValueError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def draw_figure(figure: Figure) -> np.ndarray:
    """A figure's pixels, uint8[height, width, 3], on the figure's own background over white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    own_canvas = figure.canvas
    try:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        rgba = np.array(canvas.buffer_rgba())
    finally:
        figure.set_canvas(own_canvas)
    alpha = rgba[:, :, 3:] / np.float32(255)
    return (rgba[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
