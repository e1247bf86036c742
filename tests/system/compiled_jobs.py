"""A small training compiled in the ways that people compile, and what the compiler did for it."""

from __future__ import annotations

import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.nn import functional

from torchboard import Capture, MemorySink, Monitor

BATCH, STEPS, EPOCHS = 5, 6, 2
SIZES = {"first": 8, "norm": 8, "relu": 16, "second": 8, "head": 3, "Net": 3}
"""Elements of each layer's output for one example, all its calls together."""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        return self.head(self.relu(self.second(x)))


class Job:
    """One training of ``Net``, compiled in one of the ways that people compile."""

    def __init__(self, way: str, backend: str = "eager", fullgraph: bool = True) -> None:
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        self.model = Net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.step_optimizer = self.optimizer.step
        self.backend = CompileCounterWithBackend(backend)
        self.way, self.options = way, {"backend": self.backend, "fullgraph": fullgraph}
        self.call = self.watched = self.model

    def compile(self) -> None:
        """Compiles it."""
        if self.way == "torch.compile(model)":
            self.call = self.watched = torch.compile(self.model, **self.options)
        elif self.way == "model.compile()":
            self.model.compile(**self.options)
        elif self.way == "a compiled function":
            self.call = torch.compile(lambda x: self.model(x), **self.options)
        elif self.way == "compiled layers":
            for layer in self.model.children():
                layer.compile(**self.options)
        elif self.way == "a compiled optimizer too":
            self.call = self.watched = torch.compile(self.model, **self.options)
            self.step_optimizer = torch.compile(self.optimizer.step, backend="eager")

    def step(self) -> torch.Tensor:
        """One training step; its loss."""
        x, y = torch.randn(BATCH, 4), torch.randint(0, 3, (BATCH,))
        loss = functional.cross_entropy(self.call(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.step_optimizer()
        return loss.detach()

    def figures(self) -> tuple:
        """What the compiler did: the model's graphs, their nodes, and breaks."""
        graphs = [[str(node) for node in graph.graph.nodes] for graph in self.backend.graphs]
        return self.backend.frame_count, graphs, dict(counters["graph_break"])

    def all_graphs(self) -> int:
        """How many graphs there are, the optimizer's too."""
        return counters["stats"]["unique_graphs"]


WAYS = ["torch.compile(model)", "model.compile()", "a compiled function", "compiled layers", "a compiled optimizer too"]


def bare(way, **options):
    """What the compiler does without a monitor, and the state it trains to."""
    job = Job(way, **options)
    job.compile()
    for _ in range(EPOCHS * STEPS):
        job.step()
    return job.figures(), job.all_graphs(), job.model.state_dict()


def watched(way, capture=Capture(every=3), first="monitor", **options):
    """A monitored training: the job, and the sink it wrote into."""
    job, sink = Job(way, **options), MemorySink()
    if first == "compiler":
        job.compile()
    with Monitor(job.watched, sink=sink, capture=capture) as monitor:
        if first == "monitor":
            job.compile()
        for _ in range(EPOCHS):
            for _ in range(STEPS):
                monitor.log_batch(loss=job.step())
            monitor.log_epoch()
        assert monitor.step == EPOCHS * STEPS
    return job, sink


def elements(sink, kind, run="train"):
    """Layer -> elements captured of each epoch."""
    tags = [tag for tag in sink.tags(run) if tag.startswith(f"{kind}/")]
    return {
        tag.removeprefix(f"{kind}/"): [int(value.buckets[:, 2].sum()) for _, value in sink.series(tag, run)]
        for tag in tags
    }


def layers_captured(steps):
    return {name: [steps * BATCH * size] * EPOCHS for name, size in SIZES.items()}
