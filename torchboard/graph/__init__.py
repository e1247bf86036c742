"""A model as frozen typed nodes, recorded from a forward pass that really ran.

``torchboard.graph(model, *args, **kwargs)`` gives the graph of ``model(*args, **kwargs)``, a ``RecordedGraph``, without
training: one pass in evaluation mode that leaves the model as it was. Printed, it is a table of the layers with their
parameters, FLOPs, time and activation memory; ``SummaryWriter.add_graph`` writes it.

``observed`` watches one pass through hooks and dispatch modes, ``nodes`` is the plain data it gives, ``recorded`` what is
shown of it: ``op_graph`` and ``conceptual`` turn that data into the values TensorBoard draws, ``layer_costs`` into a
table. ``module_names`` gives modules and parameters the names that every room above uses. Nothing is traced or compiled,
and when the pass is over nothing of it is left on the model.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from torchboard.graph.recorded import RecordedGraph


class _CallableModule(ModuleType):
    """This package, which can be called: its name is also that of the function that users know."""

    def __call__(self, model: nn.Module, *args: Any, **kwargs: Any) -> RecordedGraph:
        """The graph of ``model(*args, **kwargs)`` in evaluation mode, without gradients; the model is left as it was.

        Raises:
            InvalidValueError: ``model`` is not a module, or cannot be recorded.
            Exception: whatever the model raises.
        """
        from torchboard.graph.recorded import record

        return record(model, args, kwargs)


sys.modules[__name__].__class__ = _CallableModule
