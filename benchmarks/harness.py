"""Paired measurements: variants of one job, each in a process of its own, in turn, round after round.

A benchmark script gives each variant a name and prints, when started with ``--variant NAME``, one JSON object of figures.
The harness starts the variants A B C, A B C, … and compares within each round, so that a machine whose speed drifts, or
that is shared, distorts a ratio little. Quoted are medians over the rounds, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
TENSORFLOW_PYTHON = os.environ.get("TENSORFLOW_PYTHON", "")
"""An interpreter that has TensorFlow too, for the variant ``tensorflow``: where TensorFlow can be imported, TensorBoard's
Python code and PyTorch's writer use parts of it, and are no longer what most people run."""


def run_variant(script: str, variant: str, arguments: list[str]) -> dict[str, float]:
    """The figures that one variant prints, from a fresh process."""
    python = TENSORFLOW_PYTHON if variant == "tensorflow" else sys.executable
    command = [python, script, "--variant", variant, *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def paired(script: str, variants: list[str], rounds: int, arguments: list[str]) -> dict[str, list[dict[str, float]]]:
    """Variant -> its figures, one entry a round; one round before them does not count."""
    figures: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for number in range(rounds + 1):
        for variant in variants:
            result = run_variant(script, variant, arguments)
            if number:
                figures[variant].append(result)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return figures


def ratio(figures: dict[str, list[dict[str, float]]], variant: str, base: str, name: str) -> str:
    """``median (least to greatest)`` of a figure over the base's figure in the same round."""
    ratios = [ours[name] / theirs[name] for ours, theirs in zip(figures[variant], figures[base])]
    return f"{statistics.median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})"


def median(figures: dict[str, list[dict[str, float]]], variant: str, name: str) -> float:
    """The median of a figure over the rounds."""
    return statistics.median(result[name] for result in figures[variant])


def machine(*packages: str) -> str:
    """One line that says what it ran on."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return f"{os.cpu_count()} cores of {model}, {platform.system()}, Python {platform.python_version()}, {versions}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(
    name: str,
    description: str,
    variants: Iterable[str],
    measure: Callable[[str], dict[str, float]],
    report: Callable[[int], str],
    rounds: int,
) -> None:
    """The command line of a benchmark: measures one variant, or reports them all in ``results/<name>.md``."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--variant", choices=list(variants))
    parser.add_argument("--rounds", type=int, default=rounds)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant)))
    else:
        write_result(name, report(options.rounds))


def write_result(name: str, text: str) -> None:
    """Writes ``results/<name>.md`` and shows it."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text + "\n")
    print(text)
