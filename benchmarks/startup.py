"""What it takes to begin: imports on top of torch and without it, and the first word of the command line.

    python benchmarks/startup.py

Every figure is of a fresh interpreter, started in turn with the others. Imports are timed inside of it, after what they
come on top of; the commands from outside, with the interpreter's own start. The package is copied and compiled first, as
an installer does it: a working tree may have no bytecode.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

IMPORTS = {
    "torchboard": ("", "import torchboard"),
    "torchboard, after torch": ("import torch", "import torchboard"),
    "torchboard.SummaryWriter, after torch": ("import torch", "from torchboard import SummaryWriter"),
    "torchboard.Monitor, after torch": ("import torch", "from torchboard import Monitor"),
    "torch.utils.tensorboard.SummaryWriter, after torch": (
        "import torch",
        "from torch.utils.tensorboard import SummaryWriter",
    ),
    "tensorboardX.SummaryWriter, after torch": ("import torch", "from tensorboardX import SummaryWriter"),
}
"""What is imported -> what was before, and the statement."""
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import numpy'": ["-c", "import numpy"],
    "torchboard --version": ["-m", "torchboard.cli", "--version"],
    "torchboard ls (1,000 scalars)": ["-m", "torchboard.cli", "ls", "LOG"],
    "tensorboard --version": ["-m", "tensorboard.main", "--version"],
}
PACKAGE = Path(__file__).parents[1] / "torchboard"
TIMED = """{before}
import time
wall, cpu = time.perf_counter(), time.process_time()
{statement}
print(time.perf_counter() - wall, time.process_time() - cpu)"""

Times = tuple[float, float]


def install(target: str) -> None:
    """Puts a compiled copy of the package into a directory, where interpreters started from now on find it first."""
    shutil.copytree(PACKAGE, Path(target, "torchboard"), ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(target, quiet=1)
    os.environ["PYTHONPATH"] = target


def time_import(name: str) -> Times:
    """Wall and CPU time of an import, in milliseconds."""
    before, statement = IMPORTS[name]
    code = TIMED.format(before=before, statement=statement)
    command = [sys.executable, "-W", "ignore", "-c", code]
    output = subprocess.run(command, cwd=os.environ["PYTHONPATH"], capture_output=True, text=True, check=True)
    wall, cpu = map(float, output.stdout.split()[-2:])
    return 1e3 * wall, 1e3 * cpu


def time_command(name: str, log_dir: str) -> Times:
    """Wall and CPU time of a whole process, in milliseconds."""
    words = [log_dir if word == "LOG" else word for word in COMMANDS[name]]
    before, begin = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=os.environ["PYTHONPATH"], capture_output=True, check=True)
    wall, after = time.perf_counter() - begin, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return 1e3 * wall, 1e3 * cpu


def write_log(log_dir: str) -> None:
    """A small log to list."""
    code = (
        "import sys\nfrom torchboard import SummaryWriter\nwith SummaryWriter(sys.argv[1]) as writer:\n"
        "    for step in range(1000):\n        writer.add_scalar(f'loss/{step % 10}', 0.5, step)"
    )
    subprocess.run([sys.executable, "-c", code, log_dir], check=True)


def report(rounds: int) -> str:
    """The measured tables."""
    imports: dict[str, list[Times]] = {name: [] for name in IMPORTS}
    commands: dict[str, list[Times]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as log_dir, tempfile.TemporaryDirectory() as packages:
        install(packages)
        write_log(log_dir)
        for number in range(rounds + 1):  # the first round fills the caches of the file system, and does not count
            for name in IMPORTS:
                imports[name].append(time_import(name))
            for name in COMMANDS:
                commands[name].append(time_command(name, log_dir))
            print(f"round {number} of {rounds}", file=sys.stderr)
    return "\n\n".join(
        [
            "# What it takes to begin",
            f"`python benchmarks/startup.py --rounds {rounds}`: "
            f"{harness.machine('torch', 'tensorboard', 'tensorboardX', 'numpy')}. "
            "Fresh interpreters; median (least to greatest) in milliseconds.",
            "## Imports",
            table_of("import", imports),
            "## Commands",
            table_of("command", commands),
        ]
    )


def table_of(what: str, times: dict[str, list[Times]]) -> str:
    """Wall and CPU times by name."""
    rows = [[name, *(spread([pair[index] for pair in pairs[1:]]) for index in (0, 1))] for name, pairs in times.items()]
    return harness.table([what, "wall, ms", "CPU, ms"], rows)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    harness.write_result("startup", report(options.rounds))


if __name__ == "__main__":
    main()
