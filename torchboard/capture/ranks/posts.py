"""The bytes that a rank sends: something said in JSON, and arrays behind it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np


def packed(said: Any, arrays: Iterable[np.ndarray]) -> bytes:
    """What ``unpacked`` reads."""
    file = io.BytesIO()
    np.savez(file, np.frombuffer(json.dumps(said).encode(), np.uint8), *arrays)
    return file.getvalue()


def unpacked(post: bytes) -> tuple[Any, list[np.ndarray]]:
    """What was said, and the arrays. Runs no code that a post may hold; raises whatever it may where the post is another's."""
    with np.load(io.BytesIO(post), allow_pickle=False) as arrays:
        said, *others = (arrays[f"arr_{number}"] for number in range(len(arrays.files)))
    return json.loads(said.tobytes()), others
