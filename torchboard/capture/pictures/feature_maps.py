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

from torchboard.capture.figures import Figures
from torchboard.capture.left_out import left_out
from torchboard.capture.models import Models, key_of, models_in
from torchboard.capture.modes import unseen
from torchboard.capture.options import Capture
from torchboard.capture.pictures.attention import AttentionMode, WholeFunctions
from torchboard.capture.pictures.pending import PictureSnapshot
from torchboard.capture.pictures.probe import Probe
from torchboard.capture.pictures.views import CONVOLUTIONS, blocks_of, view_of
from torchboard.capture.select import layers, spread, tag
from torchboard.drawing.sheets import Heads, Sheet
from torchboard.errors import InvalidValueError
from torchboard.graph.hooks import GuardedHook, InertWhenCopied
from torchboard.graph.job import is_probe
from torchboard.graph.module_names import module_names

_MAX_PICTURES = 100
"""Layers shown, evenly spread, and attentions, where the options do not name layers."""
_PATIENCE = 8
"""Captured steps that a model is waited for."""


def check_feature_maps(value: object, model: nn.Module) -> None:
    """Refuses what is no choice of feature maps.

    Raises:
        InvalidValueError: it is neither a truth value nor a tensor, or one tensor for several models.
    """
    if isinstance(value, bool):
        return
    if not isinstance(value, Tensor):
        raise InvalidValueError(
            f"feature_maps of type {type(value).__name__}",
            "it says whether there are any, or is the input to show them for",
            "give True, False or a tensor, of an array or a list torch.as_tensor(…)",
        )
    if isinstance(model, Models):
        raise InvalidValueError(
            "a tensor as feature_maps",
            f"there are several models, {', '.join(models_in(model))}, and it does not say whose input it is",
            "leave it out: each is shown with the first example that it gets",
        )


class FeatureMaps:
    """Runs the model on a probe at the end of an epoch and keeps what its layers put out.

    The probe is the first example of the first batch that the model sees in training, or one that is given. Its pass
    runs in evaluation mode without gradients and leaves no trace in the model (``quiet_pass``); a model that cannot run so
    (it wants targets, say) is left in peace after the first try, with the reason in ``error``. Of several models each has
    a probe and a pass of its own.

    Args:
        model: its convolutions, blocks and attentions are shown.
        options: which layers; the same selection as for activations.
        probe: the input of a lone model, a batch of one; None to take it from the first training batch.
    """

    def __init__(self, model: nn.Module, options: Capture, probe: Tensor | None) -> None:
        self.error: Exception | None = None
        self._model = model
        self._options = options
        self._probes: dict[str, Probe] = {} if probe is None else {"": Probe.given(model, probe)}
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
                self._probes[key] = Probe(models_in(self._model)[key], args, kwargs)

    def collect(self) -> list[PictureSnapshot | Figures]:
        """One forward pass of each probe; the numbers are on their way to the host, one snapshot for all pictures."""
        if not self._probes:
            return []
        found = layers(self._model, self._options)
        drawable = self._drawable(found)
        shown = drawable if self._options.include is not None else spread(drawable, _MAX_PICTURES)
        seen = _Pass({module: name for name, module in found})
        for key, probe in [*self._probes.items()]:
            part = [one for one in shown if key_of(self._model, one[0]) == key]
            try:
                probe.run(partial(seen.watching, models_in(self._model)[key], part, not probe.whole))
            except Exception as error:
                self._failed(key, error if drawable or any(map(_attends, seen.names)) else None)
        pictures: list[PictureSnapshot | Figures] = [PictureSnapshot.of(seen.views)] if seen.views else []
        return pictures + self._tell(len(shown), len(drawable), seen.attentions)

    def _passes(self, key: str, module: nn.Module, args: tuple, kwargs: dict | None = None) -> None:
        if kwargs is not None and not is_probe():  # without them a hook in front of this one has taken it off
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
        reasons = [f"{drawn} of {count} layers are drawn, evenly spread"] if drawn < count else []
        if attentions > _MAX_PICTURES:
            reasons.append(f"the first {_MAX_PICTURES} of {attentions} attentions are drawn")
        for whole in {probe.whole for probe in self._probes.values() if probe.whole}:
            reasons.append(
                f"how a `{whole}` is cut into examples is not known, so that only convolutions and recurrent layers are "
                "drawn, which tell where their batch is"
            )
        return left_out("feature_maps", "; ".join(reasons)) if reasons else []


@dataclass
class _Pass:
    """What one pass of the probe shows.

    Attributes:
        names: the layers that may be shown.
        views: tag -> how it is drawn, and the numbers.
        running: the layers that are running, by name, the innermost last; empty for those that may not be shown.
        patches: height and width of the last planes that a convolution made.
        is_one: whether the pass is of one example.
        attentions: how many there were, of which the first are in ``views``.
    """

    names: dict[nn.Module, str]
    views: dict[str, tuple[Sheet, Tensor]] = field(default_factory=dict)
    running: list[tuple[str, bool]] = field(default_factory=list)
    patches: tuple[int, int] | None = None
    is_one: bool = True
    attentions: int = 0

    @contextmanager
    def watching(self, model: nn.Module, shown: Sequence[tuple[str, nn.Module]], is_one: bool) -> Iterator[None]:
        """Hooks on the layers, and the modes that see attention, for one pass; one that fails shows nothing.

        Of a pass that is not of one example, layers are shown that tell where their batch is.
        """
        before = dict(self.views), self.attentions
        self.patches, self.is_one = None, is_one
        mode = AttentionMode(self.see_attention)
        try:
            with self._hooked(model, shown), mode, WholeFunctions():
                yield
            if mode.error is not None:
                raise mode.error
        except BaseException:
            self.views, self.attentions = before
            raise

    @contextmanager
    def _hooked(self, model: nn.Module, shown: Sequence[tuple[str, nn.Module]]) -> Iterator[None]:
        with ExitStack() as stack:
            for module in module_names(model):
                if not isinstance(module, torch.jit.ScriptModule):
                    name = self.names.get(module, "")
                    stack.callback(module.register_forward_pre_hook(_Begin(self, name)).remove)
                    stack.callback(module.register_forward_hook(_End(self), always_call=True).remove)
            for name, module in shown:
                if self.is_one or isinstance(module, (*CONVOLUTIONS, nn.RNNBase)):
                    stack.callback(module.register_forward_hook(_Keep(self, name)).remove)
            yield

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
        if not (self.is_one and name and (is_certain or attends)) or heads.shape[2] < 2:
            return
        self.attentions += 1
        if self.attentions > _MAX_PICTURES:
            return
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
