"""Whether the Triton that is installed is one that the kernels are for."""

from __future__ import annotations

from importlib import metadata

from torchboard.sketch.ops import NEEDED_TRITON


def triton_is_new_enough() -> bool:
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in version.split(".")[:2]) >= NEEDED_TRITON
