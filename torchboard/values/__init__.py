"""What a run can hold: one plugin a file, both directions on one screen.

``encode`` turns an event into the messages of an event file; ``KINDS`` finds the value that reads a plugin back.
"""

from __future__ import annotations

from typing import Any

from torchboard import proto
from torchboard.values.audio import Audio
from torchboard.values.custom_scalars import Layout
from torchboard.values.graph import ConceptualGraph, OpGraph
from torchboard.values.graph_profile import GraphProfile
from torchboard.values.histogram import Histogram
from torchboard.values.hparams import HParamsValue
from torchboard.values.image import Image
from torchboard.values.mesh import MeshPart
from torchboard.values.pr_curve import PrCurve
from torchboard.values.profiled_graph import ProfiledGraph
from torchboard.values.scalar import Scalar
from torchboard.values.tensor import Array
from torchboard.values.text import Text
from torchboard.values.value import Event, Pending, Value
from torchboard.values.video import Video

__all__ = [
    "KINDS",
    "Array",
    "Audio",
    "ConceptualGraph",
    "Event",
    "GraphProfile",
    "HParamsValue",
    "Histogram",
    "Image",
    "Layout",
    "MeshPart",
    "OpGraph",
    "Pending",
    "PrCurve",
    "ProfiledGraph",
    "Scalar",
    "Text",
    "Value",
    "Video",
    "encode",
]

_DECODERS = (
    Array,
    Audio,
    ConceptualGraph,
    GraphProfile,
    HParamsValue,
    Histogram,
    Image,
    Layout,
    MeshPart,
    OpGraph,
    PrCurve,
    ProfiledGraph,
    Scalar,
    Text,
)

KINDS = {kind.plugin: kind for kind in _DECODERS}
"""Plugin -> the value that ``decode``s it. An ``Image`` is what pictures are read as, a ``Video`` its first frame."""


def encode(event: Event) -> list[Any]:
    """The ``proto.Event`` messages of a settled event: one for all its values, and one for each that needs its own."""
    messages = []
    shared = [(tag, value) for tag, value in event.pairs if not getattr(value, "own_event", False)]
    alone = [(tag, value) for tag, value in event.pairs if getattr(value, "own_event", False)]
    for group in ([shared] if shared else []) + [[pair] for pair in alone]:
        message = proto.Event(wall_time=event.wall_time, step=event.step)
        for tag, value in group:
            value.encode(tag, message)
        messages.append(message)
    return messages
