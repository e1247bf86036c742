"""What each writer does in trouble: how much is lost, raised into the training loop, hung on or made unreadable.

    python benchmarks/faults.py [--rows ROW ...] [--writers WRITER ...]

Every cell is a fresh process with a time-out, and what it left on disk is read with TensorBoard's loader. TensorFlow's
writers take part where ``TENSORFLOW_PYTHON`` names an interpreter that has it. Nothing is timed but the longest wait of a
call, on a machine that may be busy. Rows that slow the disk down need strace. Writes ``results/faults.md``.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fault_child
from fault_child import ROWS, SIZE, WRITERS, Notes
from google_crc32c import value as crc32c
from harness import TENSORFLOW_PYTHON, machine, table, write_result

START_SECONDS = 90
"""How long a child may take to import its writer."""
ROW_SECONDS = 25
"""How long it may take from then on, before it counts as hung."""
SLOW = {"slow_disk": ROW_SECONDS, "queue_bound": ROW_SECONDS}
DELAY_US = 300_000
JOBS = 2
NAMES = {"torchboard": "torchboard", "torch": "torch.utils.tensorboard"}


@dataclass(frozen=True)
class Outcome:
    """One cell of the table.

    Attributes:
        lost: scalars that the writer took and TensorBoard does not show.
        behind: whole records that stand behind a broken one, so that TensorBoard never gets to them.
        torn: whether a file ends in part of a record.
    """

    accepted: int
    lost: int
    raised: int
    text: str
    hung: bool
    behind: int
    torn: bool
    longest_ms: float
    growth_mib: float
    told: bool

    def show(self, row: str) -> str:
        """The cell."""
        if row == "queue_bound":
            parts = [f"{self.accepted} calls, memory +{self.growth_mib:.0f} MiB"]
        else:
            told = ", told" if self.lost and self.told else ""
            parts = [f"**{self.lost} of {self.accepted} lost**{told}" if self.lost else f"0 of {self.accepted} lost"]
        if self.hung:
            parts.append("**hangs**")
        if self.raised:
            parts.append(f"raised {self.raised} times ({self.text.split(':')[0]})")
        if self.behind:
            parts.append(f"**{self.behind} records unreadable**")
        if self.torn:
            parts.append("torn tail")
        if row in SLOW:
            parts.append(f"a call waited {self.longest_ms:.1f} ms")
        return ", ".join(parts)


def run(row: str, writer: str) -> Outcome | None:
    """One cell; None where it cannot be tried here."""
    strace = shutil.which("strace")
    if row in SLOW and strace is None:
        return None
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    log_dir, notes_path = work / "log", work / "notes"
    log_dir.mkdir()
    notes_path.write_bytes(bytes(SIZE))
    notes = Notes(str(notes_path))
    python = TENSORFLOW_PYTHON if writer.startswith("tf") else sys.executable
    command = [python, fault_child.__file__, row, writer, str(log_dir), str(notes_path)]
    if row in SLOW:
        calls = "write,pwrite64,writev"
        trace = [f"--trace={calls}", f"--inject={calls}:delay_enter={DELAY_US}", f"--output={os.devnull}"]
        command = [str(strace), "-f", "-qq", *trace, *command]
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with (work / "output").open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=environment)
        hung = not _ended(child, notes)
    os.chmod(log_dir, 0o755) if log_dir.exists() else None
    outcome = _outcome(row, log_dir, notes, hung, (work / "output").read_text(errors="replace"))
    if not notes["ready"]:
        raise RuntimeError(f"{row} with {writer} never began:\n{(work / 'output').read_text()[-2000:]}")
    shutil.rmtree(work)
    return outcome


def _ended(child: subprocess.Popen, notes: Notes) -> bool:
    """Waits for a child; False where it had to be killed."""
    deadline = time.monotonic() + START_SECONDS
    began = False
    while child.poll() is None and time.monotonic() < deadline:
        if notes["ready"] and not began:
            began, deadline = True, time.monotonic() + ROW_SECONDS
        time.sleep(0.05)
    ended = child.poll() is not None
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
    return ended


def _outcome(row: str, log_dir: Path, notes: Notes, hung: bool, output: str) -> Outcome:
    files = [path for path in sorted(log_dir.rglob("*tfevents*")) if path.is_file()]
    for path in files:
        path.chmod(0o644)
    shown = set()
    for path in files:
        shown |= {(str(path.parent), *point) for point in _points(path)}
    if row == "directory_deleted":
        shown = {point for point in shown if point[2] >= fault_child.N}
    broken = [_behind(path.read_bytes()) for path in files]
    accepted = notes["accepted"]
    return Outcome(
        accepted=accepted,
        lost=max(0, accepted - len(shown)),
        raised=notes["raised"],
        text=notes.text,
        hung=hung,
        behind=sum(behind or 0 for behind in broken),
        torn=any(behind == 0 for behind in broken),
        longest_ms=notes["longest_us"] / 1000,
        growth_mib=notes["growth_kib"] / 1024,
        told=any(word in output for word in ("lost", "OSError", "No space", "too large")),
    )


def _points(path: Path) -> set[tuple[str, int]]:
    """``(tag, step)`` of everything that TensorBoard's loader reads from a file."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = set()
    try:
        for event in EventFileLoader(str(path)).Load():
            found |= {(value.tag.split("/")[0], event.step) for value in event.summary.value if _counts(value.tag)}
    except Exception as error:  # a file that TensorBoard stumbles over shows what came before
        logging.info("%s: %s", path, error)
    return found


def _counts(tag: str) -> bool:
    return not tag.startswith("monitor/")


def _behind(data: bytes) -> int | None:
    """How many whole records stand behind the first broken one; None where no record is broken."""
    at = 0
    while at < len(data):
        end = _record_end(data, at)
        if end is None:
            break
        at = end
    else:
        return None
    found, at = 0, at + 1
    while at + 16 <= len(data):
        end = _record_end(data, at)
        found, at = (found + 1, end) if end is not None else (found, at + 1)
    return found


def _record_end(data: bytes, at: int) -> int | None:
    if at + 16 > len(data) or _masked(data[at : at + 8]) != struct.unpack_from("<I", data, at + 8)[0]:
        return None
    end = at + 16 + struct.unpack_from("<Q", data, at)[0]
    if end > len(data) or _masked(data[at + 12 : end - 4]) != struct.unpack_from("<I", data, end - 4)[0]:
        return None
    return end


def _masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    rows = [row for row in ROWS if row != "second_process"]
    parser.add_argument("--rows", nargs="*", default=rows, choices=rows)
    parser.add_argument("--writers", nargs="*", default=None, choices=list(WRITERS))
    arguments = parser.parse_args()
    writers = arguments.writers or [name for name in WRITERS if TENSORFLOW_PYTHON or not name.startswith("tf")]
    logging.getLogger("tensorboard").setLevel(logging.CRITICAL)
    cells = [(row, writer) for row in arguments.rows for writer in writers]
    with ThreadPoolExecutor(JOBS) as pool:
        found = dict(zip(cells, pool.map(lambda cell: _reported(*cell), cells)))
    lines = []
    for row in arguments.rows:
        outcomes = [found[row, writer] for writer in writers]
        shown = [outcome.show(row) if outcome else "not tried: no strace" for outcome in outcomes]
        lines.append([(ROWS[row].__doc__ or row).strip().rstrip("."), *shown])
    text = [
        "# Writers in trouble",
        "",
        "Lost: scalars that the writer took without an error and that TensorBoard's loader does not find in any file. Raised:",
        "calls that raised into the training loop. Unreadable: whole records behind a broken one, where TensorBoard stops for",
        "ever. Told: stderr speaks of it.",
        f"Hangs: not done after {ROW_SECONDS} s. Command: `python benchmarks/faults.py`.",
        "",
        table(["trouble", *(NAMES.get(writer, writer) for writer in writers)], lines),
        "",
        machine("torch", "tensorboard", "tensorboardX"),
    ]
    if arguments.rows == rows and not arguments.writers:
        write_result("faults", "\n".join(text))
    else:
        print("\n".join(text))


def _reported(row: str, writer: str) -> Outcome | None:
    outcome = run(row, writer)
    print(f"{row}, {writer}: {outcome.show(row) if outcome else 'not tried'}", file=sys.stderr)
    return outcome


if __name__ == "__main__":
    main()
