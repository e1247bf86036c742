"""Which part of which whole a rank's tensor is.

A ``DTensor`` says so itself. An ordinary parameter is the same on every rank, and an ordinary output is of this rank's own
part of the batch, unless ranks work on one batch together, as in tensor parallelism: then some outputs are parts of one
tensor and others are the same on all those ranks, and what they hold tells which.

Nothing here communicates; looking at a ``DTensor`` costs microseconds.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from torchboard.graph.job import in_a_job
from torchboard.graph.module_names import join, module_names, parameter_names


class Part(NamedTuple):
    """One part of a tensor that several ranks hold together.

    Attributes:
        holders: told by the first of them; "" for a parameter, which all ranks hold together.
        place: which of the parts; ranks with the same part have the same here.
        counts: False for a rank whose part another rank has too.
    """

    holders: str
    place: str
    counts: bool = True


def part_of(tensor: Tensor) -> Part | None:
    """Which part of a ``DTensor`` this rank holds; None for any other tensor."""
    if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "placements"):
        return None
    mesh = tensor.device_mesh
    at = mesh.get_coordinate()
    holders = f"mesh of {int(mesh.mesh.flatten()[0])}"
    if at is None:
        return Part(holders, "", counts=False)
    counts, place = True, []
    for axis, (placement, where) in enumerate(zip(tensor.placements, at)):
        if placement.is_replicate():
            counts &= where == 0
        else:
            place.append(f"{axis}:{where}")
    return Part(holders, ",".join(place), counts)


def place_along(tensor: Tensor, axis: int) -> tuple[int, ...] | None:
    """Which of the parts that a ``DTensor`` is cut into along an axis this rank has, in their order, () of one that is not; None
    for any other tensor."""
    if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "placements"):
        return None
    at = tensor.device_mesh.get_coordinate() or ()
    return tuple(where for placement, where in zip(tensor.placements, at) if placement.is_shard(axis))


def size_along(weight: Tensor, axis: int, model: nn.Module) -> tuple[int, bool]:
    """The size of a parameter along an axis, of all its parts together, and whether each of the ranks that compute on one batch
    has a part of it."""
    placed = getattr(weight, "_st_info", weight)
    data_axes = _axes_of_fsdp(model)
    placements = enumerate(getattr(placed, "placements", ()))
    return placed.shape[axis], any(at >= data_axes and placement.is_shard(axis) for at, placement in placements)


def ranks_of_one_batch(model: nn.Module, rank: int) -> tuple[int, ...]:
    """The ranks that compute on the same examples together with this one, in order; in data parallelism this one alone.

    They lie along the axes of the parameters' meshes that are not FSDP's.
    """
    data_axes = _axes_of_fsdp(model)
    found: tuple[int, ...] = (rank,)
    meshes = [getattr(parameter, "device_mesh", None) for _, parameter in parameter_names(model)]
    for mesh in (*meshes, *localized(model).values()):
        if mesh is None or mesh.ndim <= data_axes or (at := mesh.get_coordinate()) is None:
            continue
        together = mesh.mesh[tuple(at[: int(data_axes)])].flatten()
        if together.numel() > len(found):
            found = tuple(sorted(map(int, together)))
    return found


def localized(model: nn.Module) -> dict[str, Any]:
    """Name -> mesh of the parameters that ``DistributedDataParallel(…, device_mesh=…)`` has taken out of a model under tensor
    parallelism: in their place are a rank's parts, which do not tell what they are parts of, and later no parameters at all.
    """
    found: dict[str, Any] = {}
    for module, name in module_names(model).items() if in_a_job() else ():
        for key, parameter in module._parameters.items():
            if is_localized(parameter):
                found[join(name, key)] = parameter._st_info.mesh
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and value.requires_grad and hasattr(value, "placements"):
                found[join(name, key)] = value.device_mesh
    return found


def is_localized(parameter: Tensor | None) -> bool:
    """Whether a parameter is a rank's part of one that was taken out of the model, as ``localized`` tells."""
    return hasattr(parameter, "_st_info")


def _axes_of_fsdp(model: nn.Module) -> float:
    """How many axes of a parameter's mesh, the first ones, ``fully_shard`` shards and replicates over; 0 without it.

    Infinite where this version of torch does not tell.
    """
    axes = 0.0
    for module in model.modules():
        if hasattr(module, "_get_fsdp_state"):
            axes = max(axes, _axes_of(module._get_fsdp_state()))
    return axes


def _axes_of(state: Any) -> float:
    groups = getattr(state, "_fsdp_param_groups", None)
    if groups is None:
        groups = [state._fsdp_param_group] if getattr(state, "_fsdp_param_group", None) else []
    axes = [getattr(getattr(group, "mesh_info", None), "mesh", None) for group in groups]
    return max((math.inf if mesh is None else mesh.ndim for mesh in axes), default=0)
