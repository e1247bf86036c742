"""The methods of SummaryWriter for dashboards of one purpose: PR curves, sound, video, meshes, trials, embeddings and
charts of one's own.

Signatures are those of ``torch.utils.tensorboard.SummaryWriter``. As in all of the writer, what is passed is checked and
copied at the call, and files are made on the sink's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from torchboard.arrays import copied, to_array
from torchboard.errors import InvalidValueError
from torchboard.run import Run, check_step
from torchboard.tags import check_tag
from torchboard.values import Array, Audio, Layout, PrCurve, Video
from torchboard.values.audio import check_sound, to_clips
from torchboard.values.custom_scalars import LAYOUT_TAG
from torchboard.values.deferred import Deferred
from torchboard.values.hparams import plain
from torchboard.values.image import to_pixels
from torchboard.values.mesh import mesh_parts
from torchboard.values.prebinned import from_limits
from torchboard.values.projector import Embedding, to_labels, to_points
from torchboard.values.video import check_video, to_frames

if TYPE_CHECKING:
    import torch

    ArrayLike = torch.Tensor | np.ndarray | Sequence[Any]


class DashboardMethods:
    """What a writer has beside curves, texts, pictures, histograms and graphs."""

    _run: Run
    _step: Callable[[], int]
    _trials: dict[str, str]
    """Run -> identity of the trial in it."""
    _layouts: tuple[Layout, ...] = ()
    """Layouts of custom scalars, in the order given."""

    def _write(self, step: int | None, walltime: float | None, pairs: tuple = (), **rest: Any) -> None:
        """Writes pairs to the run; ``step`` None is the step of the writer's owner."""
        raise NotImplementedError

    def _write_later(self, value: Deferred, step: int | None, walltime: float | None) -> None:
        """Writes one value to the run that is made when the sink gets to it."""
        check_tag(value.tag)
        self._write(step, walltime, pending=(value,), droppable=True)

    def add_histogram_raw(
        self,
        tag: str,
        min: float,
        max: float,
        num: float,
        sum: float,
        sum_squares: float,
        bucket_limits: ArrayLike,
        bucket_counts: ArrayLike,
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """A distribution that was counted elsewhere, with its own buckets: 12 or 24 bytes each.

        Args:
            min, max: the least and the greatest value counted; where one is not finite, the limits stand for it.
            num, sum, sum_squares: taken for compatibility: no dashboard shows them.
            bucket_limits: upper limits in ascending order.
            bucket_counts: how many values each bucket holds, from the limit before to its own.

        Raises:
            InvalidValueError: the lengths differ, limits do not ascend, a count is negative or not finite, or ``min`` and
                ``max`` lie inside of what the limits say.
        """
        least, greatest = (_number(name, value) for name, value in (("min", min), ("max", max)))
        histogram = from_limits(to_array(bucket_limits), to_array(bucket_counts), least, greatest)
        self._write(global_step, walltime, ((tag, histogram),), droppable=True)

    def add_pr_curve(
        self,
        tag: str,
        labels: ArrayLike,
        predictions: ArrayLike,
        global_step: int | None = None,
        num_thresholds: int = 127,
        weights: ArrayLike | None = None,
        walltime: float | None = None,
    ) -> None:
        """Precision against recall of a binary classifier, at equally spaced thresholds from 0 to 1.

        Args:
            labels: what is true: booleans, or numbers in 0..1.
            predictions: as many probabilities.
            num_thresholds: 2 or more, with no upper limit.
            weights: what each prediction counts; 1 by default.

        Raises:
            InvalidValueError: one of these does not hold, the sizes differ, or there is no prediction.
        """
        weight = None if weights is None else to_array(weights)
        curve = PrCurve.from_predictions(to_array(labels), to_array(predictions), num_thresholds, weight)
        self._write(global_step, walltime, ((tag, curve),))

    def add_pr_curve_raw(
        self,
        tag: str,
        true_positive_counts: ArrayLike,
        false_positive_counts: ArrayLike,
        true_negative_counts: ArrayLike,
        false_negative_counts: ArrayLike,
        precision: ArrayLike,
        recall: ArrayLike,
        global_step: int | None = None,
        num_thresholds: int = 127,
        weights: ArrayLike | None = None,
        walltime: float | None = None,
    ) -> None:
        """Precision against recall as counted elsewhere: element i of each belongs to the threshold i / (n - 1).

        ``num_thresholds`` and ``weights`` are taken for compatibility: n is the length of the arrays.

        Raises:
            InvalidValueError: the lengths differ, or a number is negative or not finite.
        """
        counts = (true_positive_counts, false_positive_counts, true_negative_counts, false_negative_counts)
        rows = [to_array(row) for row in (*counts, precision, recall)]
        self._write(global_step, walltime, ((tag, PrCurve.from_rows(*rows)),))

    def add_audio(
        self,
        tag: str,
        snd_tensor: ArrayLike,
        global_step: int | None = None,
        sample_rate: int = 44100,
        walltime: float | None = None,
    ) -> None:
        """Sound: [frames], [channels, frames], or [clips, channels, frames], which TensorBoard pages.

        Floats lie in -1..1: values beyond are clipped, and NaN is silence. int16 samples are taken as they are.

        Raises:
            InvalidValueError: another type or shape, or a rate that is no positive whole number.
        """
        copy = copied(snd_tensor)
        check_sound(copy.shape, copy.dtype, sample_rate)
        sound = Deferred(tag, Audio, copy.arrival, lambda array: Audio(to_clips(array), sample_rate))
        self._write_later(sound, global_step, walltime)

    def add_video(
        self,
        tag: str,
        vid_tensor: ArrayLike,
        global_step: int | None = None,
        fps: float = 4,
        walltime: float | None = None,
    ) -> None:
        """Videos [N, T, C, H, W] as animations on the Images dashboard, which pages them; numbers as in ``add_image``.

        More than 256 different colours are reduced to as many, but in frames with an alpha channel.

        Args:
            fps: frames a second, at most 50.

        Raises:
            InvalidValueError: another shape, or a number of channels that makes no picture.
        """
        copy = copied(vid_tensor)
        check_video(copy.shape, copy.dtype, fps)
        video = Deferred(tag, Video, copy.arrival, lambda array: Video(to_frames(array), fps))
        self._write_later(video, global_step, walltime)

    def add_mesh(
        self,
        tag: str,
        vertices: ArrayLike,
        colors: ArrayLike | None = None,
        faces: ArrayLike | None = None,
        config_dict: Mapping[str, Any] | None = None,
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Meshes, or point clouds where there are no faces.

        Args:
            vertices: positions [meshes, vertices, 3]; one mesh may leave out the first axis, here and below.
            colors: one a vertex: integers in 0..255, or floats in 0..1.
            faces: indices of vertices, [meshes, faces, 3].
            config_dict: ``camera``, ``lights`` and ``material`` as THREE.js classes and their settings.

        Raises:
            InvalidValueError: one of these does not hold, or a position is not finite.
        """
        others = (None if values is None else to_array(values) for values in (faces, colors))
        self._write(global_step, walltime, mesh_parts(tag, to_array(vertices), *others, config_dict), droppable=True)

    def add_tensor(
        self, tag: str, tensor: ArrayLike, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        """Any array of numbers, kept exactly, for programs that read the log: no dashboard draws it.

        bfloat16 and 8-bit floats are kept as float32.

        Raises:
            InvalidValueError: its elements are not numbers.
        """
        self._write(global_step, walltime, ((tag, Array(np.array(to_array(tensor)))),))

    def add_custom_scalars(self, layout: Mapping[str, Mapping[str, Any]] | Layout) -> None:
        """Charts of several curves: ``{category: {chart: ["Multiline", tags]}}``, or ``["Margin", [value, low, high]]``.

        Later calls add to the layout; a chart takes the place of an earlier one of its category and title. Tags of a
        multiline chart are regular expressions.

        Raises:
            InvalidValueError: the layout is built otherwise.
        """
        merged = layout if isinstance(layout, Layout) else Layout.from_mapping(layout)
        if self._layouts:
            merged = self._layouts[-1].merged(merged)
        self._write(len(self._layouts), None, ((LAYOUT_TAG, merged),))
        self._layouts = (*self._layouts, merged)

    def add_custom_scalars_multilinechart(
        self, tags: Sequence[str], category: str = "default", title: str = "untitled"
    ) -> None:
        """One more chart of custom scalars, with all curves whose tags match one of the regular expressions ``tags``."""
        self.add_custom_scalars({category: {title: ["Multiline", tags]}})

    def add_custom_scalars_marginchart(
        self, tags: Sequence[str], category: str = "default", title: str = "untitled"
    ) -> None:
        """One more chart of custom scalars, of a band: ``tags`` are those of the value, the lower and the upper limit."""
        self.add_custom_scalars({category: {title: ["Margin", tags]}})

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
            hparam_dict: name -> boolean, number or text; one that is None is left out.
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

        _check_mapping("metrics", metric_dict, "give {'accuracy': 0.7}, say")
        domains = hparam_domain_discrete or {}
        _check_mapping("domains", domains, "give {'optimizer': ['sgd', 'adam']}, say")
        if isinstance(hparam_dict, Mapping):  # what the peer refuses stays refused: dicts inside
            domains = {key: domain for key, domain in domains.items() if hparam_dict.get(key, key) is not None}
            given = ((key, value) for key, value in hparam_dict.items() if value is not None)
            hparam_dict = {key: plain(getattr(key, "name", key), value) for key, value in given}
        hparams = plain_hparams(hparam_dict)
        trial = finished_trial(hparams, metric_dict, domains)
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
        """Points for the Embedding Projector, as files in ``<step>/<tag>`` below the run.

        They are made at the call: about 10 ns a number and 40 ns a pixel.

        Args:
            mat: [N, D], finite; shown as float32.
            metadata: N labels, or N lists of labels with a ``metadata_header``.
            label_img: [N, C, H, W], a small picture of each; dtypes as in ``add_image``.

        Raises:
            InvalidValueError: there is no point, a number is not finite, or a length or shape does not fit.
        """
        check_tag(tag)
        step = check_step(self._step() if global_step is None else global_step)
        rows = to_array(metadata) if hasattr(metadata, "shape") else metadata
        labels, header = (None, ()) if rows is None else to_labels(rows, metadata_header)
        pictures = None if label_img is None else to_pixels(to_array(label_img), "NCHW")
        self._run.put_embeddings([Embedding(tag, step, to_points(tag, to_array(mat)), labels, header, pictures)])


def _check_mapping(name: str, given: Any, remedy: str) -> None:
    if not isinstance(given, Mapping):
        raise InvalidValueError(f"{name} of a trial: {given!r:.80}", "they are names and values", remedy)


def _number(name: str, value: Any) -> float:
    """One real number, NaN and infinities included."""
    array = to_array(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise InvalidValueError(f"{name}={value!r:.80}", "it is one real number", "give a float")
    return float(array.reshape(()))
