"""Numbers over steps: the Scalars and Time Series dashboards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torchboard import proto
from torchboard.values.tensor import elements_of
from torchboard.values.value import SCALAR, metadata

_FLOAT = proto.DataType["DT_FLOAT"].number


@dataclass(frozen=True)
class Scalar:
    """One number.

    TensorBoard's default loader shows rank-0 float32 and nothing else, so that is what is written: about seven digits,
    and a finite value beyond 3.4e38 is drawn as infinite. NaN and infinities are data and drawn as markers.

    Attributes:
        value: the number.
        description: Markdown shown with the curve. Without one the scalar takes its shortest form on disk.
    """

    value: float
    description: str = ""

    plugin: ClassVar[str] = "scalars"
    nbytes: ClassVar[int] = 8

    def encode(self, tag: str, event: Any) -> None:
        """Adds it as ``simple_value``, or, with a description, as a rank-0 tensor: 4 bytes either way."""
        message = event.summary.value.add(tag=tag)
        if not self.description:
            message.simple_value = self.value
            return
        message.metadata.CopyFrom(metadata(self.plugin, SCALAR, description=self.description))
        message.tensor.dtype = _FLOAT
        message.tensor.tensor_shape.SetInParent()
        message.tensor.float_val.append(self.value)

    @classmethod
    def decode(cls, message: Any) -> Scalar:
        """The scalar of a ``Summary.Value``, in either form."""
        if message.WhichOneof("value") == "simple_value":
            return cls(message.simple_value)
        return cls(float(elements_of(message.tensor)[0]), message.metadata.summary_description)
