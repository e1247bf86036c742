"""How long each layer took in each batch that was profiled, forward and backward."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from torchboard.profile.trace import Span, Trace


@dataclass(slots=True)
class LayerTime:
    """What a layer took in one batch, without the layers inside it, in milliseconds.

    Attributes:
        forward: its forward pass.
        backward: the way back over it, with what a checkpoint computes again.
    """

    forward: float = 0.0
    backward: float = 0.0


def layer_times(trace: Trace) -> dict[int, dict[str, LayerTime]]:
    """Batch -> layer -> its time: that of its kernels where a device was busy, and that of its operators otherwise.

    A layer's part of the backward pass is known from autograd, which numbers what it will go back over. What a layer does
    outside any operator (Python, waiting) is not in it, nor is adding up gradients.
    """
    times: dict[int, dict[str, LayerTime]] = defaultdict(lambda: defaultdict(LayerTime))
    for span, duration in _work(trace):
        if span.layer is not None and span.batch is not None:
            time = times[span.batch][span.layer]
            if span.is_backward:
                time.backward += duration / 1e6
            else:
                time.forward += duration / 1e6
    return times


def _work(trace: Trace) -> list[tuple[Span, int]]:
    """What took time, each nanosecond once: kernels and copies, or operators without what they called."""
    if trace.device:
        return [(span, span.duration) for span in trace.device]
    own = {span: span.duration for span in trace.host if span.is_operator}
    for span in trace.host:
        if span.parent in own:
            own[span.parent] -= span.duration
    return list(own.items())
