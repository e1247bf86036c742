"""What the kernels read: records of segments, and elements of every type, floats of eight bits among them.

Triton converts 8-bit floats on some devices only, and only some of their four formats, so they are read as bytes and put
together from their bits; that takes five instructions and works everywhere, Triton's interpreter included.
"""

from __future__ import annotations

import triton
import triton.language as tl

ADDRESS, NUMBER, ROW, TIMES = map(tl.constexpr, range(4))
"""Fields of a record: where the elements lie (bytes), how many they are, their row, how often each one counts."""
FIELDS = tl.constexpr(4)

ELEMENTS = {
    "float64": tl.float64, "float32": tl.float32, "bfloat16": tl.bfloat16, "float16": tl.float16,
    "float8_e4m3fn": tl.float8e4nv, "float8_e5m2": tl.float8e5,
    "float8_e4m3fnuz": tl.float8e4b8, "float8_e5m2fnuz": tl.float8e5b16,
    "int64": tl.int64, "int32": tl.int32, "int16": tl.int16, "int8": tl.int8, "bool": tl.uint8,
    "uint64": tl.uint64, "uint32": tl.uint32, "uint16": tl.uint16, "uint8": tl.uint8,
}  # fmt: skip
"""What the kernels read, by torch's name without ``torch.``."""


@triton.jit
def pointer_to(address, ELEMENT: tl.constexpr):
    """An address as a pointer to elements; to their bytes where they are floats of eight bits."""
    if ELEMENT.primitive_bitwidth == 8:
        return address.to(tl.pointer_type(tl.int8 if ELEMENT == tl.int8 else tl.uint8))
    else:
        return address.to(tl.pointer_type(ELEMENT))


@triton.jit
def elements_at(pointers, mask, ELEMENT: tl.constexpr):
    """The elements as they are, zero where masked out, if there is a mask; floats of eight bits as float32."""
    if mask is None:
        x = tl.load(pointers)
    else:
        x = tl.load(pointers, mask=mask, other=0)
    if ELEMENT.is_fp8():
        return _decoded(x, ELEMENT)
    else:
        return x


@triton.jit
def real(x, ELEMENT: tl.constexpr):
    """The elements in the narrower of float32 and float64 that holds them all, or nearly, for 64-bit integers."""
    if ELEMENT.primitive_bitwidth <= 16 or ELEMENT == tl.float32:
        return x.to(tl.float32)
    else:
        return x.to(tl.float64)


@triton.jit
def _decoded(code, ELEMENT: tl.constexpr):
    """The values of bytes that are floats: eNmM has N exponent and M mantissa bits; the forms with NaN at 0x80 have a
    bias one larger."""
    magnitude = (code & 0x7F).to(tl.int32)
    if ELEMENT == tl.float8e4nv:
        x = tl.where(magnitude == 0x7F, float("nan"), _widened(magnitude, 3, 7))
    elif ELEMENT == tl.float8e4b8:
        x = tl.where(code == 0x80, float("nan"), _widened(magnitude, 3, 8))
    elif ELEMENT == tl.float8e5:
        x = tl.where(magnitude > 0x7C, float("nan"), _widened(magnitude, 2, 15))
        x = tl.where(magnitude == 0x7C, float("inf"), x)
    else:
        x = tl.where(code == 0x80, float("nan"), _widened(magnitude, 2, 16))
    return tl.where(code >= 0x80, -x, x)


@triton.jit
def _widened(magnitude, MANTISSA: tl.constexpr, BIAS: tl.constexpr):
    """A byte's exponent and mantissa in the places that float32 has for them, times what the biases differ by. Exact
    for denormal numbers too."""
    return (magnitude << (23 - MANTISSA)).to(tl.float32, bitcast=True) * (2.0 ** (127 - BIAS))
