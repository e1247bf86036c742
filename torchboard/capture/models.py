"""Several models that are trained together, as one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from torchboard.errors import InvalidValueError


class Models(nn.Module):
    """Holds models under their names, so that all that walks over a model walks over all of them. It cannot be called."""

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._modules.update(models)


def as_model(model: object) -> nn.Module:
    """The model itself, or several of them as one; the names of their layers begin with the key.

    Raises:
        InvalidValueError: it is neither a module nor a dict of modules, or a key is no name.
    """
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, Mapping) or not model or not all(isinstance(one, nn.Module) for one in model.values()):
        raise InvalidValueError(
            f"model of type {type(model).__name__}",
            "a monitor watches a torch.nn.Module",
            "give the module that is trained, or a dict of name -> module",
        )
    for name in model:
        if not isinstance(name, str) or not name or "." in name or "/" in name:
            raise InvalidValueError(
                f"a model called {name!r}",
                "its layers are named after it, with dots",
                "give a name such as 'generator'",
            )
    return Models(model)


def models_in(model: nn.Module) -> dict[str, nn.Module]:
    """Key -> each model that is called by itself: those of several; a lone one has the empty key."""
    parts = model._modules if isinstance(model, Models) else {"": model}
    return {key: part for key, part in parts.items() if part is not None}


def key_of(model: nn.Module, layer: str) -> str:
    """The key, as in ``models_in``, of the model that the layer of this name is in."""
    return layer.partition(".")[0] if isinstance(model, Models) else ""
