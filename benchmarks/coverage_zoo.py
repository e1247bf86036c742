"""Whether the recorder sees everything in the models that people train, and leaves them alone.

    python benchmarks/coverage_zoo.py [--quick] [--fresh] [--known] [--only WORDS]

Every model of the zoo makes one forward and backward pass in training mode three times from the same state: as it is; with
its modules' outputs replaced by copies, whose gradients cannot be missed; and with the recorder armed. What the second pass
shows of outputs that require a gradient, the recorder must have seen, element for element; outputs, gradients, buffers and
random numbers of the third pass must be those of the first, bit for bit. Figures are kept in ``results/coverage_zoo.jsonl``.
"""

from __future__ import annotations

import statistics
import time

from harness import RESULTS, machine, table, write_result
from zoo_models import missing, zoo
from zoo_pool import Figures, Kept, arguments, measure, serve

KEPT = Kept(RESULTS / "coverage_zoo.jsonl")
SECONDS = 400
BATCH = 2
"""Images or sentences; batch normalisation wants more than one."""


def figures_of(name: str) -> Figures:
    """In a worker: the figures of one model."""
    from coverage_worker import figures_of

    return figures_of(name, zoo(quick=False, batch=BATCH)[name])


def report(found: dict[str, Figures], wanted: int, seconds: float) -> str:
    """The table, and everything that was missed, by name."""
    trained = {name: figures for name, figures in found.items() if "cannot" not in figures}
    groups = {
        source: [f for name, f in trained.items() if name.split("/")[0] == source] for source in _sources(trained)
    }
    groups["all"] = list(trained.values())
    rows = [[source, *_cells(group)] for source, group in groups.items()]
    header = [
        "models",
        "right",
        "modules",
        "outputs that require a gradient",
        "of these seen",
        "gradients",
        "of these seen",
    ]
    armed = [figures["armed"] / figures["plain"] for figures in trained.values() if "armed" in figures]
    return "\n\n".join(
        filter(
            None,
            [
                "# What the recorder sees of models in training",
                machine("torch", *(p for p in ("torchvision", "timm", "transformers") if p not in missing()))
                + f"; one thread, at low priority; {len(found)} of {wanted} models tried; this run took {seconds:.0f} s.",
                "One forward and backward pass in training mode. Right is a model of which everything was seen and whose "
                "outputs, gradients, buffers and random numbers were those of an unwatched pass, bit for bit.",
                table(header, rows),
                f"A pass with everything recorded takes {statistics.median(armed):.2f} times a plain one (median of the "
                "models on these small inputs, processor time, one thread, one pass each)."
                if armed
                else "",
                "What is expected of gradients is what autograd gives at the tensors that modules return; a clone of each goes "
                "on in its place.",
                "Not right:\n\n" + ("\n".join(_faults(trained)) or "none"),
                "Not trained here:\n\n" + ("\n".join(_untrained(found)) or "none"),
            ],
        )
    )


def _sources(names: dict[str, Figures]) -> list[str]:
    return list(dict.fromkeys(name.split("/")[0] for name in names))


def _cells(group: list[Figures]) -> list[str]:
    right = sum(not any(key in figures for key in ("lost", "failed", "faults")) for figures in group)
    sums = [
        f"{sum(figures.get(key, 0) for figures in group):,}"
        for key in ("modules", "outputs", "outputs_seen", "gradients", "gradients_seen")
    ]
    return [f"{right} of {len(group)}", *sums]


def _faults(found: dict[str, Figures]) -> list[str]:
    return [
        f"- {name}: {figures.get('lost') or figures.get('failed') or '; '.join(figures['faults'])}"
        for name, figures in found.items()
        if any(key in figures for key in ("lost", "failed", "faults"))
    ]


def _untrained(found: dict[str, Figures]) -> list[str]:
    return [f"- {name}: {figures['cannot']}" for name, figures in found.items() if "cannot" in figures]


def main() -> None:
    parser = arguments(__doc__)
    options = parser.parse_args()
    if options.worker is not None:
        serve(options.worker, figures_of)
        return
    began = time.monotonic()
    names = [name for name in zoo(options.quick) if options.only in name]
    measure(__file__, names, KEPT, SECONDS, options)
    known = KEPT.read()
    text = report({name: known[name] for name in names if name in known}, len(names), time.monotonic() - began)
    if options.only:
        print(text)
    else:
        write_result("coverage_zoo", text)


if __name__ == "__main__":
    main()
