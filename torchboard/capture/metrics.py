"""Metrics of batches, averaged where they are: a loss on a device stays there until the epoch ends."""

from __future__ import annotations

import json
import numbers
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.posts import read_each
from torchboard.capture.recorder import TRAIN
from torchboard.capture.snapshot import HostCopy, Numbers, host_array, host_number
from torchboard.errors import InvalidValueError
from torchboard.tags import check_tag
from torchboard.values import Scalar, Value

VALIDATION = "validation"
_VALIDATION_PREFIX = "val_"
_FLOATS = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_names: set[str] = set()
"""The names of metrics that may stand in tags, as far as they were seen."""
Totals = Mapping[str, Mapping[str, tuple[float, int]]]
"""Phase -> name -> the sum of what batches had, and how many."""


def check_metric(name: str, value: object) -> float | Tensor:
    """One number: a float, or a detached 0-d tensor where it lies on another device. NaN and infinities are data.

    The name is looked at when it comes first.

    Raises:
        InvalidValueError: it is not one real number.
        TagError: the name is empty or not valid Unicode, so that no tag can be made of it.
    """
    if name not in _names:
        check_tag(name)
        _names.add(name)
    if type(value) is Tensor and value.is_cpu and value.dtype in _FLOATS:
        try:  # nearly all tensors that are logged: what follows takes three times as long
            return host_number(value)
        except RuntimeError:  # more elements than one, or not one by one in memory
            pass
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Tensor):
        if value.device.type == "meta":
            raise _refused(name, "a tensor on 'meta'", "it has no value", "log it after it is computed on a device")
        if value.numel() != 1 or value.is_complex():
            described = f"a tensor of shape {list(value.shape)} and {value.dtype}"
            raise _refused(name, described, "a metric is one real number", "reduce it first, such as value.mean()")
        if not _is_plain(value):
            return float(host_array(value).reshape(()))
        return host_number(value) if value.is_cpu else value.detach().reshape(())
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(())[()]
    try:
        if isinstance(value, (numbers.Real, np.bool_)):
            return float(value)
    except OverflowError as error:
        raise _refused(
            name, f"{type(value).__name__}", f"it is no float ({error})", "give its logarithm, say"
        ) from None
    described = f"{type(value).__name__} {value!r:.80}"
    raise _refused(
        name, described, "a metric is one real number", "give a float, or a tensor or array with one element"
    )


def check_metrics(unnamed: Sequence[object], metrics: Mapping[str, object]) -> dict[str, float | Tensor]:
    """What ``log_epoch`` is given, by name, each as ``check_metric`` gives it.

    Raises:
        InvalidValueError: one is not one real number, or has no name.
        TagError: as ``check_metric``.
    """
    if unnamed:
        raise InvalidValueError(
            f"log_epoch({unnamed[0]!r:.80})", "metrics have names", "write log_epoch(loss=…), or log_epoch(**metrics)"
        )
    return {name: check_metric(name, value) for name, value in metrics.items()}


def _refused(name: str, came: str, wrong: str, remedy: str) -> InvalidValueError:
    return InvalidValueError(f"metric {name!r} = {came}", wrong, remedy)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's one element lies in memory as a number of its own type."""
    plain = tensor.layout is torch.strided and not tensor.is_quantized
    return plain and (type(tensor) is Tensor or not hasattr(tensor, "fake_mode"))


class RunningMeans:
    """The means of metrics since the last ``take``. Sums are float64 (float32 where a device has no float64)."""

    def __init__(self) -> None:
        self._sums: dict[str, float | Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: dict[str, float | Tensor]) -> None:
        """Adds one checked value to each metric's mean; two small operations a tensor, no sync."""
        for name, value in metrics.items():
            known = self._sums.get(name, 0.0)
            both = type(known) is type(value) is float
            self._sums[name] = known + value if both else _sum(known, _wide(value))
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float | Tensor]:
        """The means, as floats or 0-d tensors on their devices; begins anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def totals(self) -> dict[str, tuple[float, int]]:
        """The sums and how many values are in each. Waits for those on a device."""
        return {
            name: (total if isinstance(total, float) else float(host_array(total).reshape(())), self._counts[name])
            for name, total in self._sums.items()
        }


class PhaseMetrics:
    """The metrics of an epoch, by phase: means of what batches had, and what is given when it ends."""

    def __init__(self) -> None:
        self.means: defaultdict[str, RunningMeans] = defaultdict(RunningMeans)

    def take(
        self, given: dict[str, float | Tensor], ranks: Ranks | None = None
    ) -> dict[str, dict[str, float | Tensor]]:
        """Phase -> metrics of the epoch that ends; begins anew. What is given wins over a mean.

        A name that begins with ``val_`` belongs to validation, without the prefix, and any other to training.

        Args:
            given: checked metrics of this rank.
            ranks: whose batches count together, where there are several; all call it at the same time.
        """
        if ranks is not None and ranks.several:
            phases = pooled_means({phase: means.totals() for phase, means in self.means.items()}, ranks)
            self.means.clear()
        else:
            phases = {phase: means.take() for phase, means in self.means.items()}
        phases.setdefault(TRAIN, {})
        for name, value in given.items():
            if name.startswith(_VALIDATION_PREFIX):
                phases.setdefault(VALIDATION, {})[name.removeprefix(_VALIDATION_PREFIX)] = value
            else:
                phases[TRAIN][name] = value
        return phases


def pooled_means(totals: Totals, ranks: Ranks) -> dict[str, dict[str, float | Tensor]]:
    """Phase -> the means over the batches of all ranks, on rank 0; on another one those of its own.

    A metric that some ranks do not log is the mean of those that do, and that is told once.
    """
    posts = ranks.gather("metrics", json.dumps(totals).encode(), from_all=True)
    everywhere: list[Totals] = [] if ranks.writes else [totals]
    read_each(posts, ranks, lambda _, post: everywhere.append(_read(post)))
    sums: dict[str, dict[str, list[tuple[float, int]]]] = {}
    for phase, named in (item for of_rank in everywhere for item in of_rank.items()):
        for name, entry in named.items():
            sums.setdefault(phase, {}).setdefault(name, []).append(entry)
    for phase, named in sums.items():
        some = [name for name, entries in named.items() if len(entries) < len(everywhere)]
        if some:
            names = ", ".join(map(repr, some))
            ranks.tell(
                f"Not every rank calls log_batch() with {names} in the phase {phase!r}: the epoch's mean is that of the ranks "
                "that do. Call it on every rank."
            )
    return {
        phase: {name: sum(total for total, _ in of) / sum(count for _, count in of) for name, of in named.items()}
        for phase, named in sums.items()
    }


def _read(post: bytes) -> Totals:
    """What a rank sent; raises where it is no such thing."""
    return {
        phase: {name: (float(total), int(count)) for name, (total, count) in named.items()}
        for phase, named in json.loads(post).items()
    }


def scalars(metrics: dict[str, float | Tensor]) -> tuple[tuple[tuple[str, Value], ...], tuple[Numbers, ...]]:
    """Metrics by tag as pairs and pending numbers of an event: host floats at once, tensors one copy a device."""
    pairs = tuple((tag, Scalar(value)) for tag, value in metrics.items() if isinstance(value, float))
    devices: dict[torch.device, list[str]] = {}
    for tag, value in metrics.items():
        if isinstance(value, Tensor):
            devices.setdefault(value.device, []).append(tag)
    pending = tuple(
        Numbers(tuple(tags), HostCopy([torch.stack([_wide(metrics[tag]) for tag in tags])]))
        for tags in devices.values()
    )
    return pairs, pending


def _wide(value: float | Tensor) -> float | Tensor:
    if isinstance(value, float):
        return value
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)


def _sum(total: float | Tensor, value: float | Tensor) -> float | Tensor:
    """The sum, on the accelerator if either is there: never a copy from a device to the host."""
    if isinstance(total, Tensor) and isinstance(value, Tensor) and total.device != value.device:
        if total.device.type == "cpu":
            total = total.to(value.device, non_blocking=True)
        else:
            value = value.to(total.device, non_blocking=True)
    return total + value
