"""What the layers make of one fixed example, as pictures, and where attention looks, an epoch at a time.

Shown are convolutions, the blocks of transformers and recurrent layers (``views`` says how), and every attention
(``attention``). It costs one forward pass of one example in evaluation mode, a small copy a picture, and at most 100 pictures
of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map_only

from torchboard.capture.figures import Figures
from torchboard.capture.left_out import left_out
from torchboard.capture.models import Models, key_of, models_in
from torchboard.capture.modes import unseen
from torchboard.capture.options import Capture
from torchboard.capture.pictures.attention import AttentionMode, WholeFunctions
from torchboard.capture.pictures.pending import PictureSnapshot
from torchboard.capture.pictures.views import CONVOLUTIONS, blocks_of, view_of
from torchboard.capture.select import layers, spread, tag
from torchboard.drawing.sheets import Heads, Sheet
from torchboard.errors import InvalidValueError
from torchboard.graph.hooks import GuardedHook, InertWhenCopied
from torchboard.graph.job import is_probe
from torchboard.graph.module_names import module_names
from torchboard.graph.quiet_pass import quiet_pass

_MAX_PICTURES = 100
"""Layers shown, evenly spread, and attentions, where the options do not name layers."""
_PATIENCE = 8
"""Captured steps that a model is waited for."""


class FeatureMaps:
    """Runs the model on a probe at the end of an epoch and keeps what its layers put out.

    The probe is the first example of the first batch that the model sees in training, or one that is given. The pass
    runs in evaluation mode without gradients and leaves modes, buffers and the random state as they were; a model that
    cannot run so (it wants targets, say) is left in peace after the first try, with the reason in ``error``. Of several
    models each has a probe and a pass of its own.

    Args:
        model: its convolutions, blocks and attentions are shown.
        options: which layers; the same selection as for activations.
        probe: the model's input, a batch of one; None to take it from the first training batch.

    Raises:
        InvalidValueError: there is one probe for several models.
    """

    def __init__(self, model: nn.Module, options: Capture, probe: Tensor | None) -> None:
        if probe is not None and isinstance(model, Models):
            raise InvalidValueError(
                "a tensor as feature_maps",
                f"there are several models, {', '.join(models_in(model))}, and it does not say whose input it is",
                "leave it out: each is shown with the first example that it gets",
            )
        self.error: Exception | None = None
        self._model = model
        self._options = options
        self._probes: dict[str, tuple[tuple, dict]] = {} if probe is None else {"": ((probe.detach().clone(),), {})}
        drawn = {key_of(model, name) for name, _ in self._drawable(layers(model, options))}
        self._awaited = {
            key: part
            for key, part in models_in(model).items()
            if probe is None and (key in drawn or any(map(_attends, part.modules())))
        }
        self._told = False
        self._windows = 0
        self._handles: dict[str, torch.utils.hooks.RemovableHandle] = {}

    @property
    def waits(self) -> bool:
        """Whether hooks of its sit on a model."""
        return bool(self._handles)

    def arm(self, on: bool) -> None:
        """Waits for the first batch with one hook on each model, until its probe is known.

        Where captured steps could run compiled, and would not while there is such a hook, some windows must do.
        """
        if on and self._awaited:
            self._windows += 1
            if self._windows > _PATIENCE and self._options.compiled == "graph":
                self._awaited.clear()
        for key, part in self._awaited.items() if on else ():
            if key not in self._handles:
                hook = GuardedHook(partial(self._passes, key), partial(self._failed, key))
                self._handles[key] = part.register_forward_pre_hook(hook, with_kwargs=True)
        for key in () if on else [*self._handles]:
            self._handles.pop(key).remove()

    def keep(self, args: tuple, kwargs: dict, key: str = "") -> None:
        """Takes the first example of a batch as the probe, of several models as that of one."""
        handle = self._handles.pop(key, None)
        if handle is not None:
            handle.remove()
        if self._awaited.pop(key, None) is not None:
            with unseen():
                self._probes[key] = first_example(args, kwargs)

    def collect(self) -> list[PictureSnapshot | Figures]:
        """One forward pass of each probe; the numbers are on their way to the host, one snapshot for all pictures."""
        if not self._probes:
            return []
        found = layers(self._model, self._options)
        drawable = self._drawable(found)
        shown = drawable if self._options.include is not None else spread(drawable, _MAX_PICTURES)
        seen = _Pass({module: name for name, module in found})
        for key, probe in [*self._probes.items()]:
            model, before = models_in(self._model)[key], dict(seen.views)
            try:
                with seen.watching(model, [entry for entry in shown if key_of(self._model, entry[0]) == key]):
                    quiet_pass(model, *probe)
            except Exception as error:
                seen.views = before
                self._failed(key, error if drawable or any(map(_attends, seen.names)) else None)
        pictures: list[PictureSnapshot | Figures] = [PictureSnapshot.of(seen.views)] if seen.views else []
        return pictures + self._tell(len(shown), len(drawable), seen.attentions)

    def _passes(self, key: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if not is_probe():
            self.keep(args, kwargs, key)

    def _failed(self, key: str, error: Exception | None) -> None:
        """There are no more pictures of a model; None where there would have been none."""
        self.error = self.error or error
        self._probes.pop(key, None)

    def _drawable(self, found: Sequence[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
        blocks = blocks_of(self._model)
        return [(name, module) for name, module in found if isinstance(module, CONVOLUTIONS) or module in blocks]

    def _tell(self, drawn: int, count: int, attentions: int) -> list[Figures]:
        """What is left out, once."""
        told, self._told = self._told, True
        if told:
            return []
        if drawn == count and attentions < _MAX_PICTURES:
            return []
        attended = f", and the first {_MAX_PICTURES} attentions" if attentions >= _MAX_PICTURES else ""
        return left_out("feature_maps", f"{drawn} of {count} layers are drawn, evenly spread{attended}")


@dataclass
class _Pass:
    """What one pass of the probe shows.

    Attributes:
        names: the layers that may be shown.
        views: tag -> how it is drawn, and the numbers.
        running: the layers that are running, by name, the innermost last; empty for those that may not be shown.
        patches: height and width of the last planes that a convolution made.
    """

    names: dict[nn.Module, str]
    views: dict[str, tuple[Sheet, Tensor]] = field(default_factory=dict)
    running: list[tuple[str, bool]] = field(default_factory=list)
    patches: tuple[int, int] | None = None
    attentions: int = 0

    @contextmanager
    def watching(self, model: nn.Module, shown: Sequence[tuple[str, nn.Module]]) -> Iterator[None]:
        """Hooks on the layers, and the modes that see attention, for one pass."""
        self.patches = None
        mode = AttentionMode(self.see_attention)
        with ExitStack() as stack:
            for module in module_names(model):
                if not isinstance(module, torch.jit.ScriptModule):
                    name = self.names.get(module, "")
                    stack.callback(module.register_forward_pre_hook(_Begin(self, name)).remove)
                    stack.callback(module.register_forward_hook(_End(self), always_call=True).remove)
            for name, module in shown:
                stack.callback(module.register_forward_hook(_Keep(self, name)).remove)
            stack.enter_context(mode)
            stack.enter_context(WholeFunctions())
            yield
        if mode.error is not None:
            raise mode.error

    def see(self, name: str, module: nn.Module, output: Any) -> None:
        """A layer has put something out; its first call counts."""
        key = tag("feature_maps", name)
        view = view_of(module, output, self.patches)
        if view is None:
            return
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            self.patches = view[0].shape[1:]
        self.views.setdefault(key, view)

    def see_attention(self, heads: Heads, weights: Tensor, is_certain: bool) -> None:
        """The innermost layer attends; a second time in one layer has a number."""
        name, attends = self.running[-1] if self.running else ("", False)
        if not name or not (is_certain or attends) or heads.shape[2] < 2 or self.attentions == _MAX_PICTURES:
            return
        self.attentions += 1
        key, number = tag("attention", name), 1
        while key in self.views:
            number += 1
            key = f"{tag('attention', name)}.{number}"
        self.views[key] = heads, weights


def _attends(module: nn.Module) -> bool:
    """Whether a module is some attention, by the name of its class."""
    return "attention" in (name := type(module).__name__.lower()) or "attn" in name


class _Begin(InertWhenCopied):
    """Says that a layer runs."""

    __slots__ = ("_pass", "_name")

    def __init__(self, seen: _Pass, name: str) -> None:
        self._pass = seen
        self._name = name

    def __call__(self, module: nn.Module, args: tuple) -> None:
        self._pass.running.append((self._name, _attends(module)))


class _End(InertWhenCopied):
    """Says that the innermost layer has run."""

    __slots__ = ("_pass",)

    def __init__(self, seen: _Pass) -> None:
        self._pass = seen

    def __call__(self, module: nn.Module, args: tuple, output: object) -> None:
        self._pass.running.pop()


class _Keep(InertWhenCopied):
    """Shows a layer's output."""

    __slots__ = ("_pass", "_name")

    def __init__(self, seen: _Pass, name: str) -> None:
        self._pass = seen
        self._name = name

    def __call__(self, module: nn.Module, args: tuple, output: object) -> None:
        with unseen():
            self._pass.see(self._name, module, output)


def first_example(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Copies of a model's inputs with a batch of one: every tensor as long as the first one is cut after its first row.

    Of packed sequences the longest is taken.
    """
    inputs: list[Any] = []
    tree_map_only((Tensor, PackedSequence), inputs.append, (args, kwargs), is_leaf=_is_packed)
    batch = next((_examples(given) for given in inputs if _examples(given)), 0)

    def cut(given: Any) -> Any:
        if _is_packed(given):
            return _longest(given)
        return (given[:1] if _examples(given) == batch else given).detach().clone()

    return tree_map_only((Tensor, PackedSequence), cut, (args, kwargs), is_leaf=_is_packed)


def _is_packed(given: object) -> bool:
    return isinstance(given, PackedSequence)


def _examples(given: Any) -> int | None:
    """How many there are along the first axis, or sequences; None of a number."""
    if _is_packed(given):
        return int(given.batch_sizes[0])  # it is on the host, always
    return len(given) if given.ndim else None


def _longest(packed: PackedSequence) -> PackedSequence:
    """The first of the sequences in the order in which they are packed: the first row of each step."""
    steps = packed.batch_sizes
    rows = (steps.cumsum(0) - steps).to(packed.data.device, non_blocking=True)
    return PackedSequence(packed.data.detach()[rows], torch.ones_like(steps))
