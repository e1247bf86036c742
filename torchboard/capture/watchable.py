"""Whether a model can be watched as asked, told before there is anything that would have to be taken back."""

from __future__ import annotations

from torch import nn

from torchboard.capture.graphs import check_write_graph
from torchboard.capture.options import Capture
from torchboard.capture.pictures.feature_maps import check_feature_maps
from torchboard.capture.select import check_selectors
from torchboard.capture.steps import check_optimizer
from torchboard.errors import InvalidValueError


def check_watched(
    model: nn.Module, options: object, optimizer: object = None, feature_maps: object = True, graph: object = True
) -> None:
    """Refuses what ``ModelWatch`` cannot be made of, before there is anything that would have to be taken back.

    Raises:
        InvalidValueError: an argument is none of its kind, or does not fit the model.
    """
    if not isinstance(options, Capture):
        raise InvalidValueError(
            f"capture={options!r:.80}", "it is no Capture", "give one, such as Capture(every=100), or leave it out"
        )
    check_selectors(model, options)
    if optimizer is not None:
        check_optimizer(optimizer, model)
    check_feature_maps(feature_maps, model)
    check_write_graph(graph)
