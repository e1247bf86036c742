"""Meshes and point clouds over steps: the Mesh dashboard.

A mesh is up to three values, each under a tag of its own: where its vertices are, which three of them make a face, and
what colour each has. ``mesh_parts`` makes them together; the dashboard puts them together again by name and step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from torchboard import proto
from torchboard.errors import InvalidValueError, TagError
from torchboard.values.tensor import array_of, tensor_proto
from torchboard.values.value import metadata

CONTENTS = {name: proto.MeshPluginData.ContentType.Value(name) for name in ("VERTEX", "FACE", "COLOR")}
"""Number of a part by its name."""

_TYPES = {"VERTEX": np.dtype(np.float32), "FACE": np.dtype(np.int32), "COLOR": np.dtype(np.uint8)}


@dataclass(frozen=True, eq=False)
class MeshPart:
    """One of the parts of one or more meshes of one size, which the dashboard pages.

    Attributes:
        mesh: the tag that groups the parts.
        content: ``"VERTEX"``, ``"FACE"`` or ``"COLOR"``.
        data: float32[meshes, vertices, 3] positions, int32[meshes, faces, 3] indices of vertices, or uint8[meshes,
            vertices, 3] colours.
        parts: the contents of all the parts that the mesh has.
        config: JSON of the THREE.js camera, lights and material.
    """

    mesh: str
    content: str
    data: np.ndarray
    parts: tuple[str, ...]
    config: str = "{}"

    plugin: ClassVar[str] = "mesh"

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + len(self.config)

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as a rank-3 tensor: its own bytes."""
        message = event.summary.value.add(tag=tag)
        content = proto.MeshPluginData(
            name=self.mesh,
            content_type=CONTENTS[self.content],
            json_config=self.config,
            shape=self.data.shape,
            components=sum(1 << CONTENTS[part] for part in self.parts),
        )
        message.metadata.CopyFrom(metadata(self.plugin, content=content.SerializeToString()))
        message.tensor.CopyFrom(tensor_proto(self.data))

    @classmethod
    def decode(cls, message: Any) -> MeshPart:
        """The part of a ``Summary.Value``, in the type that it should have, whatever type it was written in."""
        content = proto.MeshPluginData.FromString(message.metadata.plugin_data.content)
        name = proto.MeshPluginData.ContentType.Name(content.content_type)
        parts = tuple(part for part, number in CONTENTS.items() if content.components >> number & 1)
        return cls(content.name, name, array_of(message.tensor).astype(_TYPES[name]), parts, content.json_config)


def mesh_parts(
    tag: str,
    vertices: np.ndarray,
    faces: np.ndarray | None = None,
    colors: np.ndarray | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[tuple[str, MeshPart], ...]:
    """The parts of meshes, or of point clouds where there are no faces, with the tags they go under; of their own memory.

    Args:
        tag: what the dashboard calls the mesh.
        vertices: real numbers [meshes, vertices, 3] or [vertices, 3], finite.
        faces: whole numbers [meshes, faces, 3] or [faces, 3], indices of vertices.
        colors: as the vertices in shape; integers in 0..255, or floats in 0..1.
        config: ``camera``, ``lights`` and ``material`` as THREE.js classes and their settings, as JSON takes them.

    Raises:
        TagError: the tag is no text.
        InvalidValueError: one of the others does not hold.
    """
    if not isinstance(tag, str) or not tag:
        raise TagError(f"tag {tag!r}", "a tag is a text with at least one letter", "give a name such as 'scan/left'")
    arrays = {"VERTEX": _vertices(vertices)}
    if faces is not None:
        arrays["FACE"] = _faces(faces, arrays["VERTEX"].shape)
    if colors is not None:
        arrays["COLOR"] = _colors(colors, arrays["VERTEX"].shape)
    text = _json(config)
    return tuple((f"{tag}_{name}", MeshPart(tag, name, array, tuple(arrays), text)) for name, array in arrays.items())


def _vertices(values: np.ndarray) -> np.ndarray:
    array = _triples("vertices", values, "biuf")
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if not np.isfinite(narrow).all():
        wrong = "a position that is not a finite float32 cannot be drawn"
        raise InvalidValueError(f"vertices with {array[~np.isfinite(narrow)][0]}", wrong, "drop those vertices")
    return narrow


def _faces(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = _triples("faces", values, "iu")
    if array.shape[0] != shape[0]:
        came = f"faces of {array.shape[0]} meshes for vertices of {shape[0]}"
        raise InvalidValueError(came, "each mesh has its own faces", "give one set of faces a mesh")
    outside = (array < 0) | (array >= shape[1])
    if outside.any():
        wrong = f"there are {shape[1]} vertices, numbered from 0"
        raise InvalidValueError(f"faces with vertex {array[outside][0]}", wrong, "check the indices")
    return array.astype(np.int32)


def _colors(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = _triples("colors", values, "iuf")
    if array.shape != shape:
        came = f"colors of shape {list(array.shape)} for vertices of shape {list(shape)}"
        raise InvalidValueError(came, "each vertex has one colour", "give both in one shape")
    floats = array.dtype.kind == "f"
    inside = (array >= 0) & (array <= (1 if floats else 255))
    if not inside.all():
        came = f"colors of {array.dtype} with {array[~inside][0]}"
        raise InvalidValueError(came, "integers are taken as 0..255 and floats as 0..1", "scale or convert them")
    return (np.rint(array * 255.0) if floats else array).astype(np.uint8)


def _triples(name: str, values: np.ndarray, kinds: str) -> np.ndarray:
    """An array [meshes, n, 3] of a type that will do."""
    array = np.asarray(values)
    if array.dtype.kind not in kinds:
        raise InvalidValueError(
            f"{name} of {array.dtype}",
            "that is the wrong type for them",
            "give whole numbers for faces, else real ones",
        )
    if array.ndim not in (2, 3) or array.shape[-1] != 3 or 0 in array.shape:
        raise InvalidValueError(
            f"{name} of shape {list(array.shape)}",
            "they are [meshes, n, 3] or [n, 3], and not empty",
            "reshape them, or leave out what is empty",
        )
    return array if array.ndim == 3 else array[None]


def _json(config: Mapping[str, Any] | None) -> str:
    try:
        return json.dumps(dict(config or {}), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"config_dict={config!r:.80}", f"it is no object of JSON ({error})", "use names, finite numbers and lists"
        ) from None
