"""What each convolution makes of one fixed example, as a picture an epoch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from torchboard.capture.modes import unseen
from torchboard.capture.options import Capture
from torchboard.capture.select import layers, tag
from torchboard.capture.snapshot import HostCopy, Snapshot
from torchboard.capture.tensors import measurable
from torchboard.capture.tiles import palette, tiles
from torchboard.graph.inert import InertWhenCopied
from torchboard.graph.quiet_pass import quiet_pass
from torchboard.values import Image, Value

_MAX_MAPS = 64
"""Channels shown of one layer: the first ones."""


class FeatureMaps:
    """Runs the model on a probe at the end of an epoch and keeps what its convolutions put out.

    The probe is the first example of the first batch that the model sees in training, or one that is given. The pass
    runs in evaluation mode without gradients and leaves modes, buffers and the random state as they were; a model that
    cannot run so (it wants targets, say) is left in peace after the first try, with the reason in ``error``.

    Args:
        model: its two-dimensional convolutions are shown.
        options: which layers; the same selection as for activations.
        probe: the model's input, a batch of one; None to take it from the first training batch.
    """

    def __init__(self, model: nn.Module, options: Capture, probe: Tensor | None) -> None:
        self.error: Exception | None = None
        self._model = model
        self._options = options
        self._probe: tuple[tuple, dict] | None = None if probe is None else ((probe.detach().clone(),), {})
        self._wanted = probe is None and bool(self._convolutions())
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether its hook sits on the model."""
        return self._handle is not None

    def arm(self, on: bool) -> None:
        """Waits for the first batch with one hook on the model, until the probe is known."""
        if on and self._wanted and self._handle is None:
            self._handle = self._model.register_forward_pre_hook(_FirstInput(self), with_kwargs=True)
        elif not on and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def keep(self, args: tuple, kwargs: dict) -> None:
        """Takes the first example of a batch as the probe."""
        self.arm(False)
        self._wanted = False
        try:
            with unseen():
                self._probe = first_example(args, kwargs)
        except Exception as error:
            self.error = error

    def collect(self) -> list[FeatureMapSnapshot]:
        """One forward pass of the probe; the maps are on their way to the host, one snapshot for all layers."""
        if self._probe is None or self.error is not None:
            return []
        maps: dict[str, Tensor] = {}
        handles = [module.register_forward_hook(_Keep(maps, name)) for name, module in self._convolutions()]
        try:
            quiet_pass(self._model, *self._probe)
        except Exception as error:
            self.error = error
            return []
        finally:
            for handle in handles:
                handle.remove()
        return [FeatureMapSnapshot(tuple(maps), HostCopy(list(maps.values())))] if maps else []

    def _convolutions(self) -> list[tuple[str, nn.Module]]:
        kinds = (nn.Conv2d, nn.ConvTranspose2d)
        return [(name, module) for name, module in layers(self._model, self._options) if isinstance(module, kinds)]


class _FirstInput(InertWhenCopied):
    """Hands the first batch of a training pass to the collector, on the way in."""

    __slots__ = ("_collector",)

    def __init__(self, collector: FeatureMaps) -> None:
        self._collector = collector

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            self._collector.keep(args, kwargs)


class _Keep(InertWhenCopied):
    """Copies the maps of a layer's first call in a pass."""

    __slots__ = ("_maps", "_tag")

    def __init__(self, maps: dict[str, Tensor], name: str) -> None:
        self._maps = maps
        self._tag = tag("feature_maps", name)

    def __call__(self, module: nn.Module, args: tuple, output: object) -> None:
        local = measurable(output) if isinstance(output, Tensor) else None
        if local is not None and local.ndim == 4 and local.numel() and self._tag not in self._maps:
            self._maps[self._tag] = local[0, :_MAX_MAPS].float().clone()


class FeatureMapSnapshot(Snapshot):
    """One picture a layer, made of its maps, float32[maps, height, width]."""

    kind = Image

    def settle(self) -> Iterable[tuple[str, Value]]:
        for tag_, maps in zip(self.tags, self.copy.wait()):
            yield tag_, Image(feature_grid(maps)[None], _caption(maps))


def feature_grid(maps: np.ndarray) -> np.ndarray:
    """Maps float[count, height, width] as one picture uint8[H, W, 3]: a square grid in the viridis colours.

    Each map is scaled by itself, from its least value to its greatest, so that a weak map shows its pattern as well as a
    strong one; a constant map is dark, and elements that are not finite are taken as the least value.
    """
    finite = np.where(np.isfinite(maps), maps, np.nan)
    low, high = (np.nan_to_num(end(finite, axis=(1, 2), keepdims=True)) for end in (np.fmin.reduce, np.fmax.reduce))
    span = np.where(high > low, high - low, 1.0)
    levels = (np.nan_to_num((finite - low) / span) * 255.0).astype(np.uint8)
    return tiles(levels, palette("viridis"))


def first_example(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Copies of a model's inputs with a batch of one: every tensor as long as the first one is cut after its first row."""
    tensors: list[Tensor] = []
    tree_map_only(Tensor, tensors.append, (args, kwargs))
    batch = next((len(tensor) for tensor in tensors if tensor.ndim), 0)

    def cut(tensor: Tensor) -> Tensor:
        alike = tensor.ndim > 0 and len(tensor) == batch
        return (tensor[:1] if alike else tensor).detach().clone()

    return tree_map_only(Tensor, cut, (args, kwargs))


def _caption(maps: np.ndarray) -> str:
    count, height, width = maps.shape
    return f"{count} maps of {height} x {width}, each scaled by itself"
