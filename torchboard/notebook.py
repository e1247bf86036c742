"""TensorBoard on a log: with which flags, and inside a notebook.

    >>> from torchboard import notebook
    >>> notebook.show("runs")

A TensorBoard that a notebook started goes on after it; one that is asked for again with the same flags is used again.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchboard.errors import InvalidValueError, TorchboardError, TorchboardWarning

if TYPE_CHECKING:
    from torchboard.run import Run

SAMPLES = {
    "scalars": 10000,
    "images": 1000,
    "histograms": 1000,
    "audio": 1000,
    "text": 1000,
    "pr_curves": 1000,
    "mesh": 200,
}
"""Points of a tag that TensorBoard is told to keep, by plugin; more of them make its pages slow."""

_BINARY = "TENSORBOARD_BINARY"
"""Names the program that TensorBoard's own notebook code starts, ``tensorboard`` on the path by default."""


def flags(log_dir: str) -> list[str]:
    """What to start TensorBoard with, so that it keeps more points of a tag than it does by itself."""
    samples = ",".join(f"{plugin}={number}" for plugin, number in SAMPLES.items())
    return ["--logdir", log_dir, "--samples_per_plugin", samples]


def show(log_dir: str | os.PathLike[str]) -> None:
    """Shows a log in TensorBoard, below the cell of the notebook that calls this; ``%tensorboard`` works from then on.

    It takes some seconds to start. Outside a notebook it warns, and says how to look at the log.

    Args:
        log_dir: a directory of runs; it may be empty as yet.

    Raises:
        InvalidValueError: it is no path.
        TorchboardError: TensorBoard is not installed.
    """
    try:
        path = os.fsdecode(log_dir)
    except TypeError:
        raise InvalidValueError(
            f"log_dir of type {type(log_dir).__name__}", "it is no path", "give the directory of a log"
        ) from None
    if importlib.util.find_spec("tensorboard") is None:
        raise TorchboardError(f"show({path!r})", "TensorBoard is not installed", "run 'pip install tensorboard'")
    shell = _notebook()
    if shell is None:
        command = f"torchboard view {shlex.quote(path)}"
        warnings.warn(f"show() is for notebooks; to look at the log run '{command}'", TorchboardWarning, stacklevel=3)
        return
    from tensorboard import notebook

    shell.extension_manager.load_extension("tensorboard")
    with _program_found():
        notebook.start(shlex.join(flags(path)))


class NotebookMethods:
    """Part of ``Monitor``: what it writes, in a notebook."""

    _run: Run
    _writes: bool

    def show(self) -> None:
        """Shows the log in TensorBoard below the cell of the notebook that calls this, while training goes on or after.

        Outside a notebook it warns, and says how to look at the log. On ranks that do not write it does nothing.

        Raises:
            InvalidValueError: the monitor writes to a sink that has no directory.
            TorchboardError: TensorBoard is not installed.
        """
        if not self._writes:
            return
        if self._run.log_dir is None:
            raise InvalidValueError(
                f"show() of a monitor on a {type(self._run.sink).__name__}",
                "there is no directory for TensorBoard to read",
                "give the monitor a log_dir",
            )
        show(self._run.log_dir)


def _notebook() -> Any:
    """The IPython shell of the notebook that this runs in; None for none, and in a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    is_notebook = shell is not None and (getattr(shell, "kernel", None) is not None or "google.colab" in sys.modules)
    return shell if is_notebook else None


@contextmanager
def _program_found() -> Iterator[None]:
    """Within it TensorBoard starts the program beside this Python, if there is one: a kernel may run without its path."""
    beside = Path(sys.executable).with_name("tensorboard")
    if _BINARY in os.environ or not beside.exists():
        yield
        return
    os.environ[_BINARY] = str(beside)
    try:
        yield
    finally:
        del os.environ[_BINARY]
