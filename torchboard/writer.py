"""SummaryWriter: the signatures of ``torch.utils.tensorboard.SummaryWriter`` over our values.

No knowledge of any format lives here: a method turns what users pass into a value and hands it to the run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from torchboard.arrays import copied_levels, draw_boxes, draw_figure, resized, to_array
from torchboard.dashboards import DashboardMethods
from torchboard.errors import InvalidValueError
from torchboard.file_writer import PeerAttributes
from torchboard.log_dir import new_log_dir
from torchboard.run import Run, open_run
from torchboard.scalars import ScalarMethods
from torchboard.tags import check_tag
from torchboard.values import Image
from torchboard.values.deferred import Arrived, Deferred
from torchboard.values.graph import RUN_GRAPH_TAG
from torchboard.values.image import check_picture, over_white, to_pixels
from torchboard.values.text import TEXT_SUFFIX, to_text

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


class SummaryWriter(ScalarMethods, DashboardMethods, PeerAttributes):
    """Writes all kinds of values to one run.

    Arguments are checked and copied at the call; encoding and files are the work of the sink's thread. Every method takes
    ``global_step`` (a whole number; by default the step of the writer's owner, else 0) and ``walltime`` (seconds since
    the epoch; now by default).

    Args:
        log_dir: the run's directory; None makes a new one below ``runs/`` named after the time and this machine.
        comment: appended to that name, where ``log_dir`` is None.
        purge_step: where the run starts again, when the directory already holds some of it.
        max_queue, flush_secs: taken for compatibility; every event is on its way to the file within 20 ms.
        filename_suffix: appended to the event file's name.
        on_error: what a full disk or a failing file system does: ``"warn"`` warns once, and training goes on while
            writing is tried again; ``"raise"`` raises ``SinkError`` at the next call.

    A forked process, and one that the writer was pickled to, writes to a run of its own below this one:
    ``fork-<pid>``, ``spawn-<pid>``.

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
        *,
        on_error: str = "warn",
    ) -> None:
        self.max_queue, self.flush_secs, self.filename_suffix = max_queue, flush_secs, filename_suffix
        self._on_error = on_error
        place = new_log_dir(comment) if log_dir is None else log_dir
        run = open_run(place, purge_step=purge_step, suffix=filename_suffix, on_error=on_error)
        self._attach(run, int, owned=True)

    @classmethod
    def on_run(cls, run: Run, step: Callable[[], int]) -> SummaryWriter:
        """A writer on a run that somebody else opened and will close; ``step`` gives the step where a call names none."""
        writer = cls.__new__(cls)
        writer._attach(run, step, owned=False)
        return writer

    def _attach(self, run: Run, step: Callable[[], int], owned: bool) -> None:
        self._opened, self._step, self._owned, self._closed = run, step, owned, False
        self._trials: dict[str, str] = {}
        self._take_lane()

    def __getstate__(self) -> dict[str, Any]:
        """All but the way into this process's queue; the step that the owner is at now is the copy's."""
        own = ("_lane", "_number", "_curves", "_charts")
        state = {name: value for name, value in self.__dict__.items() if name not in own}
        return {**state, "_step": partial(int, self._step())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._take_lane()

    @property
    def _run(self) -> Run:
        """The run; opened again, in a new file, where the writer was closed before."""
        if self._closed:
            again = {"purge_step": self.purge_step, "suffix": self.filename_suffix, "on_error": self._on_error}
            run = open_run(self._opened.log_dir, **again)
            self.purge_step = None
            self._attach(run, self._step, self._owned)
        return self._opened

    def add_text(
        self, tag: str, text_string: str | Sequence[Any], global_step: int | None = None, walltime: float | None = None
    ) -> None:
        """One block of Markdown; or a table of them, from nested lists or an array of texts: a list is a column.

        It has the tag ``<tag>/text_summary``, as the peer's has.

        Raises:
            InvalidValueError: there is something else than texts, or nothing, or rows differ in length.
        """
        check_tag(tag)
        self._write(global_step, walltime, ((f"{tag}/{TEXT_SUFFIX}", to_text(tag, text_string)),))

    def add_image(
        self,
        tag: str,
        img_tensor: torch.Tensor | np.ndarray,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:
        """One picture: floats in 0..1, integers in 0..255 of any width, booleans as black and white.

        The caller waits for a copy of the array, and on CUDA not even for that.

        Raises:
            InvalidValueError: the layout or the number of channels makes no picture.
        """
        self._write_copy(tag, img_tensor, dataformats, global_step, walltime)

    def add_images(
        self,
        tag: str,
        img_tensor: torch.Tensor | np.ndarray,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "NCHW",
    ) -> None:
        """Several pictures of one size under one tag, which TensorBoard pages; dtypes and costs as in ``add_image``.

        Raises:
            InvalidValueError: the layout or the number of channels makes no picture.
        """
        self._write_copy(tag, img_tensor, dataformats, global_step, walltime)

    def add_image_with_boxes(
        self,
        tag: str,
        img_tensor: torch.Tensor | np.ndarray,
        box_tensor: torch.Tensor | np.ndarray | None,
        global_step: int | None = None,
        walltime: float | None = None,
        rescale: float = 1,
        dataformats: str = "CHW",
        labels: list[str] | None = None,
        masks: torch.Tensor | np.ndarray | None = None,
    ) -> None:
        """One picture with boxes in red, drawn at the call by torchvision; dtypes as in ``add_image``.

        Args:
            box_tensor: [N, 4], left, top, right and bottom of each in pixels; None for none.
            rescale: the picture is drawn on, then made this many times as wide and high.
            labels: one a box.
            masks: booleans [N, height, width], true where something is: drawn half transparent, each in a colour.

        Raises:
            InvalidValueError: it is not one picture, or a box, label or mask does not fit it.
            TorchboardError: torchvision is broken.
        """
        pixels = to_pixels(to_array(img_tensor), dataformats)
        if len(pixels) != 1:
            wrong = "boxes are drawn on one"
            raise InvalidValueError(f"{len(pixels)} pictures for {tag!r}", wrong, "log each under a tag of its own")
        picture = draw_boxes(Image(pixels).pixels[0], box_tensor, labels, masks)
        self._write_image(tag, resized(picture, rescale)[None], global_step, walltime)

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
        pictures = [draw_figure(item) for item in figures]
        if len({picture.shape for picture in pictures}) != 1:
            sizes = ", ".join("{1} x {0}".format(*picture.shape) for picture in pictures)
            raise InvalidValueError(
                f"figures of {sizes or 'no'} pixels", "one tag holds pictures of one size", "log each under a tag"
            )
        drawn = Deferred(tag, Image, Arrived(np.stack(pictures)), lambda rgba: Image(over_white(rgba)))
        self._write_later(drawn, global_step, walltime)
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

        check_tag(tag)
        self._write(global_step, walltime, pending=(snapshot_of(tag, values),), droppable=True)

    def add_graph(
        self, model: torch.nn.Module, input_to_model: Any = None, verbose: bool = False, use_strict_trace: bool = True
    ) -> None:
        """The graph of one forward pass of ``model`` on ``input_to_model`` (a tensor, or a tuple or dict of arguments).

        The pass runs in evaluation mode and leaves the model as it was. Nothing is traced or compiled, so ``verbose`` and
        ``use_strict_trace`` have nothing to act on. Beside the operations with what they cost come the layers of the model
        and, as a text, a table of them. ``model`` may be what ``torchboard.graph`` gave, too; then nothing runs.

        Raises:
            InvalidValueError: ``model`` is not a module, or cannot be recorded.
            Exception: what the model itself raises; what ran before is written.
        """
        from torchboard.graph.recorded import recording_for_writer

        recorded, error = recording_for_writer(model, input_to_model)
        if recorded is not None:
            self._write(0, None, pending=(recorded,))
        if error is not None:
            raise error

    def add_onnx_graph(self, prototxt: str | os.PathLike[str]) -> None:
        """The graph of an ONNX file, nested by the modules that the exporter noted; weights are not loaded.

        Raises:
            TorchboardError: the package ``onnx`` is not installed.
            InvalidValueError: there is no such file, or it is no ONNX model.
        """
        from torchboard.graph.onnx_model import onnx_graph

        self._write(0, None, ((RUN_GRAPH_TAG, onnx_graph(prototxt)),))

    def get_logdir(self) -> str | None:
        """The directory that the run is written to."""
        root, name = self._opened.log_dir, self._opened.name
        return os.path.join(root, name) if root and name else root

    def flush(self) -> None:
        """Returns when everything written before is on disk."""
        if not self._closed:
            self._opened.flush()

    def close(self) -> None:
        """Flushes and lets go of the directory; a second call does nothing.

        A writer that is written to after that opens its directory again, as the peer's does.
        """
        if self._owned and not self._closed:
            self._closed = True
            self._leave_lane()
            self._opened.close()

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write_copy(self, tag: str, pictures: Any, layout: str, step: int | None, walltime: float | None) -> None:
        copy = copied_levels(pictures)
        check_picture(copy.shape, copy.dtype, layout)
        image = Deferred(tag, Image, copy.arrival, lambda array: Image(to_pixels(array, layout)))
        self._write_later(image, step, walltime)

    def _write_image(self, tag: str, pixels: np.ndarray, step: int | None, walltime: float | None) -> None:
        self._write(step, walltime, ((tag, Image(pixels)),), droppable=True)

    def _write(self, step: int | None, walltime: float | None, pairs: tuple = (), **rest: Any) -> None:
        self._run.write(self._step() if step is None else step, pairs, wall_time=walltime, **rest)
