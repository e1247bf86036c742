"""Arrays of any numeric type go to their wire form and back to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorboard.compat.proto import event_pb2, tensor_pb2, types_pb2
from tensorboard.util import tensor_util
from torch.utils.tensorboard.summary import tensor_proto as peer

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values import Array, Event, encode
from torchboard.values.tensor import array_of

TYPES = ["?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16", ">f4", ">i8"]
ARRAYS = hnp.arrays(st.sampled_from(TYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


def wire(value):
    (message,) = encode(Event(0, 1.0, (("array", value),)))
    return message.SerializeToString()


@given(ARRAYS)
def test_an_array_comes_back_to_the_bit_here_and_in_tensorboard(data):
    ours = proto.Event.FromString(wire(Array(data))).summary.value[0]
    theirs = event_pb2.Event.FromString(wire(Array(data))).summary.value[0]
    seen = [Array.decode(ours).data]
    if data.size:  # TensorBoard takes what is empty for a list, and knows none of some types
        seen.append(tensor_util.make_ndarray(theirs.tensor))
    for back in seen:
        assert (back.shape, back.dtype) == (data.shape, data.dtype.newbyteorder("<"))
        assert back.tobytes() == data.astype(data.dtype.newbyteorder("<")).tobytes()


@pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning")
def test_no_dashboard_of_tensorboard_claims_it():
    from tensorboard import default

    claimed = {getattr(plugin, "plugin_name", "") for plugin in default.get_plugins()}
    assert "scalars" in claimed and Array.plugin not in claimed


SMALL = hnp.arrays(st.sampled_from(["?", "u1", "i1", "<f4", "<f8"]), hnp.array_shapes(min_dims=0, max_dims=3))


@given(SMALL)
def test_no_array_of_floats_bytes_or_booleans_takes_more_bytes_than_with_the_peer(data):
    theirs = event_pb2.Event(wall_time=1.0, summary=peer("array", torch.from_numpy(data)))
    assert len(wire(Array(data))) <= len(theirs.SerializeToString())


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("DT_FLOAT", "float_val"),
        ("DT_DOUBLE", "double_val"),
        ("DT_INT32", "int_val"),
        ("DT_UINT8", "int_val"),
        ("DT_INT64", "int64_val"),
    ],
)
def test_a_tensor_that_lists_its_elements_is_read_like_one_of_bytes(kind, field):
    theirs = tensor_pb2.TensorProto(dtype=kind, **{field: [0, 1, 2, 3, 4, 5]})
    for size in (2, 3):
        theirs.tensor_shape.dim.add(size=size)
    back = array_of(proto.TensorProto.FromString(theirs.SerializeToString()))
    expected = tensor_util.make_ndarray(theirs)
    assert back.dtype == expected.dtype and np.array_equal(back, expected)


@pytest.mark.parametrize("kind", [np.bool_, np.complex64, np.complex128, np.float16])
def test_halves_booleans_and_complex_numbers_are_listed_in_forms_of_their_own(kind):
    data = np.array([[0, 1, 2], [3, 4, 5]]).astype(kind) * kind(1.5)
    theirs = tensor_util.make_tensor_proto(data)
    assert not theirs.tensor_content
    back = array_of(proto.TensorProto.FromString(theirs.SerializeToString()))
    assert back.dtype == data.dtype and np.array_equal(back, data)


def test_one_element_may_stand_for_all():
    message = proto.TensorProto(dtype=proto.DataType["DT_INT32"].number, int_val=[7])
    message.tensor_shape.dim.add(size=3)
    assert array_of(message).tolist() == [7, 7, 7]


def test_tensors_of_the_peer_are_read():
    summary = peer("tag", torch.arange(6.0).reshape(2, 3))
    message = proto.Summary.FromString(summary.SerializeToString()).value[0]
    assert Array.decode(message).data.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("data", [np.array(["a"]), np.array([None]), np.array(["2020-01-01"], "M8[D]")], ids=str)
def test_what_is_no_number_is_refused(data):
    with pytest.raises(InvalidValueError, match="; "):
        Array(data)


@pytest.mark.parametrize(
    "message",
    [
        tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[b"a"]),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1, 2, 3]),
    ],
    ids=["text", "count"],
)
def test_a_tensor_that_is_no_array_of_numbers_is_refused(message):
    with pytest.raises(InvalidValueError, match="; "):
        array_of(proto.TensorProto.FromString(message.SerializeToString()))
