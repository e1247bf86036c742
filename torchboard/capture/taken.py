"""What is said where somebody has taken hooks of ours off a model's layers."""

from __future__ import annotations

from collections.abc import Iterable

from torchboard.capture.select import first_names
from torchboard.errors import InvalidValueError

_NAMED = 5
"""Layers that the error names."""


def hooks_taken(layers: Iterable[str], consequence: str) -> InvalidValueError | None:
    """The error that these layers have lost their hooks, and what came of it; None where there are no such layers."""
    names = [*layers]
    if not names:
        return None
    return InvalidValueError(
        f"our hooks on {first_names(names, _NAMED)}",
        f"something took them away {consequence}",
        "take away only hooks of your own, by the handles that register_forward_hook gave",
    )
