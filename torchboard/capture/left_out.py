"""What a model has that is not captured or drawn, said once in a text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

from torch import nn

from torchboard.capture.figures import Figures
from torchboard.capture.options import Capture
from torchboard.capture.ranks.parts import localized
from torchboard.capture.select import chosen_layers, first_names, nearest_root, scripted_layers
from torchboard.capture.tensors import described, measurable
from torchboard.graph.module_names import module_names, parameter_names
from torchboard.graph.tensors import is_flat_shard
from torchboard.values import Text

_NAMED = 10
"""Outputs or parameters that a text names."""


def left_out(kind: str, reason: str) -> list[Figures]:
    """A text ``monitor/left_out/<kind>`` that says which there are not, and why."""
    return [Figures(((f"monitor/left_out/{kind}", Text(f"Not all {kind.replace('_', ' ')} are here: {reason}.")),))]


class LeftOut:
    """Says in the first epoch collected what of a model there is nothing of, if anything.

    That are layers above ``max_layers``, layers in TorchScript or in a fused one, outputs and parameters that cannot be measured,
    and parameters of which no rank can tell its part.

    Args:
        model: of which layers and parameters.
        options: which are captured.
        unread: tag of an output that could not be measured -> what it is; those of the first epoch are told.
        ran_fused: layers that ran as one kernel, so that the layers in them did not run; those of the first epoch are told.
    """

    def __init__(
        self,
        model: nn.Module,
        options: Capture,
        unread: Mapping[str, str] = MappingProxyType({}),
        ran_fused: Collection[nn.Module] = (),
    ) -> None:
        self._unread = unread
        self._ran_fused = ran_fused
        self._model = model
        self._options = options
        self._told = False

    def collect(self) -> list[Figures]:
        """The texts, once."""
        told, self._told = self._told, True
        if told:
            return []
        layers, parameters = "; ".join(self._layers()), "; ".join(self._parameters())
        texts = left_out("layers", layers) if layers else []
        return texts + (left_out("parameters", parameters) if parameters else [])

    def _layers(self) -> Iterator[str]:
        chosen = chosen_layers(self._model, self._options)
        kept = nearest_root(chosen, self._options.max_layers)
        if len(kept) < len(chosen):
            yield (
                f"{len(kept):,} of {len(chosen):,} are captured, those nearest to the root; `Capture(include=…)` picks "
                "others, `max_layers` more"
            )
        scripted = scripted_layers(self._model, self._options)
        if scripted and (self._options.activations or self._options.gradients):
            yield f"TorchScript takes no hooks, so there is nothing of the outputs in {_listed(scripted)}"

        if fused := [name for layer, name in module_names(self._model).items() if layer in self._ran_fused]:
            yield (
                f"in evaluation {first_names([f'`{name}`' for name in fused], _NAMED)} ran as one kernel, as without a "
                "monitor, so there is nothing of the layers inside"
            )
        if self._unread:
            named = [f"`{tag}` ({what})" for tag, what in self._unread.items()]
            what = "outputs that are no real numbers in memory, or raise where they are read, cannot be measured"
            yield f"{what}: {first_names(named, _NAMED)}"

    def _parameters(self) -> Iterator[str]:
        flat = [name for name, weight in parameter_names(self._model) if is_flat_shard(weight)]
        if flat:
            yield f"{_listed(flat)} are shards of `FullyShardedDataParallel`"
        if parts := localized(self._model):
            yield f"{_listed(parts)} are parts of tensors that `DistributedDataParallel` has taken out of the model"
        named = [
            f"`{name}` ({described(weight)})"
            for name, weight in parameter_names(self._model)
            if name not in (*flat, *parts) and not weight.is_meta and measurable(weight) is None
        ]
        if named and (self._options.parameters or self._options.gradients or self._options.updates):
            yield f"those that are no real numbers in memory cannot be measured: {first_names(named, _NAMED)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
