"""Times operators on devices that run them later: two events with timing around each, on the stream that it goes to.

Nothing waits: marking an operator is two calls that queue something, some microseconds on the host. What lies between
two operators, when a device waits for its host, belongs to none of them. Within one it cannot be told apart: one that
runs shorter than it takes to launch counts with its launch.

A device has this clock if its module in torch has events and streams: CUDA, ROCm (as ``torch.cuda``), XPU. Others have no
times, and neither has what goes into a CUDA graph, which runs when that is replayed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from torchboard.graph.spans import Span, is_capturing
from torchboard.graph.tensors import schema_of

MAX_SPANS = 20_000
"""How many operators of a pass are timed on devices; each holds two of the driver's events until its time is known."""

_CAPTURED = "captured into a graph of the device's own"
_TOO_MANY = f"beyond the first {MAX_SPANS:,}"
_FAILED = "refused by the device"

_NO_WORK = frozenset(
    {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"}
    | {"aten::_unsafe_view", "aten::set_", "aten::resize_"}
)


class Started(NamedTuple):
    """An operator that has been marked where it begins."""

    device: torch.device
    module: Any
    stream: Any
    event: Any


class DeviceClock:
    """The device times of one pass."""

    def __init__(self) -> None:
        self._modules: dict[str, Any] = {}
        self._left = MAX_SPANS
        self._untimed: Counter[str] = Counter()

    def start(self, operator: Any, given: Sequence[torch.Tensor], keywords: Mapping[str, Any]) -> Started | None:
        """An operator on these tensors begins on this thread; None where there is nothing to time. Never raises."""
        device = _device_of(given, keywords)
        if device is None or (module := self._module(device)) is None or _launches_nothing(operator):
            return None
        try:
            if is_capturing(module):
                self._untimed[_CAPTURED] += 1
            elif self._left <= 0:
                self._untimed[_TOO_MANY] += 1
            else:
                self._left -= 1
                stream = module.current_stream(device)
                return Started(device, module, stream, _recorded(module, stream))
        except Exception:
            self._fails(device)
        return None

    def stop(self, started: Started) -> Span | None:
        """It has been queued, by the same thread."""
        device, module, stream, event = started
        try:
            return Span(str(device), module, event, _recorded(module, stream))
        except Exception:
            self._fails(device)
            return None

    @property
    def note(self) -> str:
        """Which operators have no device time, and why; empty where all have."""
        counts = ", ".join(f"{count:,} {reason}" for reason, count in self._untimed.items())
        return f"operators without a time: {counts}" if counts else ""

    def _module(self, device: torch.device) -> Any:
        """What torch has for that kind of device, if that can time; None, too, if nothing real can be on it."""
        kind = device.type
        if kind not in self._modules:
            try:
                module = torch.get_device_module(device)
            except RuntimeError:
                module = None
            can_time = all(hasattr(module, name) for name in ("Event", "current_stream", "is_initialized"))
            self._modules[kind] = module if can_time and module.is_initialized() else None
        return self._modules[kind]

    def _fails(self, device: torch.device) -> None:
        """One that cannot time an operator is not asked again."""
        self._untimed[_FAILED] += 1
        self._modules[device.type] = None


def _device_of(given: Sequence[torch.Tensor], keywords: Mapping[str, Any]) -> torch.device | None:
    """The device that an operator is queued on; None if it runs on the CPU."""
    for tensor in given:
        if not tensor.is_cpu:
            return tensor.device
    device = keywords.get("device")
    return device if isinstance(device, torch.device) and device.type != "cpu" else None


def _launches_nothing(operator: Any) -> bool:
    """Whether an operator has no work for a device: two events around it would time the host."""
    schema = schema_of(operator)
    return schema.gives_views or schema.name in _NO_WORK


def _recorded(module: Any, stream: Any) -> Any:
    event = module.Event(enable_timing=True)
    event.record(stream)
    return event
