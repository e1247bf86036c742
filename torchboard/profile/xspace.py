"""A trace as an XSpace, the form that TensorBoard's profiler plugin, ``xprof``, reads.

One plane is the host, with a line for each thread; one more is a device, with a line for each stream. An operator is told
its layer by the stat ``tf_op``, a batch is a step by the stats ``step_num`` and ``_r``, and memory that is taken or given
back is an event of its own. Times count from the beginning of the trace: the plugin reckons in picoseconds in 64 bits,
where an absolute time does not fit; that stands in the plane ``Task Environment``.

Format: github.com/openxla/xla, ``third_party/tsl/tsl/profiler/protobuf/xplane.proto``, and the names in
``xla/tsl/profiler/utils/xplane_schema.cc``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torchboard import proto
from torchboard.capture.select import tag_path
from torchboard.profile.trace import STEP, Allocation, Span, Trace

_STEP_NAME = "train"
_FULL = (1 << 63) - 1


def xspace(trace: Trace, host: str) -> bytes:
    """The serialised XSpace of what one process saw.

    Args:
        trace: what a profiler saw.
        host: the name of the machine.
    """
    space = proto.XSpace(hostnames=[host])
    memory = _memory(trace.allocations)
    plane = _Plane(space, 0, "/host:CPU")
    places = dict.fromkeys([*(span.place for span in trace.host), *memory])
    for number, place in enumerate(places):
        spans = [(span.start, span.duration, *_host_event(span)) for span in trace.host if span.place == place]
        events = sorted([*spans, *memory.get(place, ())], key=lambda event: (event[0], -event[1]))
        plane.line(number, trace.threads.get(place, f"thread {place[1]}"), events)
    for number, device in enumerate(dict.fromkeys(span.place[0] for span in trace.device)):
        _device_plane(space, number + 1, device, trace)
    environment = _Plane(space, len(space.planes), "Task Environment")
    environment.stat("profile_start_time", trace.began)
    environment.stat("profile_stop_time", trace.began + trace.duration)
    return space.SerializeToString()


class _Plane:
    """One plane in the making: names are written once, and events refer to them."""

    def __init__(self, space: Any, number: int, name: str) -> None:
        self._plane = space.planes.add(id=number, name=name)
        self._events: dict[str, int] = {}
        self._stats: dict[str, int] = {}

    def stat(self, name: str, value: float | str) -> None:
        """Says something of the whole plane."""
        self._set(self._plane.stats.add(), name, value)

    def line(self, number: int, name: str, events: Iterable[tuple[int, int, str, Mapping[str, Any]]]) -> None:
        """A line of events: start and duration in nanoseconds, name, and stats."""
        line = self._plane.lines.add(id=number, display_id=number, name=name, display_name=name)
        for start, duration, title, stats in events:
            event = line.events.add(metadata_id=self._event(title), offset_ps=start * 1000, duration_ps=duration * 1000)
            for key, value in stats.items():
                self._set(event.stats.add(), key, value)

    def _event(self, name: str) -> int:
        number = self._events.setdefault(name, len(self._events) + 1)
        if number == len(self._plane.event_metadata) + 1:
            metadata = self._plane.event_metadata[number]
            metadata.id, metadata.name = number, name
        return number

    def _set(self, stat: Any, name: str, value: float | str) -> None:
        number = self._stats.setdefault(name, len(self._stats) + 1)
        if number == len(self._plane.stat_metadata) + 1:
            metadata = self._plane.stat_metadata[number]
            metadata.id, metadata.name = number, name
        stat.metadata_id = number
        if isinstance(value, str):
            stat.str_value = value
        elif isinstance(value, float):
            stat.double_value = value
        elif 0 <= value <= _FULL:
            stat.int64_value = value
        else:
            stat.uint64_value = value & 0xFFFF_FFFF_FFFF_FFFF


def _host_event(span: Span) -> tuple[str, dict[str, Any]]:
    """Name and stats of what ran on the host."""
    if span.name.startswith(STEP) and span.batch is not None:
        return _STEP_NAME, {"step_num": span.batch, "_r": 1}
    stats: dict[str, Any] = {}
    if span.is_operator:
        stats["tf_op"] = _operation(span)
    if "correlation" in span.facts:
        stats["correlation_id"] = span.facts["correlation"]
    return span.name, stats


def _operation(span: Span) -> str:
    """``layer1/0/conv1/conv2d:conv2d``: where it ran, and what it is."""
    name = span.name.rpartition("::")[2].rpartition(": ")[2]
    return f"{_scope(span)}{name}:{name}"


def _scope(span: Span) -> str:
    layer = "" if span.layer is None else tag_path(span.layer) + "/"
    return f"{'backward/' if span.is_backward else ''}{layer}"


def _taker(span: Span | None) -> str:
    """What took memory, by a name that no operator has: the plugin counts whatever bears one as a call of it."""
    while span is not None and not span.is_operator and span.layer is None:
        span = span.parent
    if span is None:
        return ""
    return "memory/" + (_operation(span).partition(":")[0] if span.is_operator else _scope(span).removesuffix("/"))


def _device_plane(space: Any, number: int, device: Any, trace: Trace) -> None:
    plane = _Plane(space, number, f"/device:GPU:{device}")
    for name, value in _capabilities(device, trace.devices).items():
        plane.stat(name, value)
    streams: dict[Any, list[Span]] = defaultdict(list)
    for span in trace.device:
        if span.place[0] == device:
            streams[span.place[1]].append(span)
    for line, (stream, spans) in enumerate(streams.items()):
        kind = "Compute" if any(span.kind == "kernel" for span in spans) else "MemcpyOther"
        plane.line(line, f"Stream #{stream}({kind})", _one_by_one(spans))


def _one_by_one(spans: Sequence[Span]) -> Iterable[tuple[int, int, str, dict[str, Any]]]:
    """The events of a stream; one that begins before the last has ended is cut there, as a line holds no overlaps."""
    for span, after in zip(spans, [*spans[1:], None]):
        duration = span.duration if after is None else max(min(span.duration, after.start - span.start), 0)
        stats: dict[str, Any] = {"correlation_id": span.facts.get("correlation", 0)}
        if span.parent is not None:
            stats["tf_op"] = _operation(span.parent)
        if span.kind == "kernel":
            stats["kernel_details"] = _kernel(span.facts)
        yield span.start, duration, span.name, stats


def _kernel(facts: Mapping[str, Any]) -> str:
    grid, block = (",".join(map(str, facts.get(key) or (1, 1, 1))) for key in ("grid", "block"))
    return (
        f"regs:{facts.get('registers per thread', 0)} static_shared:{facts.get('shared memory', 0)} dynamic_shared:0 "
        f"grid:{grid} block:{block} occ_pct:{facts.get('est. achieved occupancy %', 0)}"
    )


def _capabilities(device: Any, devices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a device is, as far as the trace says."""
    known = next((facts for facts in devices if facts.get("id") == device), {})
    names = {
        "core_count": "numSms",
        "memory_size": "totalGlobalMem",
        "compute_cap_major": "computeMajor",
        "compute_cap_minor": "computeMinor",
        "gpu_device_name": "name",
    }
    found = {name: known[key] for name, key in names.items() if key in known}
    return {"device_vendor": "Nvidia", **found} if found else {}


def _memory(allocations: Iterable[Allocation]) -> dict[tuple, list[tuple[int, int, str, dict[str, Any]]]]:
    """Thread -> its events of memory, as the memory profile of the plugin wants them."""
    peaks: dict[str, int] = defaultdict(int)
    events: dict[tuple, list[tuple[int, int, str, dict[str, Any]]]] = defaultdict(list)
    for one in allocations:
        peaks[one.device] = max(peaks[one.device], one.allocated)
        stats = {
            "allocator_name": one.device,
            "bytes_reserved": 0,
            "bytes_allocated": one.allocated,
            "bytes_available": max(one.reserved - one.allocated, 0),
            "fragmentation": 0.0,
            "peak_bytes_in_use": peaks[one.device],
            "requested_bytes": abs(one.nbytes),
            "allocation_bytes": abs(one.nbytes),
            "addr": one.address,
            "tf_op": _taker(one.span),
        }
        events[one.place].append((one.time, 0, "MemoryAllocation" if one.nbytes > 0 else "MemoryDeallocation", stats))
    return events
