"""What a profiler saw of some batches, written to a run: files for three viewers, a text and scalars."""

from __future__ import annotations

import gzip
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch.profiler import profile

from torchboard.capture.select import tag
from torchboard.profile.layer_times import layer_times
from torchboard.profile.listing import longest
from torchboard.profile.trace import Trace, read_trace
from torchboard.profile.xspace import xspace
from torchboard.run import Run
from torchboard.values import Scalar, Text, Value

LISTING_TAG = "profile/operations"


def write_profile(run: Run, profiled: profile, layers: Mapping[str, str], first: int, last: int) -> None:
    """Writes a profiler that has stopped to a run.

    Args:
        run: gets ``plugins/profile/<time>/<host>.pt.trace.json.gz`` and ``.xplane.pb``, the text ``profile/operations`` and the
            scalars ``layer_time/<layer>/forward_ms`` and ``…/backward_ms`` of each batch.
        profiled: the profiler.
        layers: name of an annotation -> name of the layer that it is around.
        first, last: the batches.
    """
    host = re.sub(r"[^\w-]", "_", socket.gethostname()) or "host"
    path = f"plugins/profile/{time.strftime('%Y_%m_%d_%H_%M_%S')}/{host}"
    data = _chrome_trace(profiled)
    run.put(f"{path}.pt.trace.json.gz", gzip.compress(data, 3))
    run.write(last, ((LISTING_TAG, Text(longest(profiled.key_averages(), first, last, layers))),))
    trace = read_trace(data, layers)
    run.put(f"{path}.xplane.pb", xspace(trace, host))
    for batch, pairs in _scalars(trace):
        run.write(batch, pairs)


def _chrome_trace(profiled: profile) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(path))
        return path.read_bytes()


def _scalars(trace: Trace) -> Iterator[tuple[int, tuple[tuple[str, Value], ...]]]:
    """Batch -> the scalars of its layers; a layer without a backward pass has no such scalar."""
    for batch, layers in sorted(layer_times(trace).items()):
        pairs: list[tuple[str, Value]] = []
        for name, took in layers.items():
            parts = (("forward_ms", took.forward), ("backward_ms", took.backward))
            pairs += [(f"{tag('layer_time', name)}/{part}", Scalar(value)) for part, value in parts if value]
        yield batch, tuple(pairs)
