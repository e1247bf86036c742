"""Every exception and warning that torchboard raises of its own accord.

    TorchboardError
    ├── InvalidValueError   (also a ValueError)    a datum or an argument that cannot be logged as it is
    ├── TagError            (also a ValueError)    a tag or a run name that TensorBoard could not show
    ├── RunError            (also an OSError)      a log directory that cannot be used
    │   └── RunInUseError                          … because another live writer owns it
    ├── CorruptRecordError  (also an OSError)      bytes in an event file that fail their checksum
    ├── ClosedError         (also a RuntimeError)  a call on a monitor, writer or sink that was closed
    └── SinkError           (also a RuntimeError)  something failed behind the queue; ``__cause__`` says what

    TorchboardWarning       (also a UserWarning)   training goes on, and something of the log does not

Each exception takes its message in three parts: what came, what is wrong with it, and what to do about it.
"""

from __future__ import annotations


class TorchboardError(Exception):
    """An error of torchboard's, in three parts.

    Args:
        came: what the caller passed, or what was found.
        wrong: why that cannot be.
        remedy: what to do instead, as an imperative.
    """

    def __init__(self, came: str, wrong: str, remedy: str) -> None:
        super().__init__(f"{came}: {wrong}; {remedy}.")
        self._parts = (came, wrong, remedy)

    def __reduce__(self):
        return type(self), self._parts


class InvalidValueError(TorchboardError, ValueError):
    """A datum or an argument cannot be logged as it is."""


class TagError(TorchboardError, ValueError):
    """A tag or a run name is one that TensorBoard could not show."""


class RunError(TorchboardError, OSError):
    """A log directory cannot be used."""


class RunInUseError(RunError):
    """A log directory already has a live writer, and a second one would hide its data."""


class CorruptRecordError(TorchboardError, OSError):
    """Bytes in an event file fail their checksum."""


class ClosedError(TorchboardError, RuntimeError):
    """A call came after ``close``."""


class SinkError(TorchboardError, RuntimeError):
    """Something failed behind the queue; ``__cause__`` holds the original error."""


class TorchboardWarning(UserWarning):
    """Training goes on as before, but something will be missing from the log."""
