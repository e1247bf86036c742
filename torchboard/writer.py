"""SummaryWriter: the signatures of ``torch.utils.tensorboard.SummaryWriter`` over our values.

No knowledge of any format lives here: a method turns what users pass into a value and hands it to the run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from torchboard.arrays import draw_figure, to_array
from torchboard.dashboards import DashboardMethods
from torchboard.errors import InvalidValueError
from torchboard.run import Run, check_step, check_tag, open_run
from torchboard.values import Image, Scalar, Text
from torchboard.values.image import to_pixels

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


class SummaryWriter(DashboardMethods):
    """Writes all kinds of values to one run.

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
        self._trials: dict[str, str] = {}

    @classmethod
    def on_run(cls, run: Run, step: Callable[[], int]) -> SummaryWriter:
        """A writer on a run that somebody else opened and will close; ``step`` gives the step where a call names none."""
        writer = cls.__new__(cls)
        writer._run, writer._step, writer._owned, writer._trials = run, step, False, {}
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

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, float | torch.Tensor | np.ndarray],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Numbers that share a chart: each is the curve ``main_tag`` of a run of its own, ``<main_tag>_<key>``.

        A slash in ``main_tag`` is an underscore in the run's name. The runs are written by the sink of this one.

        Raises:
            InvalidValueError: one of them is not one real number; nothing is written then.
            TagError: a key would leave the directory.
        """
        from torchboard.capture.metrics import check_metric, scalars

        if not isinstance(tag_scalar_dict, Mapping):
            came = f"scalars {main_tag!r} = {type(tag_scalar_dict).__name__}"
            raise InvalidValueError(came, "they are a dict of numbers", "give {'train': 0.5, 'test': 0.7}, say")
        numbers = {key: check_metric(f"{main_tag}/{key}", value) for key, value in tag_scalar_dict.items()}
        runs = [self._run.sub(f"{main_tag}".replace("/", "_") + f"_{key}") for key in numbers]
        step = self._step() if global_step is None else global_step
        now = time.time() if walltime is None else walltime
        for run, number in zip(runs, numbers.values()):
            pairs, pending = scalars({main_tag: number})
            run.write(step, pairs, wall_time=now, pending=pending)

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
        self._write_image(tag, to_pixels(to_array(img_tensor), dataformats), global_step, walltime)

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
        self._write_image(tag, to_pixels(to_array(img_tensor), dataformats), global_step, walltime)

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

    def add_hparams(
        self,
        hparam_dict: dict[str, bool | float | str],
        metric_dict: dict[str, float | torch.Tensor],
        hparam_domain_discrete: dict[str, list[Any]] | None = None,
        run_name: str | None = None,
        global_step: int | None = None,
    ) -> None:
        """One finished trial: a row of the HParams dashboard, with these metrics, in a run below this one.

        A second call with the same ``run_name`` and hyperparameters adds a point to the metrics.

        Args:
            hparam_dict: name -> boolean, number or text.
            metric_dict: tag -> number; the tags of all trials are the table's columns.
            hparam_domain_discrete: name -> all values that it can take; the table then shows the columns of this trial only.
            run_name: the run's name below this one; by default the time.
            global_step: the step of the metrics, of 31 bits.

        Raises:
            InvalidValueError: a value is of another type or outside its domain; or the run holds another trial.
            TagError: the name would leave the directory. Nothing is written then, as in the other cases.
        """
        from torchboard.capture.metrics import check_metric, scalars
        from torchboard.hparams.trials import finished_trial, plain_hparams, trial_id_of

        hparams = plain_hparams(hparam_dict)
        trial = finished_trial(hparams, metric_dict, hparam_domain_discrete)
        pairs, pending = scalars({tag: check_metric(tag, value) for tag, value in metric_dict.items()})
        step = check_step(self._step() if global_step is None else global_step)
        name = run_name or str(time.time())
        run, identity = self._run.sub(name), trial_id_of(None, hparams)
        if step >= 2**31:
            raise InvalidValueError(
                f"step {step} of a trial", "the HParams dashboard takes steps of 31 bits", "give a lower global_step"
            )
        if self._trials.get(name, identity) != identity:
            raise InvalidValueError(
                f"a second trial in run {name!r}",
                "TensorBoard keeps to the first hyperparameters of a run",
                "give every trial a run_name of its own, or none",
            )
        run.write(step, pairs if name in self._trials else trial + pairs, pending=pending)
        self._trials[name] = identity

    def add_embedding(
        self,
        mat: torch.Tensor | np.ndarray,
        metadata: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
        label_img: torch.Tensor | np.ndarray | None = None,
        global_step: int | None = None,
        tag: str = "default",
        metadata_header: Sequence[str] | None = None,
    ) -> None:
        """Points for the Embedding Projector, as files in ``<step>/<tag>`` below the run; about 0.3 µs a number at the call.

        Args:
            mat: [N, D], finite; shown as float32.
            metadata: N labels, or N lists of labels with a ``metadata_header``.
            label_img: [N, C, H, W], a small picture of each; dtypes as in ``add_image``.

        Raises:
            InvalidValueError: there is no point, a number is not finite, or a length or shape does not fit.
        """
        from torchboard.values.projector import CONFIG, Embedding, config, to_labels, to_points

        check_tag(tag)
        step = check_step(self._step() if global_step is None else global_step)
        rows = to_array(metadata) if hasattr(metadata, "shape") else metadata
        labels, header = (None, ()) if rows is None else to_labels(rows, metadata_header)
        pictures = None if label_img is None else to_pixels(to_array(label_img), "NCHW")
        embedding = Embedding(tag, step, to_points(tag, to_array(mat)), labels, header, pictures)
        for path, data in embedding.files():
            self._run.put(path, data)
        self._run.embeddings[embedding.name] = embedding.entry()
        self._run.put(CONFIG, config(self._run.embeddings.values()))

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
