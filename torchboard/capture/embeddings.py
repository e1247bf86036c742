"""Embedding layers in TensorBoard's projector, as they are at the end of an epoch.

Each layer and epoch is an embedding of its own to choose on the page. Its files are made by the caller of ``write``, who
waits for the copy from the device: about 10 ns a number. The page reads the list of embeddings when it finds a new
run, so a TensorBoard that is running already may show later epochs only when it is started again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchboard.capture.select import nearest_names, tag
from torchboard.capture.snapshot import HostCopy
from torchboard.capture.tensors import measurable
from torchboard.errors import InvalidValueError
from torchboard.graph.module_names import class_name, module_names
from torchboard.graph.tensors import is_sharded
from torchboard.run import Run
from torchboard.values.projector import CONFIG, Embedding, entries, to_labels, to_points

MAX_POINTS = 100_000
"""As many rows as the page shows, the first ones; more are not written."""

Metadata = str | os.PathLike[str] | Iterable[Any]
"""A label for each row of an embedding, or the path of a text file with a line for each: several columns are parted by
tabs, and then the first line is their header."""
Labels = tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]


class EmbeddingLayers:
    """Writes every ``nn.Embedding`` and ``nn.EmbeddingBag`` of a model, with its labels.

    Args:
        model: its layers are looked up anew at each writing.
        metadata: labels of every layer, or a dict of layer name -> labels; None for no labels.

    Raises:
        InvalidValueError: there is no such layer, a layer has another number of rows, or a file cannot be read.

    Attributes:
        error: why an embedding could not be written, if one could not: its numbers are not finite, or it is sharded, say.
    """

    def __init__(self, model: nn.Module, metadata: Metadata | Mapping[str, Metadata] | None) -> None:
        self.error: Exception | None = None
        self._model = model
        rows = {name: len(weight) for name, weight in self._weights()}
        self._labels = {name: _labels_of(name, given, rows[name]) for name, given in _by_layer(metadata, rows).items()}

    def go_on(self, run: Run, epoch: int) -> None:
        """Keeps what a run that is gone on with lists of the epochs before this one."""
        if run.log_dir is None:
            return
        with suppress(OSError, InvalidValueError):
            for entry in entries(Path(run.log_dir, run.name, CONFIG).read_bytes()):
                number = entry.tensor_name.rpartition(":")[2]
                if not number.isdecimal() or int(number) < epoch:
                    run.embeddings.setdefault(entry.tensor_name, entry)

    def write(self, run: Run, step: int) -> None:
        """Puts the files of each layer below the run, ``<step>/embeddings%2f<layer>``, and lists them."""
        weights = {}
        for name, weight in self._weights():
            if is_sharded(weight) or _is_elsewhere(weight):
                self.error = InvalidValueError(
                    f"embedding {name!r}",
                    "its rows are sharded over ranks",
                    "call add_embedding(weight.full_tensor()) on all ranks"
                    if hasattr(weight, "full_tensor")
                    else "call add_embedding(weight) on all ranks within FullyShardedDataParallel.summon_full_params(model)",
                )
            elif (local := measurable(weight)) is not None:
                weights[name] = local
        copy = HostCopy([weight[:MAX_POINTS] for weight in weights.values()])
        embeddings = []
        for name, points in zip(weights, copy.wait()):
            title = tag("embeddings", name)
            labels, header = self._labels.get(name, (None, ()))
            try:
                embeddings.append(Embedding(title, step, to_points(title, points), labels, header))
            except InvalidValueError as error:
                self.error = error
        run.put_embeddings(embeddings)

    def _weights(self) -> Iterable[tuple[str, Tensor]]:
        for module, name in module_names(self._model).items():
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                yield name or class_name(module), module.weight


def _is_elsewhere(weight: Tensor) -> bool:
    """Whether this is a view that FSDP1 has taken the memory from, until the layer runs."""
    return type(weight) is Tensor and weight.numel() > 0 and weight.untyped_storage().nbytes() == 0


def _by_layer(metadata: Metadata | Mapping[str, Metadata] | None, rows: Mapping[str, int]) -> dict[str, Metadata]:
    """Layer -> what was given for it."""
    if metadata is None:
        return {}
    if not rows:
        raise InvalidValueError(
            f"embeddings_metadata of type {type(metadata).__name__}",
            "the model has no nn.Embedding to label",
            "leave it out",
        )
    if not isinstance(metadata, Mapping):
        if not isinstance(metadata, (str, os.PathLike)) and hasattr(metadata, "__iter__"):
            metadata = list(metadata)
        return dict.fromkeys(rows, metadata)
    for name in metadata:
        if name not in rows:
            raise InvalidValueError(
                f"embeddings_metadata for {name!r}",
                "the model has no embedding layer of that name",
                f"give one of its layers: {nearest_names(name, rows)}",
            )
    return dict(metadata)


def _labels_of(name: str, given: Metadata, rows: int) -> Labels:
    if isinstance(given, (str, os.PathLike)):
        labels, header = _file_of_labels(given)
    elif isinstance(given, Iterable):
        labels, header = to_labels(given, None)
    else:
        raise InvalidValueError(
            f"embeddings_metadata for {name!r}: {given!r:.80}",
            "labels are a list, or in a file",
            "give a list with a label for each row, or a path",
        )
    if len(labels) != rows:
        raise InvalidValueError(
            f"{len(labels)} labels for the {rows} rows of {name!r}",
            "each row has one",
            f"give {rows}; where layers differ, a dict of layer name -> labels",
        )
    return labels[:MAX_POINTS], header


def _file_of_labels(path: str | os.PathLike[str]) -> Labels:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(
            f"embeddings_metadata={os.fspath(path)!r}", f"it cannot be read ({error})", "give the path of a text file"
        ) from error
    if "\t" not in lines[0]:
        return to_labels(lines, None)
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise InvalidValueError(
                f"line {number + 1} of {os.fspath(path)!r} with {len(row)} columns",
                f"the first line names {len(rows[0])}",
                "give as many, with a tab between",
            )
    return to_labels(rows[1:], rows[0])
