"""torchboard: a PyTorch-native training monitor.

    >>> from torchboard import Monitor
    >>> monitor = Monitor(model, "runs/resnet")

Names are loaded when they are first used: importing torchboard starts nothing and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Capture",
    "MemorySink",
    "Monitor",
    "NullSink",
    "SummaryWriter",
    "errors",
    "graph",
    "hparams",
    "notebook",
    "read",
    "schedule",
    "summary",
]

_HOMES = {
    "Capture": "torchboard.capture.options",
    "MemorySink": "torchboard.sink.memory",
    "Monitor": "torchboard.monitor",
    "NullSink": "torchboard.sink.null",
    "SummaryWriter": "torchboard.writer",
    "read": "torchboard.reader",
}

if TYPE_CHECKING:
    from torchboard import errors, graph, hparams, notebook, schedule, summary
    from torchboard.capture.options import Capture
    from torchboard.monitor import Monitor
    from torchboard.reader import read
    from torchboard.sink.memory import MemorySink
    from torchboard.sink.null import NullSink
    from torchboard.writer import SummaryWriter


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
