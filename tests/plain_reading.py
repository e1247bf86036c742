"""An event file read in the plainest way, record by record and field by field: what the reader must find.

Written apart from the reader, so that both do not err together: framing from the format, events from the parser.
"""

from __future__ import annotations

import math
import struct

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError

from torchboard import proto
from torchboard.values.tensor import array_of

FORMS = {"image": "images", "histo": "histograms", "audio": "audio"}
DTYPES = {value.number: name for name, value in proto.DataType.items()}


def masked(data):
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records_of(data):
    """(offset, payload) of each whole and sound record, then (offset, None, what is wrong) of the one that ends the file."""
    offset = 0
    while offset < len(data):
        rest = data[offset:]
        torn = offset, None, "the file ends within it: it was cut there, or is still being written"
        if len(rest) < 12:
            yield torn
            return
        length, crc = struct.unpack_from("<QI", rest)
        if crc != masked(rest[:8]):
            yield offset, None, "the checksum of its length does not fit"
            return
        if 16 + length > len(rest):
            yield torn
            return
        payload = rest[12 : 12 + length]
        if struct.unpack_from("<I", rest, 12 + length)[0] != masked(payload):
            yield offset, None, "the checksum of its data does not fit"
            return
        yield offset, payload
        offset += 16 + length


class PlainIndex:
    """What stands in the event files of a run, given as their contents."""

    def __init__(self, files):
        self.columns, self.problems, self.spans, self.metadata = {}, [], {}, {}
        for number, data in enumerate(files):
            for offset, payload, *what in records_of(data):
                if payload is None:
                    self.problems.append((number, offset, *what))
                    continue
                try:
                    event = proto.Event.FromString(payload)
                except DecodeError:
                    self.problems.append((number, offset, "it is no event"))
                    continue
                self._note(event, number, offset)

    def _note(self, event, number, offset):
        what = event.WhichOneof("what")
        if what == "summary":
            if not math.isnan(event.wall_time):
                first, last = self.spans.get(number, (event.wall_time, event.wall_time))
                self.spans[number] = min(first, event.wall_time), max(last, event.wall_time)
            for position, value in enumerate(event.summary.value):
                self._note_value(event, value, (number, offset, position))
        elif what == "graph_def":
            self._add("__run_graph__", "graphs", event, (number, offset, 0))
        elif what == "tagged_run_metadata":
            self._add(event.tagged_run_metadata.tag, "graph_tagged_run_metadata", event, (number, offset, 0))
        elif what == "session_log" and event.session_log.status == proto.SessionLog.START:
            for points in self.columns.values():
                points[:] = [point for point in points if point[0] < event.step]

    def _note_value(self, event, value, place):
        kind, tag = value.WhichOneof("value"), value.tag or value.node_name
        if kind == "simple_value":
            self._add(value.tag, "scalars", event, (value.simple_value, "simple_value"))
            return
        plugin = FORMS.get(kind)
        if plugin is None:
            plugin = value.metadata.plugin_data.plugin_name
            if plugin and tag not in self.metadata:
                self.metadata[tag] = value.metadata
            elif not plugin and tag in self.metadata:
                plugin = self.metadata[tag].plugin_data.plugin_name
        if plugin != "scalars":
            self._add(tag, plugin, event, place)
            return
        number, form = self._number(value.tensor)
        if number is None:
            self.problems.append((*place[:2], f"scalar {tag!r} is not one number ({form})"))
        else:
            self._add(tag, plugin, event, (number, form))

    def _number(self, tensor):
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        dtype = DTYPES.get(tensor.dtype, f"type {tensor.dtype}")
        form = f"{dtype} {shape}" if shape else dtype
        if dtype == "DT_FLOAT" and not shape and len(tensor.float_val) == 1:
            return tensor.float_val[0], form
        try:
            array = array_of(tensor)
        except ValueError:
            return None, form
        return (float(array.reshape(())) if array.size == 1 and array.dtype.kind != "c" else None), form

    def _add(self, tag, plugin, event, value):
        self.columns.setdefault((tag, plugin), []).append((event.step, event.wall_time, value))


def differences(index, files):
    """Where a ``RunIndex`` is not what the contents of its files say: a list of words, empty if nowhere."""
    plain = PlainIndex(files)
    found = []
    number_of = {path: number for number, path in enumerate(index.files)}
    problems = [(number_of[one.path], one.offset, one.what) for one in index.problems]
    if problems != plain.problems:
        found.append(f"problems {problems} instead of {plain.problems}")
    if {number_of[path]: span for path, span in index.spans.items()} != plain.spans:
        found.append(f"spans {index.spans} instead of {plain.spans}")
    if index.metadata != plain.metadata:
        found.append("other metadata")
    if list(index.columns) != list(plain.columns):
        found.append(f"columns {list(index.columns)} instead of {list(plain.columns)}")
        return found
    for key, points in plain.columns.items():
        column = index.columns[key]
        if column.steps.tolist() != [step for step, _, _ in points]:
            found.append(f"{key}: other steps")
        if not np.array_equal(column.wall_times, [wall_time for _, wall_time, _ in points], equal_nan=True):
            found.append(f"{key}: other wall times")
        values = [value for _, _, value in points]
        if key[1] == "scalars":
            if not np.array_equal(column.numbers, [number for number, _ in values], equal_nan=True):
                found.append(f"{key}: other numbers")
            if not {form for _, form in values} <= column.forms:
                found.append(f"{key}: other forms")
        elif column.places.tolist() != [number for place in values for number in place]:
            found.append(f"{key}: other places")
    return found
