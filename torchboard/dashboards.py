"""The methods of SummaryWriter for dashboards of one purpose: PR curves, sound, video, meshes and charts of one's own.

Signatures are those of ``torch.utils.tensorboard.SummaryWriter``. As in all of the writer, what is passed is checked and
copied at the call, and files are made on the sink's thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from torchboard.arrays import to_array
from torchboard.values import Array, Audio, Layout, PrCurve, Video
from torchboard.values.audio import to_clips
from torchboard.values.custom_scalars import LAYOUT_TAG
from torchboard.values.mesh import mesh_parts
from torchboard.values.video import to_frames

if TYPE_CHECKING:
    import torch

    ArrayLike = torch.Tensor | np.ndarray | Sequence[Any]


class DashboardMethods:
    """What a writer has beside curves, texts, pictures, histograms and graphs."""

    _layouts: tuple[Layout, ...] = ()
    """Layouts of custom scalars, in the order given."""

    def _write(self, step: int | None, walltime: float | None, pairs: tuple = (), **rest: Any) -> None:
        """Writes pairs to the run; ``step`` None is the step of the writer's owner."""
        raise NotImplementedError

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
        sound = Audio(to_clips(to_array(snd_tensor)), sample_rate)
        self._write(global_step, walltime, ((tag, sound),), droppable=True)

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
        self._write(global_step, walltime, ((tag, Video(to_frames(to_array(vid_tensor)), fps)),), droppable=True)

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
