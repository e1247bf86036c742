"""The shapes of ``tf.summary``, for code and habits that come from there: change the import and go on.

    >>> from torchboard import summary
    >>> with summary.create_file_writer("logs/metrics").as_default():
    ...     summary.scalar("learning rate", 0.01, step=0)
    True

The default writer, the default step, the condition to record and the name scope belong to the thread (and to the
asynchronous task) that set them; a new thread starts without. Every function that writes returns whether it did: False
without a default writer, or where ``record_if`` says not to. Semantics: TensorFlow 2's ``tf.summary``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from torchboard import proto
from torchboard.arrays import draw_figure, to_array
from torchboard.errors import InvalidValueError
from torchboard.summary.defaults import (
    FileWriter,
    create_file_writer,
    create_noop_writer,
    default_run,
    flush,
    get_step,
    name_scope,
    record_if,
    scoped,
    set_step,
    should_record_summaries,
    whole,
)
from torchboard.values import Array, Audio, Image, Pending, PrCurve, Value
from torchboard.values.audio import to_clips
from torchboard.values.image import to_pixels
from torchboard.values.mesh import mesh_parts
from torchboard.values.message import values_of
from torchboard.values.tensor import tensor_proto
from torchboard.values.text import to_text

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    ArrayLike = torch.Tensor | np.ndarray | Sequence[Any]

__all__ = [
    "FileWriter",
    "audio",
    "create_file_writer",
    "create_noop_writer",
    "flush",
    "get_step",
    "graph",
    "histogram",
    "image",
    "mesh",
    "name_scope",
    "plot_to_image",
    "pr_curve",
    "record_if",
    "scalar",
    "set_step",
    "should_record_summaries",
    "text",
    "write",
]


def scalar(
    name: str, data: float | torch.Tensor | np.ndarray, step: int | None = None, description: str | None = None
) -> bool:
    """One number; a tensor on another device is not waited for.

    Raises:
        InvalidValueError: it is not one real number, or there is no step.
    """

    def numbers(tag: str) -> tuple[tuple, tuple]:
        from torchboard.capture.metrics import check_metric, scalars

        return scalars({tag: check_metric(tag, data)})

    return _write(name, numbers, step, description)


def histogram(
    name: str,
    data: ArrayLike,
    step: int | None = None,
    buckets: int | None = None,
    description: str | None = None,
) -> bool:
    """The distribution of all elements, reduced where they are.

    ``buckets`` is taken for compatibility: they follow the data, at most about 64, never coarser than 30 equal ones.

    Raises:
        InvalidValueError: the elements are not real numbers, or there is no step.
    """

    def sketch(tag: str) -> tuple[tuple, tuple]:
        from torchboard.capture.sketches import snapshot_of

        return (), (snapshot_of(tag, data),)

    return _write(name, sketch, step, description)


def image(
    name: str, data: ArrayLike, step: int | None = None, max_outputs: int = 3, description: str | None = None
) -> bool:
    """Pictures [k, height, width, channels] of 1 to 4 channels, the first ``max_outputs`` of them under one tag.

    Floats are taken as 0..1, integers as 0..255, and clipped.

    Raises:
        InvalidValueError: another shape, no picture at all, or there is no step.
    """
    return _write(
        name,
        lambda tag: (((tag, Image(to_pixels(_first(tag, data, max_outputs, 4), "NHWC"))),), ()),
        step,
        description,
    )


def plot_to_image(figure: Figure) -> np.ndarray:
    """A matplotlib figure as ``image`` takes it, uint8[1, height, width, 4]; pyplot forgets the figure, as in the tutorial.

    Raises:
        InvalidValueError: it is no figure.
    """
    pixels = draw_figure(figure)[None]
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)
    return pixels


def audio(
    name: str,
    data: ArrayLike,
    sample_rate: int,
    step: int | None = None,
    max_outputs: int = 3,
    encoding: str | None = None,
    description: str | None = None,
) -> bool:
    """Clips [k, frames, channels] of floats in -1..1, the first ``max_outputs`` of them under one tag, as WAV.

    Raises:
        InvalidValueError: another shape, an encoding other than ``"wav"``, or there is no step.
    """
    if encoding not in (None, "wav"):
        raise InvalidValueError(f"encoding={encoding!r}", "sound is written as WAV", "give 'wav', or nothing")

    def clips(tag: str) -> tuple[tuple, tuple]:
        sound = to_clips(np.swapaxes(_first(tag, data, max_outputs, 3), 1, 2))
        return ((tag, Audio(sound, sample_rate)),), ()

    return _write(name, clips, step, description)


def text(name: str, data: Any, step: int | None = None, description: str | None = None) -> bool:
    """Markdown: one text, or an array of texts, which is drawn as a table.

    Raises:
        InvalidValueError: there is something else than texts, or there is no step.
    """
    return _write(name, lambda tag: (((tag, to_text(tag, data)),), ()), step, description)


def mesh(
    name: str,
    vertices: ArrayLike,
    faces: ArrayLike | None = None,
    colors: ArrayLike | None = None,
    config_dict: Mapping[str, Any] | None = None,
    step: int | None = None,
    description: str | None = None,
) -> bool:
    """Meshes, or point clouds where there are no faces; arrays as of ``SummaryWriter.add_mesh``.

    Raises:
        InvalidValueError: a shape does not fit, a position is not finite, or there is no step.
    """

    def parts(tag: str) -> tuple[tuple, tuple]:
        others = [None if values is None else to_array(values) for values in (faces, colors)]
        return mesh_parts(tag, to_array(vertices), *others, config_dict), ()

    return _write(name, parts, step, description)


def pr_curve(
    name: str,
    labels: ArrayLike,
    predictions: ArrayLike,
    num_thresholds: int = 127,
    weights: ArrayLike | None = None,
    step: int | None = None,
    description: str | None = None,
) -> bool:
    """Precision against recall of a binary classifier; arrays as of ``SummaryWriter.add_pr_curve``.

    Raises:
        InvalidValueError: the sizes differ, a number is out of its range, or there is no step.
    """

    def curve(tag: str) -> tuple[tuple, tuple]:
        weight = None if weights is None else to_array(weights)
        counted = PrCurve.from_predictions(to_array(labels), to_array(predictions), num_thresholds, weight)
        return ((tag, counted),), ()

    return _write(name, curve, step, description)


def graph(model: torch.nn.Module, input_to_model: Any = None) -> bool:
    """The graph of one forward pass of a module in evaluation mode, which leaves the module as it was; at step 0.

    Raises:
        InvalidValueError: it is not a module.
    """
    from torchboard.graph.recorded import recording_for_writer

    if not should_record_summaries():
        return False
    recorded, error = recording_for_writer(model, input_to_model)
    if recorded is not None:
        default_run().write(0, (), pending=(recorded,))
    if error is not None:
        raise error
    return True


def write(tag: str, tensor: ArrayLike, step: int | None = None, metadata: Any = None, name: str | None = None) -> bool:
    """Any array of numbers, for the plugin that ``metadata``, a ``SummaryMetadata`` message, names.

    Without it the array is kept for programs that read the log. ``name`` is taken for compatibility.

    Raises:
        InvalidValueError: the elements are not numbers, or there is no step.
    """

    def message(tag: str) -> tuple[tuple, tuple]:
        if metadata is None:
            return ((tag, Array(np.array(to_array(tensor)))),), ()
        event = proto.Event()
        value = event.summary.value.add(tag=tag)
        value.tensor.CopyFrom(tensor_proto(to_array(tensor)))
        value.metadata.MergeFromString(metadata.SerializeToString())
        return values_of(event), ()

    return _write(tag, message, step, None)


@dataclass(frozen=True)
class _Described:
    """Values on their way, each with a description."""

    values: Pending
    description: str

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    @property
    def plugins(self) -> dict[str, str]:
        return self.values.plugins

    def settle(self) -> Iterable[tuple[str, Value]]:
        for tag, value in self.values.settle():
            yield tag, _described(value, self.description)


def _described(value: Value, description: str) -> Value:
    """The value with a description, unless it has one, or its dashboard shows none."""
    return value if getattr(value, "description", None) != "" else replace(value, description=description)


def _write(name: str, make: Callable[[str], tuple[tuple, tuple]], step: Any, description: str | None) -> bool:
    """Writes what ``make`` gives for the tag, pairs and pending values, if there is somebody to write to."""
    if not should_record_summaries():
        return False
    run = default_run()
    step = get_step() if step is None else whole(step)
    if step is None:
        raise InvalidValueError(
            f"summary {name!r} without a step", "there is no default step either", "give step=, or call set_step"
        )
    pairs, pending = make(scoped(name))
    if description:
        pairs = tuple((tag, _described(value, description)) for tag, value in pairs)
        pending = tuple(_Described(values, description) for values in pending)
    run.write(step, pairs, pending=pending)
    return True


def _first(tag: str, data: Any, most: int, axes: int) -> np.ndarray:
    """The first ``most`` items of an array with so many axes."""
    array = to_array(data)
    if array.ndim != axes or most < 1:
        names = "[k, height, width, channels]" if axes == 4 else "[k, frames, channels]"
        came = f"{tag!r} of shape {list(array.shape)}, of which {most} are to be shown"
        raise InvalidValueError(came, f"it is an array {names}, and one at least is shown", "add the missing axes")
    return array[:most]
