"""Which layer runs, said to a profiler: an annotation around the forward pass of each.

The hooks are on the model while a profiler runs and at no other time; each call of a layer costs two of them, some
microseconds. Compiled modules have none: hooks would be compiled with them.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function
from torch.utils.hooks import RemovableHandle

from torchboard.graph.eager import compiled_modules
from torchboard.graph.fused import FusedLayers
from torchboard.graph.hooks import InertWhenCopied
from torchboard.graph.module_names import class_name, module_names


class LayerMarks:
    """Puts the annotations around the layers of a model.

    Attributes:
        layers: name of an annotation, ``conv1 (Conv2d)``, -> name of the layer; the model itself is called after its class.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers: dict[str, str] = {}
        self._handles: list[RemovableHandle | FusedLayers] = []
        self._running: dict[int, list[record_function]] = {}
        compiled = compiled_modules(model)
        fused = FusedLayers(module for module in module_names(model) if module not in compiled)
        fused.put_on()
        self._handles.append(fused)
        for module, name in module_names(model).items():
            if module not in compiled and not isinstance(module, torch.jit.ScriptModule):
                title = f"{name} ({class_name(module)})" if name else class_name(module)
                self.layers[title] = name or class_name(module)
                self._handles.append(module.register_forward_pre_hook(_Begin(self._running, title)))
                self._handles.append(module.register_forward_hook(_End(self._running), always_call=True))

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for marks in self._running.values():
            while marks:
                _leave(marks.pop())


class _Begin(InertWhenCopied):
    __slots__ = ("_running", "_title")

    def __init__(self, running: dict[int, list[record_function]], title: str) -> None:
        self._running = running
        self._title = title

    def __call__(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        mark = record_function(self._title)
        with suppress(Exception):
            mark.__enter__()
            self._running.setdefault(id(module), []).append(mark)


class _End(InertWhenCopied):
    __slots__ = ("_running",)

    def __init__(self, running: dict[int, list[record_function]]) -> None:
        self._running = running

    def __call__(self, module: nn.Module, args: Any, result: Any) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        marks = self._running.get(id(module))
        if marks:
            _leave(marks.pop())


def _leave(mark: record_function) -> None:
    with suppress(Exception):
        mark.__exit__(None, None, None)
