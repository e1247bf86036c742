"""Hooks that a copy of the model does not inherit.

A model may be copied or pickled while it is armed: an averaged copy, a checkpoint. What a copy gets in place of a hook is
a callable of the standard library that takes anything and returns None, so that it neither reports nor needs this package.
"""

from __future__ import annotations

import contextlib


class InertWhenCopied:
    """A hook that copies and pickles into one that does nothing."""

    __slots__ = ()

    def __copy__(self):
        return contextlib.nullcontext().__exit__

    def __deepcopy__(self, memo):
        return contextlib.nullcontext().__exit__

    def __reduce__(self):
        return getattr, (contextlib.nullcontext(), "__exit__")
