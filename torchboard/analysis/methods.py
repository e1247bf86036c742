"""The monitor's methods for what a model makes of a set of examples: predictions of a classifier, places in a space."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchboard.analysis.predictions import predictions_of
from torchboard.analysis.slices import run_names, slices_of
from torchboard.capture.model_watch import ModelWatch
from torchboard.capture.select import tag as tag_of
from torchboard.errors import InvalidValueError
from torchboard.phases import Phases
from torchboard.tags import check_tag

if TYPE_CHECKING:
    import numpy as np
    import torch

    ArrayLike = torch.Tensor | np.ndarray | Sequence[Any]


class AnalysisMethods:
    """Part of ``Monitor``: predictions of an epoch, given whole or as lists of batches."""

    epoch: int
    _writes: bool
    _phases: Phases
    _watch: ModelWatch

    @property
    def phase_name(self) -> str:
        """The phase whose run is written to."""
        raise NotImplementedError

    def _check_open(self, call: str) -> None:
        raise NotImplementedError

    def log_predictions(
        self,
        targets: ArrayLike,
        scores: ArrayLike,
        classes: Sequence[str] | None = None,
        images: ArrayLike | None = None,
        *,
        logits: bool = False,
        tag: str = "predictions",
    ) -> None:
        """What a classifier's predictions say about it, in the run of the current phase, at the current epoch.

        Below ``tag``: scalars ``accuracy``, ``roc_auc`` and ``average_precision`` (of several classes the mean, each against
        the others), ``expected_calibration_error`` (15 bins); ``pr_curve/<class>`` for at most 12 classes, else
        ``pr_curve/all_classes``; pictures ``roc``, ``confusion``, ``confusion_normalised`` and ``reliability``; tables
        ``most_confused`` and ``top_losses/table``, and with images ``top_losses/images``. An area that is not defined, as
        where there are examples of one class only, is left out.

        The caller waits for tensors on a device, and for about half a second of drawing; each class costs a sort of its
        scores, and 50,000 examples of 1,000 classes some seconds. On ranks that do not write only the arguments are checked.

        Args:
            targets: [N], the number of each example's class, or booleans; or a list of such arrays or tensors, one a batch,
                and then everything else comes in the same batches.
            scores: probabilities, [N] of class 1 or [N, C].
            classes: C names.
            images: one an example, of which the 16 with the greatest losses are shown: [N, C, H, W] or [N, H, W], or anything
                with a length whose items are such pictures, floats in 0..1 or integers in 0..255.
            logits: the scores are logits: take the sigmoid of [N], or the softmax of [N, C].
            tag: what the tags begin with.

        Raises:
            InvalidValueError: a score is not finite or no probability, or something does not fit. Nothing is written then.
            ClosedError: the monitor was closed.
        """
        from torchboard.analysis.report import pictures_of, report, top_losses

        self._check_open("log_predictions")
        check_tag(tag)
        predictions = predictions_of(targets, scores, classes, logits)
        pictures = None if images is None else pictures_of(images, targets, top_losses(predictions))
        if self._writes:
            self._phases.run(self.phase_name).write(self.epoch, report(tag, predictions, pictures))

    def log_embeddings(
        self,
        layer: str,
        inputs: torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor],
        labels: Sequence[Any] | None = None,
        images: ArrayLike | None = None,
        *,
        header: Sequence[str] | None = None,
        batch_size: int = 256,
    ) -> None:
        """Where a layer puts a set of examples, as points in the Projector tab, in the current phase's run and epoch.

        The model is run over the examples in evaluation mode and without gradients, unseen by everything that watches it,
        and left as it was. A point is what the layer puts out in its first call, flat. It is listed as
        ``activations/<layer>:<epoch>``, one for each epoch that this is called in. The caller waits for the passes and
        for about 10 ns a number and 40 ns a pixel. On ranks that do not write no pass is made.

        Args:
            layer: its dotted name, such as ``"head"``; the class name is that of the model itself.
            inputs: N examples as the model takes them, a tensor, a tuple of tensors or a dict of keyword -> tensor, on any
                device; N is at most 100,000, what the page shows.
            labels: of each example one, or with a ``header`` a list.
            images: a small picture of each, [N, C, H, W], floats in 0..1 or integers in 0..255. Together they make a square of
                8,192 pixels at most: 10,000 of 81 x 81.
            header: a name for each column of the labels.
            batch_size: examples in a pass.

        Raises:
            InvalidValueError: there is no such layer, a length or a shape does not fit, a number is not finite, or the
                model's parameters are sharded. Nothing is written then.
            ClosedError: the monitor was closed.
            Exception: what the model raises.
        """
        from torchboard.analysis.layer_outputs import layer_outputs, named_layer
        from torchboard.arrays import to_array
        from torchboard.values.image import to_pixels
        from torchboard.values.projector import Embedding, to_labels, to_points

        self._check_open("log_embeddings")
        with self._watch.looking_away() as watched:
            module, model = named_layer(watched, layer)
            if not self._writes:
                return
            outputs = layer_outputs(model, module, inputs, batch_size)
        title = tag_of("activations", layer)
        texts, names = (None, ()) if labels is None else to_labels(labels, header)
        pictures = None if images is None else to_pixels(to_array(images), "NCHW")
        points = to_points(title, outputs)
        self._phases.run(self.phase_name).put_embeddings([Embedding(title, self.epoch, points, texts, names, pictures)])

    def log_slices(
        self,
        targets: ArrayLike,
        scores: ArrayLike,
        groups: ArrayLike | Mapping[str, ArrayLike],
        *,
        threshold: float = 0.5,
        logits: bool = False,
        tag: str = "slices",
    ) -> None:
        """How a classifier does on each slice of its examples, and how far the slices lie apart, at the current epoch.

        A binary classifier's rates are ``accuracy``, ``positive_rate``, ``true_positive_rate``, ``false_positive_rate`` and
        ``precision``; one of more classes has its ``accuracy``. The scalar ``<tag>/<rate>`` is written to the run of the
        current phase for all examples, and for each slice to a run of its own below it, ``<tag>_<slice>``, so that the
        curves lie over each other. Beside them ``<tag>/<rate>/gap`` (the greatest minus the least), ``/least``, ``/all`` and
        ``/greatest``, ``<tag>/table``, ``<tag>/figure``, and charts on the Custom Scalars dashboard. A rate of no example,
        as the true positive rate of a slice without positives, is left out, and of one that fewer than two slices have the
        comparison.

        The caller waits for tensors on a device, and for about 0.3 s of drawing.

        Args:
            targets, scores, logits, tag: as for ``log_predictions``.
            groups: N labels, texts, whole numbers or booleans, a slice a label. Or a dict: name -> labels, whose slices are
                called ``name=label``, or name -> booleans [N], true for the members of one slice; slices may overlap.
            threshold: from which probability of class 1 on a binary classifier says yes.

        Raises:
            InvalidValueError: as ``log_predictions``; or a slice has no member, or there are more than 100.
            TagError: a slice's name makes no name of a directory. Nothing is written then, as in the other cases.
            ClosedError: the monitor was closed.
        """
        from torchboard.analysis.slice_report import slice_report

        self._check_open("log_slices")
        check_tag(tag)
        predictions = predictions_of(targets, scores, None, logits)
        members = slices_of(groups, targets, len(predictions.targets))
        run = self._phases.run(self.phase_name)
        runs = {name: run.sub(place) for name, place in run_names(members, tag).items()}
        limit = _check_threshold(threshold)
        if self._writes:
            report = slice_report(tag, predictions, members, limit)
            run.write(self.epoch, report.comparison)
            for name, pairs in report.slices.items():
                runs[name].write(self.epoch, pairs)


def _check_threshold(threshold: object) -> float:
    if isinstance(threshold, numbers.Real) and 0 <= threshold <= 1:
        return float(threshold)
    raise InvalidValueError(f"threshold={threshold!r}", "it is a probability", "give a number in 0..1, such as 0.5")
