"""``torchboard view``: TensorBoard on a log, so that it keeps more points of a tag than it does by itself."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torchboard.errors import InvalidValueError, TorchboardError
from torchboard.notebook import flags
from torchboard.reader import read

_PORT = 6006
_TRIES = 100
_PATIENCE = 5.0
"""Seconds that TensorBoard gets to end by itself on Ctrl-C."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--port", type=int, default=_PORT, help="the port, or the next that is free (default: %(default)s; 0: any)"
    )
    parser.usage = "%(prog)s LOG_DIR [--port PORT] [OPTION ...]"
    parser.epilog = "Any other option goes to TensorBoard as it is, such as --bind_all or --reload_interval 1."


def run(options: argparse.Namespace) -> int:
    """Starts TensorBoard, and returns its exit status when it ends."""
    log_dir = read(options.log_dir).log_dir
    if importlib.util.find_spec("tensorboard") is None:
        raise TorchboardError(
            f"view {options.log_dir!r}", "TensorBoard is not installed", "run 'pip install tensorboard'"
        )
    port = _free_port(options.port)
    command = [sys.executable, "-m", "tensorboard.main", *flags(log_dir)]
    with subprocess.Popen([*command, "--port", str(port), *options.rest]) as process, _handed_on(process):
        return _status(process)


def _status(process: subprocess.Popen) -> int:
    """Waits for the end of a program and gives its exit status, as a shell has it."""
    patience = None
    while True:
        try:
            status = process.wait(patience)
            return status if status >= 0 else 128 - status
        except KeyboardInterrupt:  # of a terminal, which TensorBoard has had too
            patience = _PATIENCE
        except subprocess.TimeoutExpired:
            process.terminate()
            patience = None


def _free_port(wanted: int) -> int:
    """A free port, from the wanted one up."""
    if wanted and not 0 < wanted < 1 << 16:
        raise InvalidValueError(f"--port {wanted}", "a port is a number from 0 to 65535", "give one such as 6006")
    free = next((port for port in range(wanted, min(wanted + _TRIES, 1 << 16)) if _is_free(port)), None)
    if free is None:
        raise InvalidValueError(
            f"--port {wanted}", f"it is taken, and so are the {_TRIES} behind it", "give another, or 0 for any"
        )
    if wanted != free:
        print(f"torchboard: port {wanted} is taken; using {free}", file=sys.stderr)
    return free


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            return True  # TensorBoard says what is wrong with it
        except OSError:
            return False
        return True


@contextmanager
def _handed_on(process: subprocess.Popen) -> Iterator[None]:
    """Within it, who ends this command ends TensorBoard."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    except ValueError:  # not the main thread, which alone hears signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
