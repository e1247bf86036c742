"""How many models can be drawn, rightly, and what that takes: torchboard beside add_graph, torch.export and torchlens.

    python benchmarks/graph_zoo.py [--quick] [--alone] [--fresh] [--known] [--only WORDS]

Every model runs once unrecorded and once recorded from the same state. torchboard succeeds with a model if nothing
raises; outputs, state, modes and random numbers are those of the unrecorded pass, bit for bit; every output is reached;
every edge ends at a node and has its shape; every module that ran has its scope, with the shapes that a hook saw; FLOPs
are torch's and parameters the model's; and TensorBoard's own code gives the written graph back. The others succeed if
they do not raise. Results are kept model by model in ``results/graph_zoo.jsonl``; a run that was cut off goes on.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from harness import RESULTS, machine, table, write_result
from zoo_models import Zoo, missing, real_size, zoo
from zoo_pool import Figures, Kept, arguments, measure, serve

KEPT = Kept(RESULTS / "graph_zoo.jsonl")
SECONDS = 400
"""What a job may take before it is given up; the worker itself ends it after 90 s of processor time."""

METHODS = ("torchboard", "add_graph", "export", "torchlens")
SERVED = "served"
SAMPLE = 12
"""Models whose graphs are asked for over HTTP."""

Found = dict[str, dict[str, Figures]]
"""Model -> method -> figures."""


def models(quick: bool) -> Zoo:
    """Every model, those of real size first."""
    return real_size() | zoo(quick)


def figures_of(job: str) -> Figures:
    """In a worker: the figures of one job."""
    import zoo_worker

    method, _, name = job.partition("|")
    everything = models(quick=False)
    if method == SERVED:
        return zoo_worker.served(dict(list(zoo(quick=True).items())[:: len(zoo(quick=True)) // SAMPLE]))
    return zoo_worker.figures_of(method, everything[name])


def report(found: Found, wanted: int, web: Figures | None, seconds: float) -> str:
    """The tables, and every failure by name."""
    runs = {name: methods for name, methods in found.items() if not any("cannot" in f for f in methods.values())}
    sources = dict.fromkeys(name.split("/")[0] for name in runs)
    chosen = {source: [f for name, f in runs.items() if name.split("/")[0] == source] for source in sources}
    chosen["all"] = list(runs.values())
    rows = [[source, *(rate(group, method) for method in METHODS)] for source, group in chosen.items()]
    lines = [
        "# The graph of any model",
        machine("torch", "tensorboard", *(p for p in OTHERS if p not in missing()))
        + f"; one thread, processor time, at low priority; {len(found)} of {wanted} models tried; this run took "
        f"{seconds:.0f} s.",
        f"Not installed, and so left out: {', '.join(missing())}." if missing() else "",
        table(["models", *METHODS], rows),
        served_line(web),
        *common_table(list(runs.values())),
        "Models of real size:",
        table(*real_rows(runs)),
        own_figures([f["torchboard"] for f in runs.values() if good(f.get("torchboard"))]),
        "Failures of torchboard:\n\n" + (failures(runs, "torchboard") or "none"),
        *(
            f"Failures of {method}:\n\n{failures(runs, method) or 'none'}"
            for method in METHODS[1:]
            if any(method in methods for methods in runs.values())
        ),
        "Models that do not run here without recording:\n\n" + (left_out(found) or "none"),
    ]
    return "\n\n".join(filter(None, lines))


OTHERS = ("torchvision", "timm", "transformers", "torchlens")


def good(figures: Figures | None) -> bool:
    """Whether a method succeeded."""
    return figures is not None and "lost" not in figures and "failed" not in figures


def rate(group: list[dict[str, Figures]], method: str) -> str:
    """``n of m``."""
    asked = [figures[method] for figures in group if method in figures]
    return f"{sum(map(good, asked))} of {len(asked)}" if asked else ""


def common_table(runs: list[dict[str, Figures]]) -> list[str]:
    """The medians of each method over the models that every method can draw; nothing where there are none."""
    common = [methods for methods in runs if all(good(methods.get(method)) for method in METHODS)]
    if not common:
        return []
    rows = [[method, *medians([methods[method] for methods in common])] for method in METHODS]
    return [
        f"Medians over the {len(common)} models that all four can draw; the recorded pass (for the others: all of the call) "
        "beside an eager pass of the same model.",
        table(["method", "ratio", "nine in ten below", "ms", "nodes", "file, kB"], rows),
    ]


def medians(group: list[Figures]) -> list[str]:
    """The cells of one method."""

    def cell(key: str, scale: float = 1.0, pick: Callable[[list[float]], float] = statistics.median) -> str:
        numbers = [figures[key] * scale for figures in group if figures.get(key) is not None]
        return f"{pick(numbers):.3g}" if numbers else ""

    ratios = [("ratio", 1.0, statistics.median), ("ratio", 1.0, nine_in_ten), ("recorded", 1e3, statistics.median)]
    return [*(cell(*ask) for ask in ratios), cell("nodes"), cell("bytes", 1e-3)]


def nine_in_ten(numbers: list[float]) -> float:
    """What nine in ten of them do not exceed."""
    return sorted(numbers)[int(0.9 * (len(numbers) - 1))]


def real_rows(runs: Found) -> tuple[list[str], list[list[str]]]:
    """Models of real size, one a line, with what each method took."""
    header = ["model", "eager, ms", "recorded / eager", "nodes", "written in, s", "file, kB"]
    header += [f"{method}, ratio" for method in METHODS[1:]] + ["add_graph's file, kB"]
    rows = []
    for name, methods in runs.items():
        ours = methods.get("torchboard")
        if name.startswith("real size") and good(ours):
            cells = [f"{ours['eager'] * 1e3:.0f}", f"{ours['ratio']:.2f}", f"{ours['nodes']:,}"]
            cells += [f"{ours['write_seconds']:.2f}", f"{ours['bytes'] / 1e3:.0f}"]
            cells += [ratio_cell(methods.get(method)) for method in METHODS[1:]]
            peer = methods.get("add_graph")
            rows.append([name.partition("/")[2], *cells, f"{peer['bytes'] / 1e3:.0f}" if good(peer) else ""])
    return header, rows


def ratio_cell(figures: Figures | None) -> str:
    """What a method took, as a multiple of an eager pass; nothing where it was not asked."""
    if figures is None:
        return ""
    return f"{figures['ratio']:.1f}" if good(figures) else "failed"


def own_figures(group: list[Figures]) -> str:
    """What else is measured of torchboard."""
    heavy = [figures for figures in group if figures["eager"] >= 0.1]
    lines = [
        f"- {label} ({len(chosen)}): recorded pass / eager pass: median "
        f"{statistics.median(f['ratio'] for f in chosen):.2f}, nine in ten below "
        f"{nine_in_ten([f['ratio'] for f in chosen]):.2f}, greatest {max(f['ratio'] for f in chosen):.2f}."
        for label, chosen in (("all models", group), ("models whose eager pass takes 100 ms or more", heavy))
        if chosen
    ]
    costs = [(f["recorded"] - f["eager"]) / f["operators"] * 1e6 for f in group if f.get("operators")]
    if costs:
        lines.append(f"- an operator costs {statistics.median(costs):.0f} us more (median over the models).")
        edges = sum(f["unknown"] for f in group), sum(f["nodes"] for f in group)
        lines.append(f"- tensors of unknown origin: {edges[0]:,} of {edges[1]:,} nodes.")
    return "torchboard alone:\n\n" + "\n".join(lines)


def served_line(web: Figures | None) -> str:
    if web is None or "models" not in web:
        return ""
    return f"Asked over HTTP, a running TensorBoard gave {web['right']} of {web['models']} of a sample back."


def failures(runs: Found, method: str) -> str:
    return "\n".join(
        f"- {name}: {methods[method].get('lost') or methods[method]['failed']}"
        for name, methods in runs.items()
        if method in methods and not good(methods[method])
    )


def left_out(found: Found) -> str:
    return "\n".join(
        f"- {name}: {next(f['cannot'] for f in methods.values() if 'cannot' in f)}"
        for name, methods in found.items()
        if any("cannot" in figures for figures in methods.values())
    )


def found_of(names: list[str]) -> Found:
    """What is known of these models."""
    known: dict[str, Any] = KEPT.read()
    return {
        name: {method: known[f"{method}|{name}"] for method in METHODS if f"{method}|{name}" in known}
        for name in names
        if any(f"{method}|{name}" in known for method in METHODS)
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--alone", action="store_true", help="run torchboard alone; of the others use what is known")
    options = parser.parse_args()
    if options.worker is not None:
        serve(options.worker, figures_of)
        return
    began = time.monotonic()
    names = [name for name in models(options.quick) if options.only in name]
    methods = [method for method in METHODS[: 1 if options.alone else None] if method not in missing()]
    jobs = [f"{method}|{name}" for method in methods for name in names] + [SERVED] * (not options.only)
    measure(__file__, jobs, KEPT, SECONDS, options)
    found = found_of(names)
    if options.only:
        print("\n".join(f"{name}: {json.dumps(methods, indent=1)}" for name, methods in found.items()))
    else:
        write_result("graph_zoo", report(found, len(names), KEPT.read().get(SERVED), time.monotonic() - began))


if __name__ == "__main__":
    main()
