"""What watching costs a training step: no monitor, torchboard, and what people use instead.

    python benchmarks/step_overhead.py
    python benchmarks/step_overhead.py --job transformer --rounds 8

Every training is a process of its own on one thread. They take turns: some steps of the plain training, some of a watched one,
and so on round after round, so that a ratio is between neighbours in time. The start (imports, the first batch, the
recording of the graph) is not counted; the end of an epoch is, beside the steps. All jobs take about half an hour; one job
alone replaces its own part of ``results``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness
from step_jobs import JOBS, VARIANTS

PLAIN, UNCAPTURED = "plain", "uncaptured"
ORDER = {
    "resnet50": [
        PLAIN,
        UNCAPTURED,
        "torchboard_10",
        "torchboard_1",
        "wandb_10",
        "wandb_1",
        "peer_10",
        "peer_1",
        "torchlens_1",
    ],
    "compiled": [PLAIN, UNCAPTURED, "torchboard_10", "skip_10"],
}
ORDER["transformer"] = ORDER["resnet50"]
SMALL = [*ORDER["resnet50"][:4], "empty_1", *ORDER["resnet50"][4:], "torchlens_10"]
ORDER["mobilenet"] = ORDER["digits"] = ORDER["layers"] = SMALL
ROUNDS = {"resnet50": 3, "transformer": 3, "mobilenet": 5, "digits": 9, "layers": 15, "compiled": 9}
AT_ONCE = {"resnet50": 2, "transformer": 2, "mobilenet": 2, "digits": 10, "layers": 20, "compiled": 10}
"""Steps of a turn, but for variants that capture one step in ten: these take ten, or ten times as many as a few."""
OURS = (PLAIN, UNCAPTURED, "torchboard_10", "torchboard_1", "empty_1")
LONGER = {"mobilenet": 10, "digits": 10, "layers": 10}
"""Turns of these are so many times as long, the plain ones beside them too: of steps this short a few say little."""
MORE = {"resnet50": 3, "transformer": 3, "mobilenet": 3}
"""Turns of ours are so many times as many: of three turns of a long step the median says little."""
STARTS = 3
"""Ours are started so many times: where code and data come to lie changes a process by a percent."""
PAIRS = {"resnet50": 12, "transformer": 12, "mobilenet": 20, "digits": 60, "layers": 60, "compiled": 60}
"""Turns of the steps that are not captured, which differ little from plain ones."""


class Process:
    """One training, waiting for its turn."""

    def __init__(self, job: str, variant: str) -> None:
        script = Path(__file__).with_name("step_jobs.py")
        command = [sys.executable, str(script), job, variant]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, what: int | str) -> dict[str, Any]:
        """Its figures of so many steps, or of the end of an epoch, or of steps with its watch on and off."""
        print(what, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args} has ended with {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        self._process.communicate()


def turns(job: str, variant: str, rounds: int) -> tuple[list[tuple[dict, dict]], dict[str, float]]:
    """``(plain, watched)`` figures of one turn after another, and those of the watched one's end of an epoch."""
    pairs, starts = [], STARTS if variant in OURS else 1
    for _ in range(starts):
        more, end = turns_of_two(job, variant, -(-rounds // starts))
        pairs += more
    return pairs, end


def turns_of_two(job: str, variant: str, rounds: int) -> tuple[list[tuple[dict, dict]], dict[str, float]]:
    """The same of one pair of processes."""
    plain, watched = Process(job, PLAIN), Process(job, variant)
    few = AT_ONCE[job] * (LONGER.get(job, 1) if variant in OURS else 1)
    steps = 10 * max(1, few // 10) if variant.endswith("_10") else few
    try:
        loss = {process.ask(3)["loss"] for process in (plain, watched)}  # the first one is captured by all
        if len(loss) > 1 and not job == "compiled" and not variant.startswith("torchlens"):
            raise RuntimeError(f"{variant} has changed the training: {loss}")
        watched.ask(8 if steps % 10 == 0 else 1)
        pairs = [(plain.ask(few), watched.ask(steps)) for _ in range(rounds)]
        return pairs, watched.ask("epoch")
    finally:
        plain.close()
        watched.close()


def on_and_off(job: str, variant: str, rounds: int) -> list[tuple[dict, dict]]:
    """``(plain, watched)`` figures of one process after another, in which the watch comes and goes."""
    pairs = []
    for _ in range(STARTS):
        process = Process(job, variant)
        try:
            process.ask(3)
            turns = [
                process.ask(f"on and off {AT_ONCE[job] * LONGER.get(job, 1)}") for _ in range(-(-rounds // STARTS))
            ]
            pairs += [(turn["plain"], turn["watched"]) for turn in turns]
        finally:
            process.close()
    return pairs


def ratios(pairs: list[tuple[dict, dict]], clock: str) -> str:
    """``median (least to greatest)``, of many the quartiles instead."""
    values = sorted(ours[clock] / plain[clock] for plain, ours in pairs)
    few = len(values) < 20
    low, high = (values[0], values[-1]) if few else (values[len(values) // 4], values[-1 - len(values) // 4])
    return f"{statistics.median(values):.3f} ({low:.3f} to {high:.3f})"


def report(job: str, rounds: int) -> str:
    """The measured table of one job."""
    rows, plains = [], []
    for variant in ORDER[job]:
        number = PAIRS[job] if variant in (PLAIN, UNCAPTURED) else rounds * (MORE.get(job, 1) if variant in OURS else 1)
        pairs, end = turns(job, variant, number)
        plains += [plain["cpu"] for plain, _ in pairs]
        label = VARIANTS[variant][0] + (", in a second process" if variant == PLAIN else "")
        if variant == UNCAPTURED:
            label += f", {max(ours['hooks'] for _, ours in pairs):.0f} hooks on modules and parameters"
        rows.append(row(label, pairs, f"{1e3 * end['cpu']:.0f}", f"{end['memory']:.0f}"))
        if variant == UNCAPTURED:
            pairs = on_and_off(job, variant, number)
            rows.append(row("the same, put on and off in one process", pairs, "", ""))
    header = ["variant", "CPU ms a step", "CPU ratio", "wall ratio", "an epoch's end, CPU ms", "memory, MB"]
    plain = [VARIANTS[PLAIN][0], f"{1e3 * statistics.median(plains):.2f}", "1", "1", "", ""]
    return f"## {JOBS[job][0]}\n\n{harness.table(header, [plain, *rows])}"


def row(label: str, pairs: list[tuple[dict, dict]], *more: str) -> list[str]:
    """The row of one variant."""
    milliseconds = 1e3 * statistics.median(ours["cpu"] for _, ours in pairs)
    found = [label, f"{milliseconds:.2f}", ratios(pairs, "cpu"), ratios(pairs, "wall"), *more]
    print(found, file=sys.stderr)
    return found


INTRODUCTION = """# What watching costs a training step

`python benchmarks/step_overhead.py`: {machine}; one thread. Ratios are of seconds a step to those of the plain training, which
takes its turn just before: median (least to greatest; of the uncaptured steps the quartiles) over the turns. CPU time is of all
threads of the process. Beside the steps there is what the end of an epoch takes (torchboard's histograms, feature maps and
everything on disk), and by how much the process's greatest memory grew from before it was watched, imports inside.

What is seen differs. torchboard: histograms of activations, activation gradients, parameters, gradients and updates, one of
each an epoch over all captured steps, feature maps, the graph. `wandb.watch`: histograms of parameters and gradients, without
the process that wandb starts beside. By hand: histograms of activations, parameters and gradients, written by another thread.
torchlens: the outputs of all operations of one more forward pass, in memory; no gradients, no histograms, nothing written. A
step that is not captured has hooks around the optimizer's step and counts metrics. How far two processes of one training
differ by themselves is in the second row; ours and that are of {starts} pairs of processes. Where code and data come to lie
differs between processes, so that a row compares such steps within {starts} processes, too: a monitor is made, some steps
later steps are timed, it is closed, some steps later as many are timed again, and so on. Each part may be of a run of its own
(`--job`)."""


def written() -> dict[str, str]:
    """The parts of the result that there is: of what job -> its table."""
    _, *parts = (harness.RESULTS / "step_overhead.md").read_text().rstrip().split("\n\n## ")
    return {part.partition("\n")[0]: f"## {part}" for part in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", choices=JOBS, help="this one alone, in place of what there is of it")
    parser.add_argument("--rounds", type=int, default=0)
    options = parser.parse_args()
    machine = harness.machine("torch", "tensorboard", "wandb", "torchlens")
    introduction = INTRODUCTION.format(machine=machine, starts=STARTS)
    parts = written() if options.job else {}
    for job in [options.job] if options.job else [job for job in JOBS if job != "compiled"]:
        parts[JOBS[job][0]] = report(job, options.rounds or ROUNDS[job])
        harness.write_result("step_overhead", "\n\n".join([introduction, *parts.values()]))  # a run may be cut off


if __name__ == "__main__":
    main()
