"""What a large model has that is not captured or drawn, said once in a text."""

from __future__ import annotations

from torch import nn

from torchboard.capture.figures import Figures
from torchboard.capture.options import Capture
from torchboard.capture.select import chosen_layers, nearest_root
from torchboard.values import Text


def left_out(kind: str, reason: str) -> list[Figures]:
    """A text ``monitor/left_out/<kind>`` that says which there are not, and why."""
    return [Figures(((f"monitor/left_out/{kind}", Text(f"Not all {kind.replace('_', ' ')} are here: {reason}.")),))]


class LayersLeftOut:
    """Says in the first epoch collected how many layers ``max_layers`` leaves out, if any.

    Args:
        model: of which layers.
        options: which are captured.
    """

    def __init__(self, model: nn.Module, options: Capture) -> None:
        self._model = model
        self._options = options
        self._told = False

    def collect(self) -> list[Figures]:
        """The text, once."""
        told, self._told = self._told, True
        if told or self._options.max_layers is None:
            return []
        chosen = chosen_layers(self._model, self._options)
        kept = nearest_root(chosen, self._options.max_layers)
        if len(kept) == len(chosen):
            return []
        reason = f"{len(kept):,} of {len(chosen):,} are captured, those nearest to the root"
        return left_out("layers", f"{reason}; `Capture(include=…)` picks others, `max_layers` more")
