"""What merging over ranks costs at the end of an epoch: time of the training threads, and bytes.

    python benchmarks/ranks.py

A ResNet-50 trains on two ranks (gloo, one thread each), by ``DistributedDataParallel`` and by ``fully_shard``, one captured
step an epoch, and on one process alone. Timed is ``log_epoch`` without what only rank 0's files and pictures take: there are
no feature maps, no graph, and a sink that settles what it is given.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import harness
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from torchboard import Capture, Monitor
from torchboard.capture.ranks.mail import Mail
from torchboard.sink.null import NullSink

VARIANTS = {
    "alone": "one process, no job",
    "ddp": "`DistributedDataParallel`, 2 ranks",
    "fsdp": "`fully_shard`, 2 ranks",
}
EPOCHS = 5


class Settling(NullSink):
    """Makes histograms of what it is given, in the calling thread, and counts them."""

    histograms = 0

    def write(self, event) -> None:
        self.histograms = sum(len(list(pending.settle())) for pending in event.pending) or self.histograms


def prepared(variant: str) -> nn.Module:
    """A ResNet-50, wrapped."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    model = resnet50()
    if variant == "ddp":
        return DistributedDataParallel(model)
    if variant == "fsdp":
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            fully_shard(layer)
        return fully_shard(model)
    return model


def train(rank: int, variant: str, directory: str) -> None:
    """What each rank does; saves the median seconds of ``log_epoch``, and the bytes that it sent."""
    torch.set_num_threads(1)
    if variant != "alone":
        dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=2)
    model, sink = prepared(variant), Settling()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, sink=sink, capture=Capture(every=1), feature_maps=False, write_graph=False)
    sent = [0]
    give = Mail.give

    def counted(mail: Mail, key: str, payload: bytes) -> list[str]:
        sent[0] += len(payload)
        return give(mail, key, payload)

    Mail.give = counted
    figures = []
    for epoch in range(EPOCHS + 1):
        images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2 * epoch + rank))
        model(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        sent[0] = 0
        if variant != "alone":
            dist.barrier()
        wall, cpu = time.perf_counter(), time.thread_time()
        monitor.log_epoch()
        figures.append((time.perf_counter() - wall, time.thread_time() - cpu, float(sent[0])))
    monitor.close()
    torch.save([*map(statistics.median, zip(*figures[1:])), sink.histograms], f"{directory}/{rank}")
    if variant != "alone":
        dist.barrier()
        dist.destroy_process_group()


def measure(variant: str) -> dict[str, float]:
    """Milliseconds and bytes of both ranks."""
    with tempfile.TemporaryDirectory() as directory:
        ranks = 1 if variant == "alone" else 2
        spawn(train, (variant, directory), nprocs=ranks)
        results = [torch.load(Path(directory, str(rank))) for rank in range(ranks)]
    figures = {"histograms": results[0][3], "sent": results[-1][2]}
    for rank, (wall, cpu, _, _) in enumerate(results):
        figures |= {f"wall{rank}": 1e3 * wall, f"cpu{rank}": 1e3 * cpu}
    return figures


def report(rounds: int) -> str:
    """The measured table."""
    figures = harness.paired(__file__, list(VARIANTS), rounds, [])
    rows = []
    for variant, what in VARIANTS.items():
        numbers = [
            f"{harness.median(figures, variant, name):.0f}" if name in figures[variant][0] else ""
            for name in ("wall0", "cpu0", "wall1", "cpu1")
        ]
        sent = harness.median(figures, variant, "sent") / 1e6 if variant != "alone" else 0.0
        histograms = harness.median(figures, variant, "histograms")
        rows.append([what, *numbers, f"{sent:.2f}" if sent else "", f"{histograms:.0f}"])
    header = [
        "job",
        "rank 0: wall, ms",
        "rank 0: CPU, ms",
        "rank 1: wall, ms",
        "rank 1: CPU, ms",
        "rank 1 sent, MB",
        "values",
    ]
    return "\n\n".join(
        [
            "# Merging over ranks",
            f"`python benchmarks/ranks.py --rounds {rounds}`: {harness.machine('torch', 'torchvision', 'numpy')}. "
            "ResNet-50, batches of 4 pictures of 64 x 64, everything captured, gloo on one machine. `log_epoch` on the training "
            "threads, with histograms made in the same thread (elsewhere they are another thread's); medians over "
            f"{EPOCHS} epochs and the rounds. CPU is the calling thread's.",
            harness.table(header, rows),
        ]
    )


if __name__ == "__main__":
    harness.main("ranks", __doc__, VARIANTS, measure, report, rounds=3)
