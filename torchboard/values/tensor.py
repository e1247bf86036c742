"""Arrays over steps, kept to the bit: no dashboard draws them, and what reads the log gets them back as they were.

The two halves of the codec, ``tensor_proto`` and ``array_of``, are those of every plugin whose value is numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.value import metadata

_FIELDS = {
    "DT_FLOAT": ("<f4", "float_val"),
    "DT_DOUBLE": ("<f8", "double_val"),
    "DT_HALF": ("<f2", "half_val"),
    "DT_INT8": ("i1", "int_val"),
    "DT_INT16": ("<i2", "int_val"),
    "DT_INT32": ("<i4", "int_val"),
    "DT_INT64": ("<i8", "int64_val"),
    "DT_UINT8": ("u1", "int_val"),
    "DT_UINT16": ("<u2", "int_val"),
    "DT_UINT32": ("<u4", "uint32_val"),
    "DT_UINT64": ("<u8", "uint64_val"),
    "DT_BOOL": ("?", "bool_val"),
    "DT_COMPLEX64": ("<c8", "scomplex_val"),
    "DT_COMPLEX128": ("<c16", "dcomplex_val"),
}
"""Element type -> its little-endian NumPy type, and where a ``TensorProto`` without ``tensor_content`` holds it."""

_NUMBERS = {np.dtype(kind): proto.DataType[name].number for name, (kind, _) in _FIELDS.items()}
_TYPES = {proto.DataType[name].number: (np.dtype(kind), field) for name, (kind, field) in _FIELDS.items()}


@dataclass(frozen=True, eq=False)
class Array:
    """One array of numbers, of any shape: its values, its shape and its type are kept exactly.

    Attributes:
        data: booleans, integers, floats or complex numbers of up to 64 bits a part.

    Raises:
        InvalidValueError: its elements are something else.
    """

    data: np.ndarray

    plugin: ClassVar[str] = "tensor"
    """The name that PyTorch's own writer gives them; no dashboard takes it for its data."""

    def __post_init__(self) -> None:
        if _little(self.data.dtype) not in _NUMBERS:
            raise InvalidValueError(
                f"an array of {self.data.dtype}",
                "only booleans and numbers of up to 64 bits a part are kept",
                "convert it first, or log it as a text",
            )

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as a tensor: its own bytes, which every reader takes. Of a list of whole numbers, which would be shorter where
        they are small, tbparse gives up on the whole log.

        It has no class of data, which is for dashboards to ask for; so TensorBoard's servers need not hold it.
        """
        message = event.summary.value.add(tag=tag)
        message.metadata.CopyFrom(metadata(self.plugin))
        message.tensor.CopyFrom(tensor_proto(self.data))

    @classmethod
    def decode(cls, message: Any) -> Array:
        """The array of a ``Summary.Value`` of any plugin, whatever way its tensor holds the elements."""
        return cls(array_of(message.tensor))


def tensor_proto(array: np.ndarray) -> Any:
    """A ``TensorProto`` of an array's own type, little-endian; a number without axes needs no shape."""
    kind = _little(array.dtype)
    content = np.ascontiguousarray(array, dtype=kind).tobytes()
    message = proto.TensorProto(dtype=_NUMBERS[kind], tensor_content=content)
    for size in array.shape:
        message.tensor_shape.dim.add(size=size)
    return message


def array_of(message: Any) -> np.ndarray:
    """The array of a numeric ``TensorProto``: out of its content or its list, where one element may stand for all.

    Raises:
        InvalidValueError: its elements are not numbers, or are not as many as its shape says.
    """
    values = elements_of(message)
    shape = tuple(dim.size for dim in message.tensor_shape.dim)
    count = int(np.prod(shape))
    if len(values) not in (1, count):
        raise InvalidValueError(
            f"a tensor with {len(values)} elements", f"its shape {list(shape)} says {count}", "leave it out"
        )
    return (values.copy() if len(values) == count else np.repeat(values, count)).reshape(shape)


def elements_of(message: Any) -> np.ndarray:
    """The elements of a numeric ``TensorProto`` as they are listed, in one dimension, whatever its shape says.

    Raises:
        InvalidValueError: they are not numbers.
    """
    if message.dtype not in _TYPES:
        raise InvalidValueError(
            f"a tensor of type {message.dtype}", "it holds no numbers", "read it as its plugin does"
        )
    kind, field = _TYPES[message.dtype]
    if message.tensor_content:
        return np.frombuffer(message.tensor_content, kind)
    return _of_list(getattr(message, field), kind)


def _of_list(items: Any, kind: np.dtype) -> np.ndarray:
    """Elements as a message lists them: half floats by their bits, complex numbers by their parts."""
    if kind == np.float16:
        return np.array(items, np.uint16).view(kind)
    if kind.kind == "c":
        return np.array(items, f"<f{kind.itemsize // 2}").view(kind)
    return np.array(items).astype(kind)


def _little(kind: np.dtype) -> np.dtype:
    """The same type in little-endian order."""
    return kind.newbyteorder("<")
