"""What code written for ``torch.utils.tensorboard`` finds on a SummaryWriter beside its methods.

The peer's writer shows the parts that it is made of, and programs use them: ``writer.file_writer.add_summary`` with a
message built by hand, ``writer.all_writers``, ``writer.log_dir``, ``writer.default_bins``. Here they are views of the one
writer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from google.protobuf.message import DecodeError

from torchboard import proto
from torchboard.errors import InvalidValueError
from torchboard.values.message import values_of

_LEAST_BIN, _GREATEST_BIN, _BIN_GROWTH = 1e-12, 1e20, 1.1


class FileWriter:
    """Writes messages of TensorBoard's own to the run of a writer, with the methods of the peer's ``FileWriter``.

    Messages may be of any copy of TensorBoard's schema: what counts is their bytes.
    """

    def __init__(self, writer: PeerAttributes) -> None:
        self._writer = writer

    def get_logdir(self) -> str | None:
        """The directory that the run is written to."""
        return self._writer.get_logdir()

    def add_event(self, event: Any, step: int | None = None, walltime: float | None = None) -> None:
        """Writes an ``Event`` that holds a summary, a graph or tagged run metadata.

        Args:
            event: the message; its time is that of the call.
            step: in place of the event's own.
            walltime: seconds since the epoch; now by default.

        Raises:
            InvalidValueError: it is no such message, or it holds something else.
        """
        message = _merged(event, proto.Event())
        self._writer._write(message.step if step is None else step, walltime, values_of(message))

    def add_summary(self, summary: Any, global_step: int | None = None, walltime: float | None = None) -> None:
        """Writes the values of a ``Summary``; arguments and errors as for ``add_event``."""
        event = proto.Event()
        _merged(summary, event.summary)
        self._writer._write(global_step, walltime, values_of(event))

    def add_graph(self, graph_profile: tuple[Any, Any], walltime: float | None = None) -> None:
        """Writes a ``GraphDef`` as the run's graph, and the ``RunMetadata`` beside it as what is known of its step 1."""
        graph, profile = graph_profile
        event = proto.Event()
        event.tagged_run_metadata.tag = "step1"
        event.tagged_run_metadata.run_metadata = _bytes(profile)
        self.add_onnx_graph(graph, walltime)
        self._writer._write(0, walltime, values_of(event))

    def add_onnx_graph(self, graph: Any, walltime: float | None = None) -> None:
        """Writes a ``GraphDef`` as the run's graph."""
        self._writer._write(0, walltime, values_of(proto.Event(graph_def=_bytes(graph))))

    def flush(self) -> None:
        """Returns when everything written before is on disk."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the writer."""
        self._writer.close()

    def reopen(self) -> None:
        """Does nothing: a writer that was closed opens its run again when it is written to."""


class PeerAttributes:
    """What a writer shows of itself."""

    _write: Callable[..., None]
    get_logdir: Callable[[], str | None]
    flush: Callable[[], None]
    close: Callable[[], None]

    purge_step: int | None = None
    """Where the run starts again, when a writer that was closed opens it the next time."""
    max_queue = 10
    flush_secs = 120
    filename_suffix = ""

    @property
    def log_dir(self) -> str | None:
        """The directory that the run is written to."""
        return self.get_logdir()

    @property
    def file_writer(self) -> FileWriter:
        """Takes messages of TensorBoard's own."""
        return FileWriter(self)

    @property
    def all_writers(self) -> dict[str | None, FileWriter]:
        """``file_writer`` by its directory: one for all runs, those of ``add_scalars`` too."""
        return {self.get_logdir(): self.file_writer}

    def _get_file_writer(self) -> FileWriter:
        return self.file_writer

    @cached_property
    def default_bins(self) -> list[float]:
        """Edges from -1e20 to 1e20, each 1.1 times the one before: where the peer cuts its histograms, and we do not."""
        edges = [_LEAST_BIN]
        while edges[-1] * _BIN_GROWTH < _GREATEST_BIN:
            edges.append(edges[-1] * _BIN_GROWTH)
        return [-edge for edge in reversed(edges)] + [0.0] + edges


def _bytes(message: Any) -> bytes:
    """A message of anybody's, serialized."""
    if isinstance(message, bytes):
        return message
    if not hasattr(message, "SerializeToString"):
        raise InvalidValueError(f"{type(message).__name__} {message!r:.80}", "it is no protobuf message", "give one")
    return message.SerializeToString()


def _merged(message: Any, into: Any) -> Any:
    """``into``, with what ``message`` holds."""
    try:
        into.MergeFromString(_bytes(message))
    except DecodeError as error:
        wrong = f"it cannot be read as {into.DESCRIPTOR.name} ({error})"
        raise InvalidValueError(type(message).__name__, wrong, "give such a message") from None
    return into
