"""What a profiler saw, as spans that know what they are part of: which operator, which layer, which batch.

It is read from the trace that ``torch.profiler`` writes for chrome://tracing, the one form of it that is documented and
holds everything: operators, the launches and kernels of a device, the memory, and which operator of a backward pass
belongs to which of the forward pass. Reading costs about 10 µs an event, on the thread that asks.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

STEP = "ProfilerStep#"
"""What torch's own profiler names a step, with the number behind it; viewers look for it."""

_HOST = ("cpu_op", "user_annotation", "cuda_runtime", "cuda_driver", "xpu_runtime", "python_function")
_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_DEVICE_TYPES = {0: "cpu", 1: "cuda"}


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Something that took time on one thread of the host, or in one stream of a device.

    Attributes:
        name: of the operator, the annotation, the call or the kernel.
        kind: the trace's word for what it is, such as ``cpu_op`` or ``kernel``.
        place: the thread, ``(process, thread)``, or the stream, ``(device, stream)``.
        start: nanoseconds since the trace began.
        duration: nanoseconds; what is inside another span ends with it at the latest.
        facts: what else the trace says of it.
        parent: what it is part of.
        batch: the number of the batch it began in, None outside.
        layer: the dotted name of the layer that it is work of, None for none.
        is_backward: whether it is part of a backward pass.
    """

    name: str
    kind: str
    place: tuple[Any, Any]
    start: int
    duration: int
    facts: Mapping[str, Any]
    parent: Span | None
    batch: int | None
    layer: str | None
    is_backward: bool

    @property
    def end(self) -> int:
        """Nanoseconds since the trace began."""
        return self.start + self.duration

    @property
    def is_operator(self) -> bool:
        """Whether it is an operator of torch, or an autograd function."""
        return self.kind == "cpu_op"


@dataclass(frozen=True, slots=True)
class Allocation:
    """Memory that was taken or given back.

    Attributes:
        place: the thread that did.
        time: nanoseconds since the trace began.
        device: whose memory, such as ``cpu`` or ``cuda:0``.
        nbytes: how much; negative where it was given back.
        address: where.
        allocated, reserved: what the device's allocator has handed out, and holds, since.
        span: what the thread was doing.
    """

    place: tuple[Any, Any]
    time: int
    device: str
    nbytes: int
    address: int
    allocated: int
    reserved: int
    span: Span | None


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace, read.

    Attributes:
        began: when it began, in nanoseconds of Unix time; 0 where the trace does not say.
        host: spans of the host's threads, by their start, what holds others before them.
        device: those of devices.
        allocations: of memory, in order.
        threads: place -> name.
        devices: what the trace says of each device.
    """

    began: int
    host: tuple[Span, ...]
    device: tuple[Span, ...]
    allocations: tuple[Allocation, ...]
    threads: Mapping[tuple[Any, Any], str] = field(default_factory=dict)
    devices: tuple[Mapping[str, Any], ...] = ()

    @property
    def duration(self) -> int:
        """Nanoseconds from the beginning to the end of the last span."""
        return max((span.end for span in (*self.host, *self.device)), default=0)


def read_trace(data: bytes, layers: Mapping[str, str]) -> Trace:
    """A trace from the JSON that ``export_chrome_trace`` writes.

    Args:
        data: the JSON.
        layers: name of an annotation -> dotted name of the layer whose forward pass it is around.
    """
    content = json.loads(data)
    events = content["traceEvents"]
    timed = [event for event in events if event.get("ph") == "X" and event.get("cat") in (*_HOST, *_DEVICE)]
    timed.sort(key=lambda event: (event["ts"], -event["dur"]))
    began = _nanoseconds(timed[0]["ts"]) if timed else 0
    host = _host_spans([event for event in timed if event["cat"] in _HOST], began, layers, _links(events))
    launched: dict[int, Span] = {}
    for span in host:
        if "External id" in span.facts:
            launched.setdefault(span.facts["External id"], span)
    device = [_device_span(event, began, launched) for event in timed if event["cat"] in _DEVICE]
    return Trace(
        began=int(content.get("baseTimeNanoseconds", 0)) + began,
        host=tuple(host),
        device=tuple(device),
        allocations=tuple(_allocations(events, began, host)),
        threads=dict(_thread_names(events)),
        devices=tuple(content.get("deviceProperties") or ()),
    )


def _host_spans(
    events: list[dict[str, Any]], began: int, layers: Mapping[str, str], links: Mapping[tuple, tuple]
) -> list[Span]:
    """Spans of all threads, each under what holds it, and in the layer whose forward pass it is part of or goes back over."""
    spans: list[Span] = []
    running: dict[tuple, list[Span]] = {}
    layer_at: dict[tuple, str | None] = {}
    batch: Span | None = None
    for event in events:
        where, start = (event["pid"], event["tid"]), _nanoseconds(event["ts"]) - began
        outer = running.setdefault(where, [])
        while outer and outer[-1].end <= start:
            outer.pop()
        parent = outer[-1] if outer else None
        layer, backward = (parent.layer, parent.is_backward) if parent is not None else (None, False)
        name, moment = event["name"], (*where, event["ts"])
        if event["cat"] == "user_annotation":
            layer = layers.get(name, layer)
        elif moment in links:
            layer, backward = layer_at.get(links[moment]), True
        layer_at[moment] = layer
        duration = _nanoseconds(event["dur"])
        if parent is not None:
            duration = min(duration, parent.end - start)
        number = _batch_number(name) if event["cat"] == "user_annotation" else None
        if number is None and batch is not None and start < batch.end:
            number = batch.batch
        span = Span(name, event["cat"], where, start, duration, event.get("args", {}), parent, number, layer, backward)
        if span.name.startswith(STEP) and number is not None:
            batch = span
        outer.append(span)
        spans.append(span)
    return spans


def _device_span(event: dict[str, Any], began: int, launched: Mapping[int, Span]) -> Span:
    """A kernel or a copy, which belongs to what launched it."""
    facts = event.get("args", {})
    parent = launched.get(facts.get("External id"))
    return Span(
        name=event["name"],
        kind=event["cat"],
        place=(facts.get("device", event["pid"]), facts.get("stream", event["tid"])),
        start=_nanoseconds(event["ts"]) - began,
        duration=_nanoseconds(event["dur"]),
        facts=facts,
        parent=parent,
        batch=parent.batch if parent is not None else None,
        layer=parent.layer if parent is not None else None,
        is_backward=parent.is_backward if parent is not None else False,
    )


def _links(events: list[dict[str, Any]]) -> dict[tuple, tuple]:
    """Where an operator of a backward pass begins -> where the one begins that it goes back over."""
    flows = [event for event in events if event.get("cat") == "fwdbwd"]
    forward = {event["id"]: _moment(event) for event in flows if event["ph"] == "s"}
    return {_moment(event): forward[event["id"]] for event in flows if event["ph"] == "f" and event["id"] in forward}


def _moment(event: Mapping[str, Any]) -> tuple:
    return event["pid"], event["tid"], event["ts"]


def _batch_number(name: str) -> int | None:
    match = re.fullmatch(rf"{STEP}(\d+)", name)
    return int(match[1]) if match else None


def _allocations(events: list[dict[str, Any]], began: int, spans: list[Span]) -> Iterator[Allocation]:
    found = [event for event in events if event.get("name") == "[memory]"]
    waiting = deque(spans)
    running: dict[tuple, list[Span]] = {}
    for event in sorted(found, key=lambda event: event["ts"]):
        place, time = (event["pid"], event["tid"]), max(_nanoseconds(event["ts"]) - began, 0)
        while waiting and waiting[0].start <= time:
            span = waiting.popleft()
            running.setdefault(span.place, []).append(span)
        outer = running.get(place, [])
        while outer and outer[-1].end <= time:
            outer.pop()
        facts = event["args"]
        kind, number = facts["Device Type"], facts["Device Id"]
        device = _DEVICE_TYPES.get(kind, f"device{kind}") + (f":{number}" if number >= 0 else "")
        yield Allocation(
            place=place,
            time=time,
            span=outer[-1] if outer else None,
            device=device,
            nbytes=facts["Bytes"],
            address=facts["Addr"],
            allocated=max(facts.get("Total Allocated", 0), 0),
            reserved=max(facts.get("Total Reserved", 0), 0),
        )


def _thread_names(events: list[dict[str, Any]]) -> Iterator[tuple[tuple[Any, Any], str]]:
    for event in events:
        if event.get("ph") == "M" and event.get("name") == "thread_name":
            yield (event["pid"], event["tid"]), event["args"]["name"]


def _nanoseconds(microseconds: float) -> int:
    return round(microseconds * 1000)
