"""The command line: ``torchboard ls | show | export | compact | doctor | view LOG_DIR``.

One file a command: ``arguments`` declares its options, ``run`` carries it out and gives the exit status. Needs no torch,
and a command loads only what it uses. Exit status: 0; 1 where ``doctor`` found something; 2 for an error, whose three parts
stand on stderr; 130 for Ctrl-C. Only ``compact --in-place`` changes a log.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from torchboard.errors import InvalidValueError, TorchboardError

__all__ = ["main"]

_COMMANDS = {
    "ls": "list runs and tags: kinds, points, steps, sizes and times",
    "show": "draw scalars and histograms and print texts in the terminal, and save pictures",
    "export": "write scalars as rows of run, tag, step, wall_time and value: CSV, JSON or Parquet",
    "compact": "write each run as one small event file that TensorBoard shows the same",
    "doctor": "name what TensorBoard would show wrong or not at all; exit status 1 if there is anything",
    "view": "start TensorBoard, so that it keeps more points of a tag than it does by itself",
}
_INTERRUPTED = 130
"""What a shell makes of a program that Ctrl-C ended: 128 and the number of the signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit status.

    Args:
        arguments: the words of the command line; None takes those of this process.

    Raises:
        SystemExit: the words make no command, with status 2; or they ask for help.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        parser = _parser(words)
        options, options.rest = parser.parse_known_args(words)
        if options.rest and options.command != "view":
            came = f"{options.command} … {' '.join(options.rest)}"
            raise InvalidValueError(came, "that is more than it takes", f"see 'torchboard {options.command} --help'")
        status = import_module(f"torchboard.cli.{options.command}").run(options)
        sys.stdout.flush()
        return status
    except TorchboardError as error:
        print(f"torchboard: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has seen enough, as in ``torchboard ls runs | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"torchboard: {' '.join(words)}: a file failed ({error}); see to it and try again.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints have three parts."""

    def error(self, message: str) -> NoReturn:
        wrong = message[0].lower() + message[1:]
        self.exit(2, f"torchboard: the command line: {wrong}; see '{self.prog} --help'.\n")


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """A parser of all commands, with the options of the one that is called."""
    version = import_module(__name__.split(".")[0]).__version__
    parser = _Parser("torchboard", description="Reads, checks and compacts logs of TensorBoard's event files.")
    parser.add_argument("--version", action="version", version=f"torchboard {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    called = next((word for word in words if not word.startswith("-")), None)
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        if name == called:
            command.add_argument("log_dir", metavar="LOG_DIR", help="the directory that the runs lie in")
            import_module(f"torchboard.cli.{name}").arguments(command)
    return parser
