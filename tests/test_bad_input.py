"""Hostile and unlucky input: each case is either right or refused in three parts, and what stands around it is not lost.

Every case makes one call between two good ones, on a directory of its own, and reads the log back with TensorBoard's
loader. A refused call must have left nothing: no value, no file, no directory, no word on the terminal.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from torch import nn
from torch._subclasses import FakeTensorMode

from torchboard import SummaryWriter, proto
from torchboard.errors import TorchboardError
from torchboard.values import KINDS, OpGraph

INF, NAN = math.inf, math.nan
META = torch.zeros(2, 3, device="meta")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch is about to drop quantized and nested tensors
    QUANTIZED = torch.quantize_per_tensor(torch.tensor([0.0, 0.5, 1.0]), 0.5, 0, torch.quint8)
    NESTED = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
SPARSE = torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse()
LONG = "x" * 100_000
REFUSED = "refused"

Found = dict[tuple[str, str], list[tuple[int, Any]]]
"""(run, tag) -> steps and values."""


def fake(*shape: int) -> torch.Tensor:
    """A tensor that only pretends to be on the CPU."""
    with FakeTensorMode():
        return torch.ones(shape)


def found(log_dir: Path) -> Found:
    """Everything in a log, through TensorBoard's loader of files."""
    values: Found = {}
    for run, event in events(log_dir):
        if event.WhichOneof("what") == "graph_def":
            values.setdefault((run, "__run_graph__"), []).append((event.step, OpGraph.decode(event.graph_def)))
        for message in event.summary.value:
            plain = {"simple_value": "scalars", "image": "images"}
            plugin = message.metadata.plugin_data.plugin_name or plain[message.WhichOneof("value")]
            values.setdefault((run, message.tag), []).append((event.step, KINDS[plugin].decode(message)))
    return values


def events(log_dir: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(log_dir.rglob("*tfevents*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            yield os.path.relpath(path.parent, log_dir), proto.Event.FromString(event.SerializeToString())


# What a case must leave, of (step, value) by (run, tag)

Check = Callable[[Found], bool]


def scalar(number: float, tag: str = "x", step: int = 1, run: str = ".") -> Check:
    def check(left: Found) -> bool:
        ((at, value),) = left.pop((run, tag))
        return at == step and np.array_equal(np.float32(value.value), np.float32(number), equal_nan=True)

    return check


def mass(count: float, low: float, high: float, nonfinite: int = 0) -> Check:
    def check(left: Found) -> bool:
        ((_, value),) = left.pop((".", "x"))
        lost = left.pop((".", "nonfinite/x"), None)
        held = value.buckets
        ends = (held[0, 0], held[-1, 1]) if len(held) else (low, high)
        return (
            held[:, 2].sum() == count
            and np.allclose(ends, (low, high), rtol=1e-6)
            and (lost[0][1].value if lost else 0) == nonfinite
        )

    return check


def pixels(*levels: Any) -> Check:
    """The levels of the first picture, in the order of its rows."""

    def check(left: Found) -> bool:
        ((_, value),) = left.pop((".", "x"))
        return value.pixels[0].reshape(-1).tolist() == list(levels)

    return check


def has(plugin: str, *tags: str) -> Check:
    """Tags with one value each, of a plugin."""

    def check(left: Found) -> bool:
        return all([left.pop((".", tag))[0][1].plugin == plugin for tag in tags])

    return check


def text(expected: str) -> Check:
    def check(left: Found) -> bool:
        return left.pop((".", "x/text_summary"))[0][1].markdown == expected

    return check


def array(expected: Any) -> Check:
    def check(left: Found) -> bool:
        data = left.pop((".", "x"))[0][1].data
        return data.dtype == expected.dtype and np.array_equal(data, expected, equal_nan=expected.dtype.kind in "fc")

    return check


def samples(*levels: int) -> Check:
    def check(left: Found) -> bool:
        return left.pop((".", "x"))[0][1].clips[0].reshape(-1).tolist() == list(levels)

    return check


def nothing(left: Found) -> bool:
    return not left


def trial(run: str, **hparams: Any) -> Check:
    def check(left: Found) -> bool:
        held = {key: left.pop(key) for key in list(left) if key[0] == run}
        return held[run, "_hparams_/session_start_info"][0][1].hparams == hparams

    return check


def files(*names: str) -> Check:
    """Files beside the events."""

    def check(left: Found) -> bool:
        return True

    check.files = set(names)  # type: ignore[attr-defined]
    return check


def call(method: str, *arguments: Any, **options: Any) -> Callable[[SummaryWriter], None]:
    return lambda writer: getattr(writer, method)(*arguments, **options)


def add(method: str, *arguments: Any, **options: Any) -> Callable[[SummaryWriter], None]:
    """A call at step 1 under the tag ``x``."""
    return call(method, "x", *arguments, global_step=1, **options)


SCALARS: dict[str, tuple[Any, Any]] = {
    "NaN": (NAN, scalar(NAN)),
    "inf": (INF, scalar(INF)),
    "-inf": (-INF, scalar(-INF)),
    "1e300": (1e300, scalar(INF)),
    "an integer that float32 rounds": (16777217, scalar(16777216.0)),
    "an integer beyond float64": (10**400, REFUSED),
    "-0.0": (-0.0, scalar(-0.0)),
    "5e-324": (5e-324, scalar(0.0)),
    "True": (True, scalar(1.0)),
    "a NumPy bool": (np.bool_(True), scalar(1.0)),
    "a float16": (np.float16(0.1), scalar(np.float16(0.1))),
    "a long double": (np.longdouble("0.1"), scalar(0.1)),
    "a fraction": (Fraction(1, 3), scalar(1 / 3)),
    "a decimal": (Decimal("0.5"), REFUSED),
    "a string": ("0.5", REFUSED),
    "a NumPy string": (np.array("0.5"), REFUSED),
    "bytes": (b"0.5", REFUSED),
    "None": (None, REFUSED),
    "a list": ([1.0], REFUSED),
    "a complex number": (1j, REFUSED),
    "a date": (np.datetime64("2020-01-01"), REFUSED),
    "a dict": ({"a": 1.0}, REFUSED),
    "an object array of a float": (np.array([0.5], object), scalar(0.5)),
    "an object array of None": (np.array([None], object), REFUSED),
    "an array of one": (np.array([[0.5]]), scalar(0.5)),
    "an empty array": (np.zeros(0), REFUSED),
    "an array of three": (np.zeros(3), REFUSED),
    "bfloat16": (torch.tensor(3.14e-8).bfloat16(), scalar(float(torch.tensor(3.14e-8).bfloat16()))),
    "float8 e4m3": (torch.tensor(0.5).to(torch.float8_e4m3fn), scalar(0.5)),
    "float8 e5m2": (torch.tensor([0.5]).to(torch.float8_e5m2), scalar(0.5)),
    "int64 at its end": (torch.tensor(2**63 - 1), scalar(float(2**63))),
    "uint8": (torch.tensor(200, dtype=torch.uint8), scalar(200.0)),
    "a bool tensor": (torch.tensor(True), scalar(1.0)),
    "a tensor that requires grad": (torch.tensor(0.5, requires_grad=True), scalar(0.5)),
    "a tensor of one element": (torch.full((1, 1, 1), 0.5), scalar(0.5)),
    "a parameter": (nn.Parameter(torch.tensor(0.5)), scalar(0.5)),
    "an empty tensor": (torch.zeros(0), REFUSED),
    "a tensor of three": (torch.zeros(3), REFUSED),
    "a complex tensor": (torch.tensor(1j), REFUSED),
    "a meta tensor": (torch.tensor(0.5, device="meta"), REFUSED),
    "a fake tensor": (fake(), REFUSED),
    "a sparse tensor": (torch.tensor([2.0]).to_sparse(), scalar(2.0)),
    "a sparse tensor of zero": (torch.tensor([0.0]).to_sparse(), scalar(0.0)),
    "a quantized tensor": (QUANTIZED[2], scalar(1.0)),
    "a NumPy NaN": (np.float32(NAN), scalar(NAN)),
}

STEPS: dict[str, tuple[Any, Any]] = {
    "None": (None, scalar(1.0, step=0)),
    "-5": (-5, scalar(1.0, step=-5)),
    "-2^63": (-(2**63), scalar(1.0, step=-(2**63))),
    "2^63 - 1": (2**63 - 1, scalar(1.0, step=2**63 - 1)),
    "2^63": (2**63, REFUSED),
    "-2^63 - 1": (-(2**63) - 1, REFUSED),
    "1.7": (1.7, REFUSED),
    "3.0": (3.0, scalar(1.0, step=3)),
    "NaN": (NAN, REFUSED),
    "inf": (INF, REFUSED),
    "True": (True, scalar(1.0, step=1)),
    "'3'": ("3", REFUSED),
    "int64": (np.int64(3), scalar(1.0, step=3)),
    "a tensor": (torch.tensor(3), scalar(1.0, step=3)),
    "a float tensor": (torch.tensor(3.0), scalar(1.0, step=3)),
    "a tensor of two": (torch.tensor([1, 2]), REFUSED),
    "a meta tensor": (torch.tensor(3, device="meta"), REFUSED),
    "a list": ([3], REFUSED),
    "1j": (1j, REFUSED),
}

TIMES: dict[str, tuple[Any, Any]] = {
    "-1": (-1, scalar(1.0)),
    "NaN": (NAN, REFUSED),
    "inf": (INF, REFUSED),
    "now": ("now", REFUSED),
    "a list": ([1.0], REFUSED),
    "10^400": (10**400, REFUSED),
    "a tensor": (torch.tensor(5.0), scalar(1.0)),
}

TAGS: dict[str, tuple[Any, bool]] = {
    "newline": ("a\nb", True),
    "carriage return": ("a\r\nb", True),
    "NUL": ("a\0b", True),
    "two dots": ("../../a", True),
    "only dots": ("..", True),
    "leading slashes": ("//a", True),
    "an absolute path": ("/etc/passwd", True),
    "100 kB": (LONG, True),
    "emoji": ("loss 🔥", True),
    "percent": ("%d %s {}", True),
    "spaces": ("  a  ", True),
    "a backslash": ("a\\b", True),
    "controls": ("\x1b[31m\u202e", True),
    "empty": ("", False),
    "None": (None, False),
    "a number": (5, False),
    "bytes": (b"a", False),
    "half a surrogate pair": ("a\ud800", False),
    "a list": (["a"], False),
}

HISTOGRAMS: dict[str, tuple[Any, Any]] = {
    "one NaN in 1000": (np.append(np.arange(999.0), NAN), mass(999, 0, 998, 1)),
    "infinities": ([1.0, INF, -INF], mass(1, 1, 1, 2)),
    "1e30": ([1.0, 1e30], mass(2, 1, 1e30)),
    "1e300": (np.array([1.0, 1e300]), None),
    "all NaN": (torch.full((4,), NAN), mass(0, 0, 0, 4)),
    "empty": (torch.zeros(0), nothing),
    "an empty list": ([], nothing),
    "no axis": (torch.tensor(3.0), mass(1, 3, 3)),
    "bool": (torch.tensor([True, False]), mass(2, 0, 1)),
    "int64 at its ends": (torch.tensor([-(2**63), 2**63 - 1]), mass(2, -(2.0**63), 2.0**63)),
    "uint64": (np.array([0, 2**64 - 1], np.uint64), None),
    "float8": (torch.tensor([0.5, 1.0]).to(torch.float8_e4m3fn), mass(2, 0.5, 1)),
    "bfloat16 below float16": (torch.tensor([3e-8, 0.0]).bfloat16(), mass(2, 0, float(torch.tensor(3e-8).bfloat16()))),
    "sparse": (SPARSE, mass(2, 2, 3)),
    "quantized": (QUANTIZED, mass(3, 0, 1)),
    "requires grad": (torch.ones(3, requires_grad=True), mass(3, 1, 1)),
    "complex": (torch.zeros(2, dtype=torch.complex64), REFUSED),
    "meta": (META, REFUSED),
    "fake": (fake(3), REFUSED),
    "strings": (["a", "b"], REFUSED),
    "a string": ("weights", REFUSED),
    "None": (None, REFUSED),
    "an object array": (np.array([1.0, None], object), REFUSED),
    "an object array of numbers": (np.array([1.0, 2], object), REFUSED),
    "ragged": ([[1], [2, 3]], REFUSED),
    "a set": ({1.0, 2.0}, REFUSED),
    "dates": (np.zeros(2, "datetime64[s]"), REFUSED),
}

PREBINNED: dict[str, tuple[tuple, Any]] = {
    "lengths that differ": ((0, 2, 2, 0, 0, [1, 2], [1]), REFUSED),
    "limits that go down": ((0, 2, 2, 0, 0, [2, 1], [1, 1]), REFUSED),
    "limits with NaN": ((0, 2, 2, 0, 0, [1, NAN], [1, 1]), REFUSED),
    "negative counts": ((0, 2, 2, 0, 0, [1, 2], [1, -1]), REFUSED),
    "counts with NaN": ((0, 2, 2, 0, 0, [1, 2], [1, NAN]), REFUSED),
    "counts with inf": ((0, 2, 2, 0, 0, [1, 2], [1, INF]), REFUSED),
    "two dimensions": ((0, 2, 2, 0, 0, [[1, 2]], [[1, 1]]), REFUSED),
    "texts": ((0, 2, 2, 0, 0, ["a"], [1]), REFUSED),
    "min beyond the first bucket": ((1.5, 2, 2, 0, 0, [1, 2], [1, 1]), REFUSED),
    "a text for min": (("a", 2, 2, 0, 0, [1, 2], [1, 1]), REFUSED),
    "a meta tensor": ((0, 2, 2, 0, 0, [1, 2], META[0]), REFUSED),
    "NaN for min": ((NAN, 2, 2, 0, 0, [1, 2], [1, 1]), mass(2, 1, 2)),
    "inf for max and the last limit": ((0, INF, 2, 0, 0, [1, INF], [1, 1]), mass(2, 0, 1)),
    "no buckets": ((0, 0, 0, 0, 0, [], []), mass(0, 0, 0)),
    "nothing in any": ((0, 0, 0, 0, 0, [1, 2], [0, 0]), mass(0, 0, 0)),
    "tensors": ((0, 2, 2, 0, 0, torch.tensor([1.0, 2]), torch.tensor([1, 1])), mass(2, 0, 2)),
}

PICTURES: dict[str, tuple[Any, str, Any]] = {
    "floats out of range": (np.array([[[3.7, -0.5, NAN, 0.5, INF, -INF]]]), "CHW", pixels(255, 0, 0, 127, 255, 0)),
    "floats in 0..255": (np.array([[[200.0]]]), "CHW", pixels(255)),
    "int64": (np.array([[[0, 1, 128, 255]]]), "CHW", pixels(0, 1, 128, 255)),
    "integers out of range": (np.array([[[-1, 256, 2**62]]]), "CHW", pixels(0, 255, 255)),
    "uint16": (np.array([[[7, 60000]]], np.uint16), "CHW", pixels(7, 255)),
    "bool": (torch.tensor([[[True, False]]]), "CHW", pixels(255, 0)),
    "bfloat16": (torch.tensor([[[0.5]]]).bfloat16(), "CHW", pixels(127)),
    "float8": (torch.tensor([[[0.5]]]).to(torch.float8_e5m2), "CHW", pixels(127)),
    "requires grad": (torch.ones(1, 1, 1, requires_grad=True), "CHW", pixels(255)),
    "sparse": (torch.tensor([[[0.0, 1.0]]]).to_sparse(), "CHW", pixels(0, 255)),
    "two channels": (np.full((2, 1, 1), 9, np.uint8), "CHW", pixels(9, 9)),
    "small letters": (np.full((1, 1, 3), 9, np.uint8), "hwc", pixels(9, 9, 9)),
    "HWC given as CHW": (np.zeros((32, 32, 3)), "CHW", REFUSED),
    "five channels": (np.zeros((5, 4, 4)), "CHW", REFUSED),
    "an empty batch": (np.zeros((0, 3, 4, 4)), "NCHW", REFUSED),
    "no pixel": (np.zeros((3, 0, 0)), "CHW", REFUSED),
    "axes that do not fit": (np.zeros((3, 4)), "CHW", REFUSED),
    "a letter twice": (np.zeros((3, 4, 4)), "HHC", REFUSED),
    "other letters": (np.zeros((3, 4, 4)), "XYZ", REFUSED),
    "no layout": (np.zeros((3, 4, 4)), None, REFUSED),
    "complex": (np.zeros((3, 4, 4), complex), "CHW", REFUSED),
    "objects": (np.full((3, 4, 4), None, object), "CHW", REFUSED),
    "texts": (np.full((3, 4, 4), "a"), "CHW", REFUSED),
    "meta": (torch.zeros(3, 4, 4, device="meta"), "CHW", REFUSED),
    "fake": (fake(3, 4, 4), "CHW", REFUSED),
    "ragged": ([[[1], [1, 2]]], "CHW", REFUSED),
    "None": (None, "CHW", REFUSED),
    "a path": ("picture.png", "CHW", REFUSED),
}

SOUNDS: dict[str, tuple[Any, dict, Any]] = {
    "beyond 1": ([0.0, 2.0, -2.0, 0.5], {}, samples(0, 32767, -32767, 16384)),
    "NaN and infinities": ([NAN, INF, -INF], {}, samples(0, 32767, -32767)),
    "float16": (np.array([0.5], np.float16), {}, samples(16384)),
    "bfloat16": (torch.tensor([0.5]).bfloat16(), {}, samples(16384)),
    "int16": (np.array([1, -32768], np.int16), {}, samples(1, -32768)),
    "frames in a column": (np.array([[0.5], [0.25]]), {}, samples(16384, 8192)),
    "two channels": (np.zeros((2, 3)), {}, samples(0, 0, 0, 0, 0, 0)),
    "a rate in a float": ([0.5], {"sample_rate": 8000.0}, samples(16384)),
    "int32": (np.array([1, 2], np.int32), {}, REFUSED),
    "complex": (np.array([1j]), {}, REFUSED),
    "empty": ([], {}, REFUSED),
    "no axis": (0.5, {}, REFUSED),
    "four axes": (np.zeros((1, 1, 1, 5)), {}, REFUSED),
    "frames first": (np.zeros((500, 2)), {}, REFUSED),
    "a rate of 0": ([0.5], {"sample_rate": 0}, REFUSED),
    "a rate of NaN": ([0.5], {"sample_rate": NAN}, REFUSED),
    "a rate of 2^31": ([0.5], {"sample_rate": 2**31}, REFUSED),
    "a rate in a text": ([0.5], {"sample_rate": "8000"}, REFUSED),
    "meta": (META, {}, REFUSED),
    "fake": (fake(5), {}, REFUSED),
    "text": ("la", {}, REFUSED),
    "None": (None, {}, REFUSED),
}

VIDEOS: dict[str, tuple[Any, dict, Any]] = {
    "NaN": (np.full((1, 2, 1, 2, 2), NAN), {}, has("images", "x")),
    "int64": (np.zeros((1, 2, 1, 2, 2), np.int64), {}, has("images", "x")),
    "one frame": (np.zeros((1, 1, 3, 2, 2)), {}, has("images", "x")),
    "a high rate": (np.zeros((1, 2, 3, 2, 2)), {"fps": 1e9}, has("images", "x")),
    "four axes": (np.zeros((2, 3, 4, 4)), {}, REFUSED),
    "no frame": (np.zeros((1, 0, 3, 4, 4)), {}, REFUSED),
    "no video": (np.zeros((0, 2, 3, 4, 4)), {}, REFUSED),
    "channels last": (np.zeros((1, 2, 8, 8, 3)), {}, REFUSED),
    "a rate of 0": (np.zeros((1, 2, 3, 4, 4)), {"fps": 0}, REFUSED),
    "a rate of NaN": (np.zeros((1, 2, 3, 4, 4)), {"fps": NAN}, REFUSED),
    "a rate in a text": (np.zeros((1, 2, 3, 4, 4)), {"fps": "4"}, REFUSED),
    "complex": (np.zeros((1, 2, 3, 4, 4), complex), {}, REFUSED),
    "meta": (torch.zeros(1, 2, 3, 4, 4, device="meta"), {}, REFUSED),
    "None": (None, {}, REFUSED),
}

TEXTS: dict[str, tuple[Any, Any]] = {
    "NUL and controls": ("a\0\x1b[31m\u202e", text("a\0\x1b[31m\u202e")),
    "half a surrogate pair": ("a\ud800b", text("a?b")),
    "a megabyte": ("é" * 500_000, text("é" * 500_000)),
    "empty": ("", text("")),
    "a NumPy text": (np.str_("a"), text("a")),
    "an array without an axis": (np.array("a"), text("a")),
    "a list": (["a", "b"], text("a\nb")),
    "an array of objects": (np.array([["a", "b"], ["c", "d"]], object), text("a\nb\nc\nd")),
    "three axes": ([[["a"], ["b"]]], text("a\nb")),
    "5": (5, REFUSED),
    "None": (None, REFUSED),
    "bytes": (b"a", REFUSED),
    "no cell": ([], REFUSED),
    "ragged": ([["a"], ["b", "c"]], REFUSED),
    "numbers in a list": (["a", 1], REFUSED),
    "bytes in an array": (np.array([b"a"]), REFUSED),
    "a tensor": (torch.zeros(2), REFUSED),
    "a dict": ({"a": "b"}, REFUSED),
}

TENSORS: dict[str, tuple[Any, Any]] = {
    "NaN": (torch.tensor([NAN, INF]), array(np.array([NAN, INF], np.float32))),
    "empty": (np.zeros((0, 3), np.int8), array(np.zeros((0, 3), np.int8))),
    "no axis": (torch.tensor(5), array(np.array(5))),
    "complex": (np.array([1j]), array(np.array([1j]))),
    "bool": (torch.tensor([True]), array(np.array([True]))),
    "uint64": (np.array([2**64 - 1], np.uint64), array(np.array([2**64 - 1], np.uint64))),
    "bfloat16": (torch.tensor([0.5]).bfloat16(), array(np.array([0.5], np.float32))),
    "float8": (torch.tensor([0.5]).to(torch.float8_e4m3fn), array(np.array([0.5], np.float32))),
    "sparse": (SPARSE, array(np.array([[0, 2], [3, 0]], np.float32))),
    "quantized": (QUANTIZED, array(np.array([0, 0.5, 1], np.float32))),
    "big-endian": (np.array([1.5], ">f8"), array(np.array([1.5]))),
    "a conjugate view": (torch.tensor([1j]).conj(), array(np.array([-1j], np.complex64))),
    "a step of -1": (np.arange(3)[::-1], array(np.array([2, 1, 0]))),
    "long doubles": (np.zeros(2, np.longdouble), REFUSED),
    "objects": (np.array([None]), REFUSED),
    "texts": (np.array(["a"]), REFUSED),
    "dates": (np.zeros(2, "datetime64[s]"), REFUSED),
    "records": (np.zeros(2, [("a", "f4")]), REFUSED),
    "meta": (META, REFUSED),
    "fake": (fake(3), REFUSED),
    "ragged": ([[1], [2, 3]], REFUSED),
    "nested": (NESTED, REFUSED),
    "None": (None, REFUSED),
}

CURVES: dict[str, tuple[tuple, dict, Any]] = {
    "predictions beyond 1": (([1, 0], [0.5, 1.5]), {}, REFUSED),
    "negative predictions": (([1, 0], [0.5, -0.5]), {}, REFUSED),
    "NaN": (([1, 0], [0.5, NAN]), {}, REFUSED),
    "labels beyond 1": (([2, 0], [0.5, 0.5]), {}, REFUSED),
    "lengths that differ": (([1, 0, 1], [0.5, 0.5]), {}, REFUSED),
    "nothing": (([], []), {}, REFUSED),
    "weights that differ": (([1, 0], [0.5, 0.5]), {"weights": [1]}, REFUSED),
    "negative weights": (([1, 0], [0.5, 0.5]), {"weights": [1, -1]}, REFUSED),
    "one threshold": (([1, 0], [0.5, 0.5]), {"num_thresholds": 1}, REFUSED),
    "thresholds in a text": (([1, 0], [0.5, 0.5]), {"num_thresholds": "127"}, REFUSED),
    "texts": ((["a"], [0.5]), {}, REFUSED),
    "complex": (([1], [0.5j]), {}, REFUSED),
    "meta": ((META, META), {}, REFUSED),
    "bools and bfloat16": (
        (torch.tensor([True, False]), torch.tensor([0.5, 0.5]).bfloat16()),
        {},
        has("pr_curves", "x"),
    ),
    "several axes": ((torch.ones(2, 2), torch.ones(2, 2)), {}, has("pr_curves", "x")),
}

MESHES: dict[str, tuple[tuple, dict, Any]] = {
    "NaN": ((np.full((1, 3, 3), NAN),), {}, REFUSED),
    "beyond float32": ((np.full((1, 3, 3), 1e300),), {}, REFUSED),
    "no vertex": ((np.zeros((1, 0, 3)),), {}, REFUSED),
    "two coordinates": ((np.zeros((1, 3, 2)),), {}, REFUSED),
    "complex": ((np.zeros((1, 3, 3), complex),), {}, REFUSED),
    "meta": ((torch.zeros(1, 3, 3, device="meta"),), {}, REFUSED),
    "faces of other vertices": ((np.zeros((1, 3, 3)),), {"faces": [[[0, 1, 3]]]}, REFUSED),
    "faces of negative vertices": ((np.zeros((1, 3, 3)),), {"faces": [[[0, 1, -1]]]}, REFUSED),
    "faces of floats": ((np.zeros((1, 3, 3)),), {"faces": [[[0.0, 1.0, 2.0]]]}, REFUSED),
    "colors beyond 255": ((np.zeros((1, 3, 3)),), {"colors": np.full((1, 3, 3), 256)}, REFUSED),
    "colors of another shape": ((np.zeros((1, 3, 3)),), {"colors": np.zeros((1, 4, 3), int)}, REFUSED),
    "colors with NaN": ((np.zeros((1, 3, 3)),), {"colors": np.full((1, 3, 3), NAN)}, REFUSED),
    "a config that is no JSON": ((np.zeros((1, 3, 3)),), {"config_dict": {"a": object()}}, REFUSED),
    "a config with NaN": ((np.zeros((1, 3, 3)),), {"config_dict": {"a": NAN}}, REFUSED),
    "a cloud without a batch": ((np.zeros((3, 3)),), {}, has("mesh", "x_VERTEX")),
    "bfloat16": ((torch.zeros(1, 3, 3).bfloat16(),), {}, has("mesh", "x_VERTEX")),
}

BOXES: dict[str, tuple[tuple, dict, Any]] = {
    "no box": ((np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4))), {}, has("images", "x")),
    "an empty list": ((np.zeros((3, 4, 4), np.uint8), []), {}, has("images", "x")),
    "a box beside the picture": ((np.zeros((3, 4, 4), np.uint8), [[-1e9, -5, 1e30, 9]]), {}, has("images", "x")),
    "an alpha channel": ((np.zeros((4, 4, 4), np.uint8), [[0, 0, 2, 2]]), {}, has("images", "x")),
    "NaN": ((np.zeros((3, 4, 4)), [[0, 0, NAN, 2]]), {}, REFUSED),
    "corners that are swapped": ((np.zeros((3, 4, 4)), [[2, 0, 0, 2]]), {}, REFUSED),
    "three numbers": ((np.zeros((3, 4, 4)), [[0, 0, 2]]), {}, REFUSED),
    "too few labels": ((np.zeros((3, 4, 4)), [[0, 0, 2, 2]]), {"labels": []}, REFUSED),
    "labels of numbers": ((np.zeros((3, 4, 4)), [[0, 0, 2, 2]]), {"labels": [3]}, REFUSED),
    "a label of letters that the font lacks": ((np.zeros((3, 9, 9)), [[0, 0, 2, 2]]), {"labels": ["損失"]}, None),
    "a batch": ((np.zeros((2, 3, 4, 4)), [[0, 0, 2, 2]]), {"dataformats": "NCHW"}, REFUSED),
    "a scale of 0": ((np.zeros((3, 4, 4)), [[0, 0, 2, 2]]), {"rescale": 0}, REFUSED),
    "a scale of NaN": ((np.zeros((3, 4, 4)), [[0, 0, 2, 2]]), {"rescale": NAN}, REFUSED),
    "a scale that leaves nothing": ((np.zeros((3, 4, 4)), [[0, 0, 2, 2]]), {"rescale": 0.1}, REFUSED),
    "masks of numbers": ((np.zeros((3, 4, 4)), None), {"masks": np.zeros((1, 4, 4))}, REFUSED),
    "masks of another size": ((np.zeros((3, 4, 4)), None), {"masks": np.zeros((1, 4, 5), bool)}, REFUSED),
    "no mask": ((np.zeros((3, 4, 4)), None), {"masks": np.zeros((0, 4, 4), bool)}, has("images", "x")),
    "meta": ((torch.zeros(3, 4, 4, device="meta"), [[0, 0, 2, 2]]), {}, REFUSED),
}

EYE = np.eye(2)
TABLES = ("projector_config.pbtxt", "00000/x/tensors.bytes")
EMBEDDINGS: dict[str, tuple[tuple, dict, Any]] = {
    "NaN": ((np.array([[NAN, 1.0]]),), {}, REFUSED),
    "beyond float32": ((np.array([[1e300, 1.0]]),), {}, REFUSED),
    "no row": ((np.zeros((0, 3)),), {}, REFUSED),
    "no column": ((np.zeros((3, 0)),), {}, REFUSED),
    "one axis": ((np.zeros(3),), {}, REFUSED),
    "complex": ((EYE * 1j,), {}, REFUSED),
    "texts": ((np.array([["a"]]),), {}, REFUSED),
    "meta": ((META,), {}, REFUSED),
    "fake": ((fake(2, 2),), {}, REFUSED),
    "too few labels": ((EYE, ["a"]), {}, REFUSED),
    "columns without labels": ((EYE, [["a"], ["b"]]), {"metadata_header": ["x", "y"]}, REFUSED),
    "too few pictures": ((EYE, None, np.zeros((1, 3, 4, 4))), {}, REFUSED),
    "pictures of five channels": ((EYE, None, np.zeros((2, 5, 4, 4))), {}, REFUSED),
    "a tag that leaves": ((EYE,), {"tag": ".."}, REFUSED),
    "a tag with NUL": ((EYE,), {"tag": "a\0"}, REFUSED),
    "a long tag": ((EYE,), {"tag": LONG}, REFUSED),
    "a negative step": ((EYE,), {"global_step": -1}, None),
    "a step of 2^63": ((EYE,), {"global_step": 2**63}, REFUSED),
    "labels with tabs and newlines": ((EYE, ["a\tb", "c\nd"]), {}, None),
}

RUNS: dict[str, tuple[Callable[[SummaryWriter], None], Any]] = {
    "a chart's key that leaves": (call("add_scalars", "x", {"a": 1.0, "../../evil": 1.0}), REFUSED),
    "a chart's key with NUL": (call("add_scalars", "x", {"a\0": 1.0}), REFUSED),
    "a chart's key with a backslash": (call("add_scalars", "x", {"a\\b": 1.0}), REFUSED),
    "a chart's key of 100 kB": (call("add_scalars", "x", {LONG: 1.0}), REFUSED),
    "a chart's key that TensorBoard would read": (call("add_scalars", "x", {"tfevents": 1.0}), REFUSED),
    "a chart's tag that is a path": (
        call("add_scalars", "/abs/x", {"a": 1.0}, 1),
        scalar(1.0, "/abs/x", 1, "_abs_x_a"),
    ),
    "a chart's tag of dots": (call("add_scalars", "..", {"a": 1.0}, 1), scalar(1.0, "..", 1, ".._a")),
    "a chart without curves": (call("add_scalars", "x", {}), nothing),
    "a chart of a list": (call("add_scalars", "x", [1.0]), REFUSED),
    "a chart with a text": (call("add_scalars", "x", {"a": 1.0, "b": "1"}), REFUSED),
    "a chart with a meta tensor": (call("add_scalars", "x", {"a": 1.0, "b": META}), REFUSED),
    "a chart's empty tag": (call("add_scalars", "", {"a": 1.0}), REFUSED),
    "a chart at a step of NaN": (call("add_scalars", "x", {"a": 1.0, "b": 1.0}, NAN), REFUSED),
    "a trial's run that leaves": (call("add_hparams", {"lr": 1.0}, {"acc": 1.0}, None, "../../x"), REFUSED),
    "a trial's run that is absolute": (call("add_hparams", {"lr": 1.0}, {"acc": 1.0}, None, "/tmp/x"), REFUSED),
    "a trial's run with NUL": (call("add_hparams", {"lr": 1.0}, {"acc": 1.0}, None, "a\0"), REFUSED),
    "a trial's run of 100 kB": (call("add_hparams", {"lr": 1.0}, {"acc": 1.0}, None, LONG), REFUSED),
    "a trial with None": (call("add_hparams", {"lr": 1.0, "none": None}, {"acc": 1.0}, None, "a"), trial("a", lr=1.0)),
    "a trial with a list": (call("add_hparams", {"lr": [1]}, {"acc": 1.0}, None, "a"), REFUSED),
    "a trial with NaN": (call("add_hparams", {"lr": NAN}, {"acc": 1.0}, None, "a"), REFUSED),
    "a trial with a metric of text": (call("add_hparams", {"lr": 1.0}, {"acc": "high"}, None, "a"), REFUSED),
    "a trial with a metric of None": (call("add_hparams", {"lr": 1.0}, {"b": 1.0, "acc": None}, None, "a"), REFUSED),
    "a trial with an empty metric": (call("add_hparams", {"lr": 1.0}, {"": 1.0}, None, "a"), REFUSED),
    "a trial with a metric of NaN": (call("add_hparams", {"lr": 1.0}, {"acc": NAN}, None, "a"), trial("a", lr=1.0)),
    "a trial with a bool": (call("add_hparams", {"b": True}, {"acc": 1.0}, None, "a"), trial("a", b=True)),
    "a trial with a tensor": (call("add_hparams", {"b": torch.tensor(3)}, {"acc": 1.0}, None, "a"), trial("a", b=3)),
    "a trial with a meta tensor": (
        call("add_hparams", {"b": torch.tensor(3, device="meta")}, {"acc": 1.0}, None, "a"),
        REFUSED,
    ),
    "a trial of lists": (call("add_hparams", ["lr"], {"acc": 1.0}), REFUSED),
    "a trial's metrics in a list": (call("add_hparams", {"lr": 1.0}, ["acc"], None, "a"), REFUSED),
    "a trial's domains in a list": (call("add_hparams", {"lr": 1.0}, {"acc": 1.0}, ["lr"], "a"), REFUSED),
    "a trial's run of another type": (call("add_hparams", {"lr": 1.0}, {"acc": 1.0}, None, 5), REFUSED),
    "a trial at step 2^31": (call("add_hparams", {"lr": 1.0}, {"acc": 1.0}, None, "a", 2**31), REFUSED),
    "a trial's number beyond float64": (call("add_hparams", {"n": 2**53 + 1}, {"acc": 1.0}, None, "a"), REFUSED),
}

OTHERS: dict[str, tuple[Callable[[SummaryWriter], None], Any]] = {
    "a second kind under a tag": (call("add_image", "before", np.zeros((1, 2, 2))), REFUSED),
    "charts in a list": (call("add_custom_scalars", [1]), REFUSED),
    "a chart of no kind": (call("add_custom_scalars", {"a": {"b": ["Pie", ["c"]]}}), REFUSED),
    "a chart with a wrong pattern": (call("add_custom_scalars", {"a": {"b": ["Multiline", ["("]]}}), REFUSED),
    "a margin of two": (call("add_custom_scalars_marginchart", ["a", "b"]), REFUSED),
    "lines in a text": (call("add_custom_scalars_multilinechart", "loss"), REFUSED),
    "a figure that is none": (call("add_figure", "x", "figure"), REFUSED),
    "no figures": (call("add_figure", "x", []), REFUSED),
    "a graph of no module": (call("add_graph", "model"), REFUSED),
    "an ONNX file that is not there": (call("add_onnx_graph", "/nowhere/model.onnx"), REFUSED),
    "an ONNX file that is none": (call("add_onnx_graph", os.__file__), REFUSED),
    "an ONNX file of None": (call("add_onnx_graph", None), REFUSED),
    "a message that is none": (lambda w: w.file_writer.add_summary("summary"), REFUSED),
    "a message of other bytes": (lambda w: w.file_writer.add_event(b"\xff\xff"), REFUSED),
    "an event without a value": (lambda w: w.file_writer.add_event(proto.Event(file_version="brain.Event:2")), REFUSED),
    "a message without a tag": (
        lambda w: w.file_writer.add_summary(proto.Summary(value=[proto.Summary.Value()])),
        REFUSED,
    ),
    "counts of a curve that differ": (call("add_pr_curve_raw", "x", [1, 2], [1], [1], [1], [1], [1]), REFUSED),
    "counts of a curve with NaN": (call("add_pr_curve_raw", "x", *[[1, NAN]] * 6), REFUSED),
}


def _cases() -> Iterator[tuple[str, Callable[[SummaryWriter], None], Any]]:
    for name, (value, expected) in SCALARS.items():
        yield f"scalar: {name}", add("add_scalar", value), expected
    for name, (step, expected) in STEPS.items():
        yield f"step: {name}", call("add_scalar", "x", 1.0, step), expected
    for name, (time, expected) in TIMES.items():
        yield f"walltime: {name}", call("add_scalar", "x", 1.0, 1, time), expected
    for name, (tag, fine) in TAGS.items():
        yield f"tag of a scalar: {name}", call("add_scalar", tag, 2.0, 1), scalar(2.0, tag) if fine else REFUSED
        yield f"tag of a tensor: {name}", call("add_tensor", tag, [1]), has("tensor", tag) if fine else REFUSED
        picture = call("add_image", tag, np.zeros((1, 2, 2)))
        yield f"tag of an image: {name}", picture, has("images", tag) if fine else REFUSED
        words = call("add_text", tag, "text")
        yield f"tag of a text: {name}", words, has("text", f"{tag}/text_summary") if fine else REFUSED
        bars = call("add_histogram", tag, [1.0])
        yield f"tag of a histogram: {name}", bars, has("histograms", tag) if fine else REFUSED
    for name, (values, expected) in HISTOGRAMS.items():
        yield f"histogram: {name}", add("add_histogram", values), expected
    for name, (arguments, expected) in PREBINNED.items():
        yield f"histogram_raw: {name}", add("add_histogram_raw", *arguments), expected
    for name, (value, layout, expected) in PICTURES.items():
        method = "add_images" if layout == "NCHW" else "add_image"
        yield f"image: {name}", add(method, value, dataformats=layout), expected
    for name, (value, expected) in TEXTS.items():
        yield f"text: {name}", add("add_text", value), expected
    for name, (value, expected) in TENSORS.items():
        yield f"tensor: {name}", add("add_tensor", value), expected
    for method, table in (("add_audio", SOUNDS), ("add_video", VIDEOS)):
        for name, (value, options, expected) in table.items():
            yield f"{method[4:]}: {name}", add(method, value, **options), expected
    for method, several in (("add_pr_curve", CURVES), ("add_mesh", MESHES), ("add_image_with_boxes", BOXES)):
        for name, (arguments, options, expected) in several.items():
            yield f"{method[4:]}: {name}", add(method, *arguments, **options), expected
    for name, (arguments, options, expected) in EMBEDDINGS.items():
        yield f"embedding: {name}", call("add_embedding", *arguments, **{"tag": "x"} | options), expected
    for table in (RUNS, OTHERS):
        for name, (calls, expected) in table.items():
            yield name, calls, expected


CASES = list(_cases())


def test_there_is_a_case_for_each_of_the_known_troubles():
    assert len(CASES) > 400 and len({name for name, _, _ in CASES}) == len(CASES)


@pytest.mark.parametrize(("calls", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_case_is_right_or_refused_and_loses_nothing(tmp_path, capfd, calls, expected):
    log_dir = tmp_path / "above" / "log"
    refused = None
    with SummaryWriter(log_dir) as writer:
        writer.add_scalar("before", 1.0, 0)
        try:
            calls(writer)
        except TorchboardError as error:
            refused = error
        writer.add_scalar("after", 2.0, 0)
    assert capfd.readouterr() == ("", "")
    left = found(log_dir)
    for tag, number in (("before", 1.0), ("after", 2.0)):
        assert [(step, value.value) for step, value in left.pop((".", tag))] == [(0, number)]
    beside = {path for path in tmp_path.rglob("*") if path.is_file() and "tfevents" not in path.name}
    if expected is REFUSED:
        assert refused is not None and not left and not beside
        assert (
            len(list(tmp_path.rglob("*tfevents*"))) == 1
            and {path.name for path in log_dir.iterdir() if path.is_dir()} == set()
        )
        came, wrong, remedy = refused._parts
        assert came and wrong and remedy and len(str(refused)) < 2000
    else:
        assert refused is None, refused
        assert all(log_dir in path.parents for path in beside)
        assert expected is None or (expected(left) and not left), left


@pytest.mark.parametrize("log_dir", [5, "", b"runs", "a\0b", ["runs"], "x" * 5000, "sftp9://host/runs"], ids=repr)
def test_a_log_directory_that_cannot_be_is_refused(tmp_path, monkeypatch, log_dir):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TorchboardError, match=re.compile(".+: .+; .+", re.DOTALL)):
        SummaryWriter(log_dir)
    assert list(tmp_path.iterdir()) == []


def test_a_log_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "a.tfevents"):
        with pytest.raises(TorchboardError):
            SummaryWriter(path)
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_tags_that_look_alike_are_kept_apart(tmp_path):
    tags = ["a b", "a_b", "a%20b", "A b", "a  b", "a\u00a0b", "\u00e4", "a\u0308"]
    with SummaryWriter(tmp_path) as writer:
        for number, tag in enumerate(tags):
            writer.add_scalar(tag, number, 0)
    assert {tag: values[0][1].value for (_, tag), values in found(tmp_path).items()} == dict(zip(tags, range(8)))
