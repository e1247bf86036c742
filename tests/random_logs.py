"""Event files at random: what writers write, what no writer should, and what befalls a file afterwards."""

from __future__ import annotations

import struct

import numpy as np

from torchboard import proto
from torchboard.eventfile.framing import frame

LETTERS = "abcdefghijklmnopqrstuvwxyz/_0123456789é"
ODD_TIMES = (0.0, float("nan"), float("inf"), -1.5, 1e300)
ODD_STEPS = (0, 1, 127, 128, 1 << 14, (1 << 63) - 1, -1, -(1 << 63))


def event_file(random, events):
    """The contents of one event file of about so many events, in bursts of one stream or of a few in turn."""
    data = [frame(proto.Event(file_version="brain.Event:2", wall_time=1.0).SerializeToString())]
    streams = [stream(random) for _ in range(random.integers(1, 5))]
    while len(data) < events:
        chosen = [streams[number] for number in random.integers(0, len(streams), random.integers(1, 3))]
        for _ in range(random.integers(1, 80)):
            data += [frame(make()) for make in chosen]
            if len(data) > events:
                break
        if random.random() < 0.3:
            data.append(frame(rare(random)))
    return b"".join(data)


def stream(random):
    """A function that gives one payload after the other, all of a kind."""
    kind = random.choice(["simple", "simple", "simple", "tensor", "tensor", "many", "blob", "mixed"])
    tags = [name(random) for _ in range(random.integers(2, 20) if kind in ("many", "mixed") else 1)]
    make_value = {"tensor": tensor_value(random), "blob": blob_value(random)}.get(kind, simple_value)
    position, pace, twist = int(random.choice([0, 0, 100, 120, 1 << 14])), int(random.integers(0, 2)), twisted(random)

    def make():
        nonlocal position
        position = int(random.choice(ODD_STEPS)) if random.random() < 0.01 else position + pace
        wall_time = random.choice(ODD_TIMES) if random.random() < 0.02 else 1.7e9 + random.random()
        event = proto.Event(step=min(position, (1 << 63) - 1), wall_time=wall_time)
        for tag in tags:
            make_value(random, event.summary.value.add(tag=tag))
        if kind == "mixed" and random.random() < 0.3:
            blob_value(random)(random, event.summary.value.add(tag=tags[0]))
        return twist(event.SerializeToString())

    return make


def name(random):
    return "".join(random.choice(list(LETTERS), random.integers(0, 12)))


def number(random):
    odd = (float("nan"), float("inf"), 0.0, -0.0, 1e-45)
    return float(np.float32(random.choice(odd) if random.random() < 0.05 else random.standard_normal()))


def simple_value(random, value):
    value.simple_value = number(random)


def tensor_value(random):
    """A function that fills in a scalar as a tensor, in one of the ways there are."""
    dtype, field = [("FLOAT", "float_val"), ("DOUBLE", "double_val"), ("INT64", "int64_val")][random.integers(0, 3)]
    content, described, shape = random.random() < 0.4, random.random(), random.random() < 0.2
    layout = {"FLOAT": "<f", "DOUBLE": "<d", "INT64": "<q"}[dtype]
    first = True

    def fill(random, value):
        nonlocal first
        if first or described < 0.6:
            plugin = "scalars" if random.random() < 0.98 else "others"
            value.metadata.plugin_data.plugin_name = plugin
            value.metadata.summary_description = "about" if described < 0.3 else ""
        first = False
        value.tensor.dtype = proto.DataType[f"DT_{dtype}"].number
        if shape:
            value.tensor.tensor_shape.dim.add(size=int(random.choice([0, 1, 1, 1, 2])))
        one = int(random.integers(-9, 9)) if dtype == "INT64" else number(random)
        if content:
            value.tensor.tensor_content = struct.pack(layout, one)
        else:
            getattr(value.tensor, field).append(one)

    return fill


def blob_value(random):
    """A function that fills in something that is no scalar."""
    kind, size = random.integers(0, 4), int(random.integers(0, 40))

    def fill(random, value):
        data = random.bytes(size)
        if kind == 0:
            value.image.encoded_image_string = data
        elif kind == 1:
            value.histo.bucket.extend(range(size))
        elif kind == 2:
            value.metadata.plugin_data.plugin_name = "text"
            value.tensor.dtype = proto.DataType["DT_STRING"].number
            value.tensor.string_val.append(frame(data))
        else:
            value.node_name = "node"
            value.tensor.dtype = 1

    return fill


def twisted(random):
    """A function of a payload that writes it in a way that few do and every parser reads."""
    junk, way = bytes([0x78, random.integers(0, 128)]), random.random()
    if way < 0.75:
        return lambda payload: payload
    if way < 0.8:
        return lambda payload: payload + junk
    if way < 0.85:
        return lambda payload: payload[9:] + payload[:9]
    if way < 0.9:
        return lambda payload: payload + payload
    if way < 0.95:
        return lambda payload: payload[:9] + b"\x10\x85\x80\x00" + payload[9:]
    return lambda payload: payload[:9] + b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + payload[9:]


def rare(random):
    """A payload that comes once."""
    kind, step = random.integers(0, 7), int(random.integers(-3, 200))
    if kind < 2:
        return proto.Event(step=step, session_log={"status": int(random.integers(0, 4))}).SerializeToString()
    if kind == 2:
        return proto.Event(graph_def=random.bytes(20), step=step).SerializeToString()
    if kind == 3:
        return proto.Event(tagged_run_metadata={"tag": name(random)}, step=step).SerializeToString()
    if kind == 4:
        return random.bytes(random.integers(0, 60))
    if kind == 5:
        return b""
    return frame(proto.Event(step=step).SerializeToString()) * 3


def damaged(random, data):
    """The contents of a file after something happened to it, at one place or a few."""
    data = bytearray(data)
    for _ in range(random.integers(1, 4)):
        start, stop = sorted(int(place) for place in random.integers(0, len(data) + 1, 2))
        stop = min(stop, start + 200) if random.random() < 0.8 else stop
        kind = random.integers(0, 7)
        if kind == 0:
            del data[start:]
        elif kind == 1:
            del data[start:stop]
        elif kind == 2:
            data[start:start] = random.bytes(stop - start)
        elif kind == 3:
            data[start:stop] = bytes(stop - start)
        elif kind == 4:
            data[start:start] = data[start:stop]
        elif kind == 5:
            length = struct.pack("<Q", int(random.choice([1 << 60, (1 << 63) + 5, 1 << 33, 1 << 20, 600])))
            data[start:start] = length + frame(length)[-4:]
        elif start < len(data):
            data[start] ^= 1 << int(random.integers(0, 8))
    return bytes(data)
