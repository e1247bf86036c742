"""The command line: ``torchboard ls | show | export | doctor | view LOG_DIR``.

Reads logs and writes none. Needs no torch. Exit status: 0, 1 where ``doctor`` found something, 2 for an error, whose
three parts stand on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from torchboard.errors import TorchboardError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit status.

    Args:
        arguments: the words of the command line; None takes those of this process.
    """
    options = _parser().parse_args(arguments)
    from torchboard.cli import commands

    try:
        status = getattr(commands, options.command)(options)
        sys.stdout.flush()
        return status
    except TorchboardError as error:
        print(f"torchboard: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has seen enough, as in ``torchboard ls runs | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"torchboard: {options.log_dir!r}: a file cannot be read ({error}); try again.", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("torchboard", description="Reads logs of TensorBoard's event files.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("log_dir", metavar="LOG_DIR", help="the directory that the runs lie in")
        return sub

    command("ls", "list runs and tags: kinds, points, steps and sizes")
    show = command("show", "draw scalars and print texts in the terminal")
    show.add_argument("--tag", metavar="GLOB", default="*", help="tags to show, such as 'epoch_*' (default: all)")
    show.add_argument("--run", metavar="GLOB", default="*", help="runs to show (default: all)")
    export = command("export", "write all scalars as rows of run, tag, step, wall_time and value")
    export.add_argument(
        "--out", metavar="FILE", required=True, help="a name that ends in .csv or .json; - writes CSV to stdout"
    )
    command("doctor", "name what TensorBoard would show wrong or not at all; exit status 1 if there is anything")
    view = command("view", "start TensorBoard, so that it keeps more points of a tag than it does by itself")
    view.add_argument("options", nargs=argparse.REMAINDER, help="options for TensorBoard, such as --port 6007")
    return parser
