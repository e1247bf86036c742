"""How many models can be drawn, rightly, and what that takes: torchboard beside PyTorch's add_graph and torch.export.

    python benchmarks/graph_zoo.py [--quick] [--fresh] [--only WORDS]

Every model runs once unrecorded and once recorded from the same state. torchboard succeeds with a model if nothing
raises; outputs, state and random numbers are those of the unrecorded pass, bit for bit; every output is reached from an
input; every edge ends at a node and has its shape; every module that ran has its scope, with the shapes that a hook saw;
FLOPs are torch's and parameters the model's; and TensorBoard's own code gives the written graph back. The others succeed
if they do not raise. Results are kept model by model in ``results/graph_zoo.jsonl``; a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness import RESULTS, machine, table, write_result
from zoo_models import missing, zoo

KEPT = RESULTS / "graph_zoo.jsonl"
SECONDS = 300
"""What a model may take, all methods together."""

METHODS = ("torchboard", "add_graph", "export")


def measure(names: list[str], quick: bool) -> dict[str, dict[str, Any]]:
    """Name -> figures. A worker does one model after the other; one that hangs or dies is replaced."""
    found: dict[str, dict[str, Any]] = {}
    waiting = list(names)
    while waiting:
        command = [sys.executable, __file__, "--worker", *(["--quick"] if quick else []), *waiting]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
            while waiting:
                name = waiting.pop(0)
                line = worker.stdout.readline() if select.select([worker.stdout], [], [], SECONDS)[0] else ""
                figures = json.loads(line) if line else {"lost": f"no answer in {SECONDS} s, or the process died"}
                found[name] = figures
                keep(name, figures)
                print(f"{name}: {shortly(figures)}", file=sys.stderr)
                if not line:
                    worker.kill()
                    break
    return found


def keep(name: str, figures: dict[str, Any]) -> None:
    """Adds the figures of a model to those that a later run need not measure again."""
    RESULTS.mkdir(exist_ok=True)
    with KEPT.open("a") as file:
        file.write(json.dumps({"name": name, **figures}) + "\n")


def kept() -> dict[str, dict[str, Any]]:
    """What earlier runs have measured."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    return {figures.pop("name"): figures for figures in map(json.loads, lines)}


def shortly(figures: dict[str, Any]) -> str:
    """What became of a model, on a line."""
    if "lost" in figures or "cannot" in figures:
        return figures.get("lost") or figures["cannot"]
    return ", ".join(f"{method} {figures[method].get('failed') or 'ok'}" for method in METHODS if method in figures)


def work(names: list[str], quick: bool) -> None:
    """Prints the figures of each model, a line each."""
    from zoo_worker import figures_of

    makers, answers = zoo(quick), sys.stdout
    sys.stdout = sys.stderr
    for name in names:
        answers.write(json.dumps(figures_of(makers[name])) + "\n")
        answers.flush()


def report(found: dict[str, dict[str, Any]], seconds: float) -> str:
    """The tables, and every failure by name."""
    sources: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, figures in found.items():
        if "cannot" not in figures:
            sources[name.split("/")[0]] += [figures]
            sources["all"] += [figures]
    sources["all"] = sources.pop("all")
    rows = [[source, *(rate(figures, method) for method in METHODS)] for source, figures in sources.items()]
    times = [[method, *figures_row(sources["all"], method)] for method in METHODS]
    failures = [
        f"- {name}: {method}: {figures.get('lost') or figures[method]['failed']}"
        for method in METHODS
        for name, figures in found.items()
        if "cannot" not in figures and ("lost" in figures or figures[method].get("failed"))
    ]
    left_out = [f"- {name}: {figures['cannot']}" for name, figures in found.items() if "cannot" in figures]
    return "\n\n".join(
        [
            "# The graph of any model",
            machine("torch", "tensorboard") + f"; one thread; {len(found)} models in {seconds:.0f} s.",
            f"Not installed, and so left out: {', '.join(missing())}." if missing() else "",
            table(["models", *METHODS], rows),
            "Medians over the models that all three can draw; the pass beside an eager pass of the same model, all of it "
            "from the model to the written file (for export: to the exported program).",
            table(["method", "recorded pass / eager pass", "all, ms", "nodes", "file, kB"], times),
            own_figures([figures["torchboard"] for figures in sources["all"] if "torchboard" in figures]),
            "Failures:\n\n" + ("\n".join(failures) or "none"),
            "Models that do not run here without recording:\n\n" + ("\n".join(left_out) or "none"),
        ]
    )


def rate(models: list[dict[str, Any]], method: str) -> str:
    """``n of m``."""
    good = sum("lost" not in figures and not figures[method].get("failed") for figures in models)
    return f"{good} of {len(models)}"


def figures_row(models: list[dict[str, Any]], method: str) -> list[str]:
    """The medians of one method over the models that every method can draw."""
    common = [f[method] for f in models if "lost" not in f and not any(f[other].get("failed") for other in METHODS)]

    def median(key: str, scale: float = 1.0, digits: int = 0) -> str:
        numbers = [figures[key] * scale for figures in common if figures.get(key) is not None]
        return f"{statistics.median(numbers):.{digits}f}" if numbers else ""

    return [median("ratio", digits=2), median("seconds", 1e3), median("nodes"), median("bytes", 1e-3)]


def own_figures(models: list[dict[str, Any]]) -> str:
    """What else is measured of torchboard."""
    models = [figures for figures in models if "ratio" in figures]
    real = [figures for figures in models if figures["eager"] >= 0.02]
    lines = []
    for label, chosen in (("all models", models), ("models whose eager pass takes 20 ms or more", real)):
        if chosen:
            ratios = sorted(figures["ratio"] for figures in chosen)
            times = sorted(figures["operator_seconds"] / figures["eager"] for figures in chosen)
            lines.append(
                f"- {label} ({len(chosen)}): recorded pass / eager pass: median {statistics.median(ratios):.2f}, "
                f"nine in ten below {ratios[int(0.9 * (len(ratios) - 1))]:.2f}, greatest {ratios[-1]:.2f}; "
                f"sum of the operators' times / eager pass: median {statistics.median(times):.2f} "
                f"({times[0]:.2f} to {times[-1]:.2f})."
            )
    return "torchboard alone:\n\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one torchvision model of each family")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured")
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.names, options.quick)
        return
    began = time.monotonic()
    names = [name for name in zoo(options.quick) if options.only in name]
    if options.fresh:
        KEPT.unlink(missing_ok=True)
    known = kept()
    measure([name for name in names if name not in known], options.quick)
    known = kept()
    found = {name: known[name] for name in names}
    if options.only:
        print("\n".join(f"{name}: {json.dumps(figures, indent=1)}" for name, figures in found.items()))
    else:
        write_result("graph_zoo", report(found, time.monotonic() - began))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    tempfile.tempdir = tempfile.gettempdir()
    main()
