"""Whether captured steps of a model can stay compiled: told before they are, and again when they have run.

Before: the version of torch, CUDA graphs, and code that was compiled before there were hooks, as far as the compiler's own
caches tell. After: a layer whose row has met nothing since captured steps run compiled is one whose code was compiled
without its hook. That is read from the copy of the rows that goes to the host anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from torchboard.capture.snapshot import HostCopy, Snapshot
from torchboard.errors import InvalidValueError
from torchboard.graph.module_names import class_name, unwrapped
from torchboard.sketch import layout
from torchboard.values import Histogram, Value

NEEDED_TORCH = (2, 15)
"""The first version that this was tested with; 2.8 fails on gradients of outputs inside a compiled graph."""

_CAME = "Capture(compiled='graph')"
_COMPILE_LATER = "make the monitor before the first compiled call, or call torch._dynamo.reset() before it"
_NAMED = 4
OUTPUTS, GRADIENTS = "activations", "activation_gradients"
"""What the tags of rows begin with."""


def check_graph_mode(model: nn.Module, torch_version: Any = torch.__version__) -> None:
    """Captured steps of the model can stay compiled, as far as can be told beforehand.

    Raises:
        InvalidValueError: this torch is too old, the model runs in CUDA graphs, or its code is compiled already.
    """
    if torch_version < NEEDED_TORCH:
        needed = ".".join(map(str, NEEDED_TORCH))
        raise InvalidValueError(
            f"{_CAME} with torch {torch_version}",
            f"it needs torch {needed}",
            "give compiled='eager', which captures the same",
        )
    in_cuda_graphs = cuda_graphs(model)
    if in_cuda_graphs is not None:
        raise in_cuda_graphs
    for module, _ in _compiled(model):
        if _has_run(module):
            raise InvalidValueError(
                f"{_CAME} for {class_name(module)}",
                "code of this class is compiled already, and such code does not notice hooks that come later",
                _COMPILE_LATER,
            )


def cuda_graphs(model: nn.Module) -> InvalidValueError | None:
    """The error that compiled code of the model runs in CUDA graphs, if it does."""
    for module, call in _compiled(model):
        if _uses_cuda_graphs(call):
            return InvalidValueError(
                f"{_CAME} for {class_name(module)}",
                "it is compiled to run in CUDA graphs (mode='reduce-overhead'), which replay and call nothing",
                "give compiled='eager', or compile it without CUDA graphs",
            )
    return None


def silent_layers(model: nn.Module, tags: Iterable[str]) -> InvalidValueError:
    """The error that compiled code calls no hook for the rows of these tags."""
    silent = sorted(tags)
    named = ", ".join(silent[:_NAMED]) + (", …" if len(silent) > _NAMED else "")
    came = f"{_CAME} for {class_name(unwrapped(model))}"
    cause = "code that was compiled before there were hooks, or that runs in a transform of torch.func"
    if all(name.startswith(GRADIENTS) for name in silent):
        return InvalidValueError(
            came,
            f"in compiled steps no gradient came to {len(silent)} outputs ({named}) from outside of their layers, as of outputs "
            "that their own layer alone uses, or returns in a container that cannot be copied (a subclass of dict, say), or of "
            f"{cause}",
            "give compiled='eager', which sees these gradients too",
        )
    return InvalidValueError(
        came,
        f"compiled steps showed nothing of {len(silent)} outputs and gradients ({named}), as of {cause}",
        _COMPILE_LATER,
    )


@dataclass(frozen=True)
class RowsMet(Snapshot):
    """No value, but a look at how many elements rows had met in all, when captured steps began to run compiled, and have now.

    ``copy`` holds the three, [rows] each.

    Attributes:
        names: the tags of the rows.
        report: called with the tags of those that have met nothing in compiled steps but did before, if there are any.
    """

    names: tuple[str, ...]
    report: Callable[[list[str]], None]

    kind = Histogram

    def settle(self) -> Iterable[tuple[str, Value]]:
        silent = [name for name, seen, begun, now in zip(self.names, *self.copy.wait()) if seen and now <= begun]
        if silent:
            self.report(silent)
        return ()


class CompiledCheck:
    """Looks once, at the end of the first epoch with a compiled captured step, whether such a step fills the rows."""

    def __init__(self, report: Callable[[list[str]], None]) -> None:
        self._report = report
        self._names: tuple[str, ...] = ()
        self._seen = self._begun = torch.empty(0, device="cpu")
        self._state = "eager"

    def begin(self, moments: Mapping[str, Tensor]) -> None:
        """A captured step will run compiled; ``moments`` are the rows' as they are now."""
        if self._state == "eager" and moments:
            if not self._names:
                self._note(moments)
            self._begun = _met(moments[name] for name in self._names)
            self._state = "begun"

    def end_step(self) -> None:
        """A captured step has ended."""
        if self._state == "begun":
            self._state = "run"

    def collect(self, moments: Mapping[str, Tensor]) -> list[RowsMet]:
        """What is to be looked at on the host, if it is time; the rows are emptied then."""
        if self._state == "run":
            self._state = "done"
            now = _met(moments[name] for name in self._names)
            return [RowsMet((), HostCopy([self._seen, self._begun, now]), self._names, self._report)]
        if self._state == "begun":
            self._state = "eager"
        elif self._state == "eager" and moments:
            self._note(moments)
        return []

    def _note(self, moments: Mapping[str, Tensor]) -> None:
        self._names, self._seen = tuple(moments), _met(moments.values())


def _met(moments: Iterable[Tensor]) -> Tensor:
    """How many elements each of these rows has met, on the device of the first."""
    counts = [row[0, layout.COUNT] for row in moments]
    return torch.stack([count.to(counts[0].device, non_blocking=True) for count in counts])


def _compiled(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Each module of the model that is compiled, and what runs it compiled."""
    for module in model.modules():
        if "_orig_mod" in module._modules:
            yield unwrapped(module), module
        elif module._compiled_call_impl is not None:
            yield module, module._compiled_call_impl


def _uses_cuda_graphs(call: Any) -> bool:
    configuration = getattr(call, "get_compiler_config", lambda: None)() or {}
    return bool(configuration.get("triton.cudagraphs"))


def _has_run(module: nn.Module) -> bool:
    """Whether the compiler holds code of the module's class that looks at no switch of ours.

    Code of a class is compiled once for all its instances; that of a class of torch's own lies with a function of the
    compiler's, among others.
    """
    kind, forward = type(module), getattr(type(module).forward, "__code__", None)
    guards = _guards_of(forward)
    if kind.__module__.startswith("torch."):
        guards += [text for text in _guards_of(_inlining_code()) if f"type={kind!r}" in text]
    return any(".armed ==" not in text for text in guards)


def _guards_of(code: CodeType | None) -> list[str]:
    """What the compiler checks before it runs what it made of this code, one text for each version."""
    try:
        from torch._dynamo.eval_frame import _debug_get_cache_entry_list

        return [str(entry.guard_manager) for entry in _debug_get_cache_entry_list(code)] if code else []
    except (ImportError, AttributeError):  # then what the rows meet tells, later
        return []


def _inlining_code() -> CodeType | None:
    try:
        from torch._dynamo.external_utils import wrap_inline
    except ImportError:
        return None
    return next((part for part in wrap_inline.__code__.co_consts if isinstance(part, CodeType)), None)
