"""Meshes: parts under tags of their own that TensorBoard puts together again."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.mesh import metadata as their_metadata
from tensorboard.plugins.mesh import plugin_data_pb2
from tensorboard.util import tensor_util
from torch.utils.tensorboard.summary import mesh as peer

from torchboard import proto
from torchboard.errors import InvalidValueError, TagError
from torchboard.values import Event, MeshPart, encode
from torchboard.values.mesh import mesh_parts

CORNERS = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]], np.float64)
FACES = np.array([[[0, 1, 2], [0, 2, 3]]])
COLORS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]])
CAMERA = {"camera": {"cls": "PerspectiveCamera", "fov": 75}}


def wire(parts):
    (message,) = encode(Event(0, 1.0, parts))
    return message.SerializeToString()


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9)).flatmap(
        lambda size: st.tuples(
            hnp.arrays(np.float32, (*size, 3), elements=st.floats(-1e6, 1e6, width=32)),
            hnp.arrays(np.uint8, (*size, 3)),
            hnp.arrays(np.int32, (size[0], 2, 3), elements=st.integers(0, size[1] - 1)),
        )
    )
)
def test_parts_come_back_as_they_were(arrays):
    vertices, colors, faces = arrays
    parts = mesh_parts("mesh", vertices, faces, colors, CAMERA)
    back = [MeshPart.decode(message) for message in proto.Event.FromString(wire(parts)).summary.value]
    assert [part.content for part in back] == ["VERTEX", "FACE", "COLOR"]
    for part, array in zip(back, (vertices, faces, colors)):
        assert part.data.dtype == array.dtype and np.array_equal(part.data, array)
        assert (part.mesh, part.parts, json.loads(part.config)) == ("mesh", ("VERTEX", "FACE", "COLOR"), CAMERA)


@pytest.mark.parametrize(
    ("given_parts", "contents"),
    [({}, "V"), ({"faces": FACES}, "VF"), ({"colors": COLORS}, "VC"), ({"faces": FACES, "colors": COLORS}, "VFC")],
    ids=["cloud", "faces", "colors", "all"],
)
def test_tensorboard_finds_the_parts_by_their_metadata(given_parts, contents):
    values = event_pb2.Event.FromString(wire(mesh_parts("a/mesh", CORNERS, **given_parts))).summary.value
    kinds = plugin_data_pb2.MeshPluginData
    names = {"V": kinds.VERTEX, "F": kinds.FACE, "C": kinds.COLOR}
    types = {"V": np.float32, "F": np.int32, "C": np.uint8}
    assert [value.tag for value in values] == [
        their_metadata.get_instance_name("a/mesh", names[letter]) for letter in contents
    ]
    for value, letter in zip(values, contents):
        content = their_metadata.parse_plugin_metadata(value.metadata.plugin_data.content)
        array = tensor_util.make_ndarray(value.tensor)
        assert (content.name, content.content_type, content.version) == ("a/mesh", names[letter], 0)
        assert content.components == their_metadata.get_components_bitmask([names[one] for one in contents])
        assert list(content.shape) == list(array.shape) and array.dtype == types[letter]


def test_meshes_of_the_peer_are_read():
    tensors = (torch.tensor(array) for array in (CORNERS, COLORS, FACES))
    summary = proto.Summary.FromString(peer("mesh", *tensors, CAMERA).SerializeToString())
    back = {part.content: part.data for part in map(MeshPart.decode, summary.value)}
    assert np.array_equal(back["FACE"], FACES) and back["FACE"].dtype == np.int32
    assert np.array_equal(back["COLOR"], COLORS) and np.array_equal(back["VERTEX"], CORNERS)


def test_one_mesh_may_leave_out_the_first_axis():
    parts = dict(mesh_parts("mesh", CORNERS[0], FACES[0], COLORS[0]))
    assert [parts[f"mesh_{name}"].data.shape for name in ("VERTEX", "FACE", "COLOR")] == [
        (1, 4, 3),
        (1, 2, 3),
        (1, 4, 3),
    ]


def test_colors_are_whole_up_to_255_or_broken_up_to_1():
    parts = dict(mesh_parts("mesh", CORNERS, colors=np.full((1, 4, 3), 0.5, np.float16)))
    assert (parts["mesh_COLOR"].data == 128).all()


def test_parts_do_not_share_memory_with_what_they_were_made_of():
    arrays = CORNERS.astype(np.float32), FACES.astype(np.int32), COLORS.astype(np.uint8)
    for part, array in zip(mesh_parts("mesh", *arrays), arrays):
        assert not np.shares_memory(part[1].data, array)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"vertices": np.zeros((1, 4, 2))}, "[1, 4, 2]"),
        ({"vertices": np.zeros(3)}, "[3]"),
        ({"vertices": np.zeros((1, 0, 3))}, "not empty"),
        ({"vertices": np.full((1, 4, 3), math.nan)}, "nan"),
        ({"vertices": np.full((1, 4, 3), 1e300)}, "1e+300"),
        ({"vertices": np.full((1, 4, 3), "a")}, "vertices of <U1"),
        ({"faces": np.array([[[0, 1, 4]]])}, "vertex 4"),
        ({"faces": np.array([[[0, 1, -1]]])}, "vertex -1"),
        ({"faces": np.zeros((1, 2, 3))}, "faces of float64"),
        ({"faces": np.zeros((2, 2, 3), int)}, "2 meshes"),
        ({"colors": np.zeros((1, 3, 3), int)}, "one colour"),
        ({"colors": np.full((1, 4, 3), 256)}, "256"),
        ({"colors": np.full((1, 4, 3), 2.0)}, "0..1"),
        ({"config": {"camera": object()}}, "JSON"),
        ({"config": {"fov": math.nan}}, "JSON"),
        ({"config": 5}, "JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_makes_no_mesh_is_refused(arguments, words):
    with pytest.raises(InvalidValueError, match="; ") as caught:
        mesh_parts("mesh", **{"vertices": CORNERS, **arguments})
    assert words in str(caught.value)


@pytest.mark.parametrize("tag", [5, "", None])
def test_a_mesh_has_a_name(tag):
    with pytest.raises(TagError, match="; "):
        mesh_parts(tag, CORNERS)
