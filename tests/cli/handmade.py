"""Event files made by hand, record by record, so that they can be wrong in any way."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torchboard import proto
from torchboard.eventfile.framing import frame
from torchboard.values import Event, Value, encode


def scalar(step: int, tag: str = "loss", value: float = 1.0, at: float | None = None) -> Any:
    """An event of one scalar, a second after that of the step before."""
    message = proto.Event(step=step, wall_time=1000.0 + step if at is None else at)
    message.summary.value.add(tag=tag, simple_value=value)
    return message


def event(step: int, tag: str, value: Value, at: float | None = None) -> Any:
    """An event of one value of any kind."""
    (message,) = encode(Event(step, 1000.0 + step if at is None else at, ((tag, value),)))
    return message


def start(step: int) -> Any:
    """An event that says that the run starts at a step."""
    return proto.Event(step=step, wall_time=1.0, session_log=proto.SessionLog(status=proto.SessionLog.START))


def records(messages: Iterable[Any], version: bool = True) -> bytes:
    """Messages as the bytes of an event file."""
    first = [proto.Event(wall_time=1.0, file_version="brain.Event:2")] if version else []
    return b"".join(frame(message.SerializeToString()) for message in [*first, *messages])


def write(directory: Path, messages: Iterable[Any], name: str = "1", version: bool = True) -> Path:
    """A file ``events.out.tfevents.<name>`` of messages."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"events.out.tfevents.{name}"
    path.write_bytes(records(messages, version))
    return path
