"""The writer's methods for numbers: what a training loop calls most, and what must cost it least.

A float at a step behind the last one of its curve goes the short way: 32 bytes appended to the sink's queue
(``sink.lane``). Everything else (a first value, a step that goes back, a tensor on a device, a sink that was closed) goes
through ``Run.write``, which checks and says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from time import time
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torchboard.errors import InvalidValueError
from torchboard.run import MAX_STEP, Run
from torchboard.sink.lane import Lane
from torchboard.tags import Curve
from torchboard.values.points import NAMES, pack_point

if TYPE_CHECKING:
    import numpy as np
    import torch


class ScalarMethods:
    """Part of ``SummaryWriter``: numbers over steps."""

    _run: Run
    _step: Callable[[], int]

    def _take_lane(self) -> None:
        """Finds the short way of the run that the writer is on."""
        self._number: int = NAMES.number(self._run.name)
        self._lane: Lane = self._run.lane
        self._curves: dict[str, Curve] = self._run.curves
        self._charts: dict[tuple[str, str], ScalarMethods] = {}

    def _leave_lane(self) -> None:
        """From now on every call goes through the run, which knows that it was closed."""
        self._curves = {}
        self._charts = {}

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
        number = scalar_value if type(scalar_value) is float else _metrics().check_metric(f"{tag}", scalar_value)
        lane, curve = self._lane, self._curves.get(tag) if type(tag) is str else None
        queue = lane.queue
        if (
            curve is not None
            and type(number) is float
            and type(global_step) is int
            and curve.step < global_step <= MAX_STEP
            and walltime is None
            and len(queue) < lane.limit
        ):
            curve.step = global_step
            queue.append(pack_point(self._number, curve.number, global_step, time(), number))
        else:
            self._write_numbers((tag,), (number,), global_step, walltime)

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
        numbers = _checked(f"scalars {main_tag!r}", tag_scalar_dict, f"{main_tag}/")
        charts = [self._chart(main_tag, key) for key in tag_scalar_dict]
        step = self._step() if global_step is None else global_step
        for chart, number in zip(charts, numbers):
            chart.add_scalar(main_tag, number, step, walltime)

    def log(
        self,
        metrics: Mapping[str, float | torch.Tensor | np.ndarray],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Numbers by tag, all in one event: half the bytes of a call for each, and a fraction of the time.

        Raises:
            InvalidValueError: one of them is not one real number; nothing is written then.
        """
        self._write_numbers(tuple(metrics), _checked("metrics", metrics), global_step, walltime)

    def _chart(self, main_tag: str, key: str) -> ScalarMethods:
        """The writer of one curve of a chart."""
        chart = self._charts.get((main_tag, key))
        if chart is None:
            chart = ScalarMethods()
            chart._run, chart._step = self._run.sub(f"{main_tag}".replace("/", "_") + f"_{key}"), self._step
            chart._take_lane()
            self._charts[main_tag, key] = chart
        return chart

    def _write_numbers(
        self, tags: tuple[str, ...], numbers: Sequence[Any], step: int | None, walltime: float | None
    ) -> None:
        """Checked numbers by tag, in one event: what is on a device is waited for behind the sink."""
        step = self._step() if step is None else step
        if all([type(number) is float for number in numbers]):
            run = self._run
            run.write_row(step, tags, numbers, walltime)
            if run.lane is not self._lane:  # a copy's, which has opened its directory just now
                self._take_lane()
        else:
            pairs, pending = _metrics().scalars(dict(zip(tags, numbers)))
            self._run.write(step, pairs, wall_time=walltime, pending=pending)


def _checked(name: str, metrics: Mapping[str, Any], prefix: str = "") -> Sequence[Any]:
    """The values of a dict of numbers, each a float or a 0-d tensor on its device."""
    if not isinstance(metrics, Mapping):
        came = f"{name} = {type(metrics).__name__}"
        raise InvalidValueError(came, "they are a dict of numbers", "give {'train': 0.5, 'test': 0.7}, say")
    numbers = list(metrics.values())
    if any([type(number) is not float for number in numbers]):
        return [_metrics().check_metric(f"{prefix}{tag}", number) for tag, number in metrics.items()]
    return numbers


@cache
def _metrics() -> ModuleType:
    """The room that knows tensors; it imports torch, which whoever logs floats may not need."""
    from torchboard.capture import metrics

    return metrics
