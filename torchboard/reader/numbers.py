"""The number of a scalar, in whichever of its forms a writer put it."""

from __future__ import annotations

from typing import Any

from torchboard import proto
from torchboard.values.tensor import array_of

_DTYPES = {value.number: name for name, value in proto.DataType.items()}
_FLOAT = proto.DataType["DT_FLOAT"].number


def number_of(value: Any) -> tuple[float | None, str]:
    """The one number of a ``Summary.Value``, None if it holds anything else, and its form.

    The form is ``simple_value``, or the element type of its tensor and its shape, if that has dimensions.
    """
    if value.WhichOneof("value") == "simple_value":
        return value.simple_value, "simple_value"
    tensor = value.tensor
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == _FLOAT and not shape and len(tensor.float_val) == 1:
        return tensor.float_val[0], "DT_FLOAT"
    dtype = _DTYPES.get(tensor.dtype, f"type {tensor.dtype}")
    form = f"{dtype} {shape}" if shape else dtype
    try:
        array = array_of(tensor)
    except ValueError:
        return None, form
    return (float(array.reshape(())) if array.size == 1 and array.dtype.kind != "c" else None), form
