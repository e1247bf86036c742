"""A log as TensorBoard's own accumulator reads it: runs, tags, plugins, steps and values, whoever wrote it."""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util import tensor_util


@dataclass(frozen=True)
class Curve:
    """What one tag of one run holds.

    Attributes:
        plugin: the plugin that shows it.
        steps, times: of each value.
        values: arrays, or what ``decoded`` makes of them.
    """

    plugin: str
    steps: tuple[int, ...]
    times: tuple[float, ...]
    values: tuple[Any, ...]


def accumulated(log_dir: Path) -> dict[tuple[str, str], Curve]:
    """``(run, tag)`` -> what TensorBoard has under it. The graph of a run has the tag ``__run_graph__``."""
    found: dict[tuple[str, str], Curve] = {}
    for run in runs(log_dir):
        accumulator = EventAccumulator(
            os.path.join(log_dir, run), tensor_size_guidance=dict.fromkeys(_EVERY_PLUGIN, 0)
        ).Reload()
        for tag in accumulator.Tags()["tensors"]:
            points = accumulator.Tensors(tag)
            metadata = accumulator.SummaryMetadata(tag)
            plugin = metadata.plugin_data.plugin_name
            values = tuple(decoded(plugin, point.tensor_proto, metadata.plugin_data.content) for point in points)
            found[run, tag] = Curve(
                plugin, tuple(point.step for point in points), tuple(point.wall_time for point in points), values
            )
    return found


_EVERY_PLUGIN = (
    "scalars",
    "histograms",
    "images",
    "audio",
    "text",
    "pr_curves",
    "mesh",
    "custom_scalars",
    "hparams",
    "tensor",
    "graphs",
    "graph_keras_model",
    "graph_tagged_run_metadata",
    "projector",
    "",
)


def runs(log_dir: Path) -> Iterator[str]:
    """Directories below a log directory that hold event files."""
    for directory, _, files in os.walk(log_dir):
        if any("tfevents" in name for name in files):
            yield os.path.relpath(directory, log_dir)


def decoded(plugin: str, tensor: Any, content: bytes) -> Any:
    """One value: an array; pictures as arrays of pixels and sounds as arrays of samples, each in a list; hyperparameters as
    their message."""
    if plugin == "hparams":
        return HParamsPluginData.FromString(content)
    array = tensor_util.make_ndarray(tensor)
    if plugin == "images":
        return [_pixels(data) for data in array[2:]]
    if plugin == "audio":
        return [_samples(data) for data in array.reshape(-1)]
    return array


def _pixels(data: bytes) -> np.ndarray:
    """A picture without a palette."""
    with PIL.Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)


def _samples(data: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(data)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
