"""SummaryWriter: the signatures of ``torch.utils.tensorboard.SummaryWriter`` over our values.

No knowledge of any format lives here: a method turns what users pass into a value and hands it to the run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from torchboard.errors import InvalidValueError
from torchboard.run import Run, open_run
from torchboard.values import Image, Scalar, Text
from torchboard.values.image import to_pixels

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


class SummaryWriter:
    """Writes scalars, texts, pictures, histograms and graphs to one run.

    Arguments are checked and copied at the call; encoding and files are the work of the sink's thread. Every method takes
    ``global_step`` (a whole number; by default the step of the writer's owner, else 0) and ``walltime`` (seconds since
    the epoch; now by default).

    Args:
        log_dir: the run's directory; None makes one below ``runs/`` named after the time and this machine.
        comment: appended to that name, where ``log_dir`` is None.
        purge_step: where the run starts again, when the directory already holds some of it.
        max_queue, flush_secs: taken for compatibility; every event is on its way to the file within 20 ms.
        filename_suffix: appended to the event file's name.

    Raises:
        RunError: the directory cannot be used.
        RunInUseError: another process is writing in it.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: int = 120,
        filename_suffix: str = "",
    ) -> None:
        self._run = open_run(log_dir, comment=comment, purge_step=purge_step, suffix=filename_suffix)
        self._step: Callable[[], int] = lambda: 0
        self._owned = True

    @classmethod
    def on_run(cls, run: Run, step: Callable[[], int]) -> SummaryWriter:
        """A writer on a run that somebody else opened and will close; ``step`` gives the step where a call names none."""
        writer = cls.__new__(cls)
        writer._run, writer._step, writer._owned = run, step, False
        return writer

    def add_scalar(
        self,
        tag: str,
        scalar_value: float | torch.Tensor | np.ndarray,
        global_step: int | None = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """One number: a Python or NumPy number, or a tensor or array with one element, on any device, without a sync.

        TensorBoard's default loader shows float32 only, so ``new_style`` and ``double_precision`` change nothing.

        Raises:
            InvalidValueError: it is not one real number.
        """
        if type(scalar_value) is float:
            self._write(global_step, walltime, ((tag, Scalar(scalar_value)),))
            return
        from torchboard.capture.metrics import check_metric, scalars

        pairs, pending = scalars({tag: check_metric(tag, scalar_value)})
        self._write(global_step, walltime, pairs, pending=pending)

    def add_text(
        self, tag: str, text_string: str, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        """One block of Markdown.

        Raises:
            InvalidValueError: it is not a text.
        """
        if not isinstance(text_string, str):
            raise InvalidValueError(
                f"text {tag!r} = {type(text_string).__name__}", "a text is a str", "give str(…) of it"
            )
        self._write(global_step, walltime, ((tag, Text(text_string)),))

    def add_image(
        self,
        tag: str,
        img_tensor: torch.Tensor | np.ndarray,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:
        """One picture: floats in 0..1, integers in 0..255 of any width, booleans as black and white.

        Raises:
            InvalidValueError: the layout or the number of channels makes no picture.
        """
        self._write_image(tag, to_pixels(_array(img_tensor), dataformats), global_step, walltime)

    def add_images(
        self,
        tag: str,
        img_tensor: torch.Tensor | np.ndarray,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "NCHW",
    ) -> None:
        """Several pictures of one size under one tag, which TensorBoard pages; dtypes as in ``add_image``.

        Raises:
            InvalidValueError: the layout or the number of channels makes no picture.
        """
        self._write_image(tag, to_pixels(_array(img_tensor), dataformats), global_step, walltime)

    def add_figure(
        self,
        tag: str,
        figure: Figure | list[Figure],
        global_step: int | None = None,
        close: bool = True,
        walltime: float | None = None,
    ) -> None:
        """A matplotlib figure, or several of one size, drawn at the call with the Agg backend.

        Args:
            close: let pyplot forget the figures afterwards.

        Raises:
            InvalidValueError: the figures differ in size.
        """
        figures = figure if isinstance(figure, (list, tuple)) else [figure]
        pictures = [_draw(item) for item in figures]
        if len({picture.shape for picture in pictures}) != 1:
            sizes = ", ".join("{1} x {0}".format(*picture.shape) for picture in pictures)
            raise InvalidValueError(
                f"figures of {sizes or 'no'} pixels", "one tag holds pictures of one size", "log each under a tag"
            )
        self._write_image(tag, np.stack(pictures), global_step, walltime)
        if close and "matplotlib.pyplot" in sys.modules:
            for item in figures:
                sys.modules["matplotlib.pyplot"].close(item)

    def add_histogram(
        self,
        tag: str,
        values: torch.Tensor | np.ndarray,
        global_step: int | None = None,
        bins: str = "tensorflow",
        walltime: float | None = None,
        max_bins: int | None = None,
    ) -> None:
        """The distribution of all elements: a tensor of any real dtype, reduced on its device, or an array or list.

        NaN and infinities are counted in the scalar ``nonfinite/<tag>`` beside it. ``bins`` and ``max_bins`` are taken for
        compatibility: the buckets follow the data, at most about 64 of them, never coarser than 30 equal ones.

        Raises:
            InvalidValueError: the elements are not real numbers.
        """
        from torchboard.capture.sketches import snapshot_of

        self._write(global_step, walltime, pending=(snapshot_of(tag, values),), droppable=True)

    def add_graph(
        self, model: torch.nn.Module, input_to_model: Any = None, verbose: bool = False, use_strict_trace: bool = True
    ) -> None:
        """The graph of one forward pass of ``model`` on ``input_to_model`` (a tensor, or a tuple or dict of arguments).

        The pass runs in evaluation mode and leaves the model as it was. Nothing is traced or compiled, so ``verbose`` and
        ``use_strict_trace`` have nothing to act on.

        Raises:
            InvalidValueError: ``model`` is not a module.
        """
        from torchboard.capture.graphs import graph_of

        self._write(0, None, pending=(graph_of(model, input_to_model),))

    def get_logdir(self) -> str | None:
        """The directory that the run is written to."""
        root = self._run.log_dir
        return os.path.join(root, self._run.name) if root and self._run.name else root

    def flush(self) -> None:
        """Returns when everything written before is on disk."""
        self._run.flush()

    def close(self) -> None:
        """Flushes and lets go of the directory; a second call does nothing."""
        if self._owned:
            self._owned = False
            self._run.close()

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write_image(self, tag: str, pixels: np.ndarray, step: int | None, walltime: float | None) -> None:
        self._write(step, walltime, ((tag, Image(pixels)),), droppable=True)

    def _write(self, step: int | None, walltime: float | None, pairs: tuple = (), **rest: Any) -> None:
        self._run.write(self._step() if step is None else step, pairs, wall_time=walltime, **rest)


def _array(values: Any) -> np.ndarray:
    """Anything array-like as an array; it may share the caller's memory."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        from torchboard.capture.snapshot import host_array

        return host_array(values)
    return np.asarray(values)


def _draw(figure: Figure) -> np.ndarray:
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
