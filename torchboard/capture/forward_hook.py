"""The hook on a layer: which rows its outputs have, and which of them cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from torchboard.capture.compiled.in_graph import GraphRow
from torchboard.capture.select import tag
from torchboard.capture.sketches import Row
from torchboard.capture.tensors import PLAIN, described, observable
from torchboard.graph.hooks import InertWhenCopied

if TYPE_CHECKING:
    from torchboard.capture.recorder import Recorder

Read = Callable[[Tensor], bool]
_is_tracing = torch._C._is_tracing


class ForwardHook(InertWhenCopied):
    """What sits on a layer while armed.

    Args:
        recorder: whose it is.
        name: the layer's.
    """

    __slots__ = ("_recorder", "name", "_rows", "_readers", "_unreadable")

    def __init__(self, recorder: Recorder, name: str) -> None:
        self._recorder = recorder
        self.name = name
        self._rows: dict[tuple, Row | GraphRow] = {}
        self._readers: dict[tuple, Read] = {}
        self._unreadable: set[tuple[str, str]] = set()

    def __call__(self, module: nn.Module, args: tuple, output: object) -> None:
        if is_dynamo_compiling() or _is_tracing() or self._recorder.error is not None:
            return
        self._recorder.observe_output(self, module, output)

    def reader(self, kind: str, suffix: str) -> Read | None:
        """What does as ``observe`` if compiled code can read a tensor where it lies, and says whether. It is there once
        ``observe`` has been called; of torch's modes, only those of functions see it."""
        return self._readers.get((kind, suffix, self._recorder.phase))

    def observe(self, kind: str, suffix: str, tensor: Tensor) -> bool:
        """Adds what of a tensor is here to the row of one of the layer's outputs; False where there is nothing to measure."""
        if (kind, suffix) in self._unreadable:
            return False
        try:
            local = observable(tensor)
            if local is not None:
                self.row(kind, suffix, local.device, tensor).observe_(local)
                return True
        except Exception as error:
            self.give_up(kind, suffix, tensor, error)
            return False
        if not tensor.is_meta:
            self._recorder.unread[tag(kind, self.name) + suffix] = described(tensor)
        return False

    def give_up(self, kind: str, suffix: str, output: object, error: Exception) -> None:
        """What reading one of the layer's outputs raised: it is read no more."""
        self._unreadable.add((kind, suffix))
        is_tensor = isinstance(output, Tensor)
        what = described(output) if is_tensor else type(output).__name__
        self._recorder.gave_up(tag(kind, self.name) + suffix, what, error, is_tensor and type(output) in PLAIN)

    def row(self, kind: str, suffix: str, device: torch.device, like: Tensor) -> Row | GraphRow:
        """The row of one of the layer's outputs, remembered until sketches are collected."""
        phase = self._recorder.phase
        key = kind, suffix, device, phase
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = self._recorder.row(self, kind, suffix, like, device)
            read = row.table.reader(row.index) if isinstance(row, Row) else None
            if read is not None:
                self._readers[kind, suffix, phase] = read
        return row

    def forget(self) -> None:
        """Sketches are collected: which part of a tensor is here has to be said again."""
        self._rows.clear()
