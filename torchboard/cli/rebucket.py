"""Large histograms with few buckets.

Writers of TensorFlow's first form spend hundreds of buckets, and 10 kB, on a histogram; TensorBoard draws 30. Counts are
moved whole and the extremes stay; edges in between move, by about 1/32 of the range or of the mass.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from torchboard import proto
from torchboard.values import Histogram
from torchboard.values.histogram import MAX_BUCKETS

_SMALL = 900
"""Bytes up to which a histogram is left as it is."""


def rebucketed(value: Any) -> bool:
    """Gives the histogram of a ``Summary.Value`` few buckets, in place, if it is large; says whether it was done.

    One is left as it is where its counts are no whole numbers, or its buckets do not follow each other or are few.
    """
    if value.ByteSize() <= _SMALL or not _is_histogram(value):
        return False
    buckets = Histogram.decode(value).buckets
    left, right, counts = buckets.T
    if len(buckets) <= MAX_BUCKETS or not np.isfinite(buckets).all():
        return False
    if (left[1:] != right[:-1]).any() or (right < left).any() or (counts != np.floor(counts)).any() or counts.min() < 0:
        return False
    small = Histogram.from_bins(
        np.append(left, right[-1]), counts.astype(np.int64), extremes=(float(left[0]), float(right[-1]))
    )
    event = proto.Event()
    small.encode(value.tag, event)
    made = event.summary.value[0]
    if made.ByteSize() >= value.ByteSize():
        return False
    if value.HasField("metadata"):
        made.metadata.CopyFrom(value.metadata)
    value.CopyFrom(made)
    return True


def _is_histogram(value: Any) -> bool:
    return value.WhichOneof("value") == "histo" or value.metadata.plugin_data.plugin_name == Histogram.plugin
