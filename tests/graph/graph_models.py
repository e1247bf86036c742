"""Models that graphs are recorded of, and how to record one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from torchboard.graph.nodes import Graph, Node
from torchboard.graph.observed import GraphRecorder


def record(model: nn.Module, *args: object, **kwargs: object) -> Graph:
    """The graph of one call of the model."""
    recorder = GraphRecorder(model)
    recorder.attach()
    model(*args, **kwargs)
    assert recorder.error is None
    assert recorder.graph is not None
    return recorder.graph


def ops(graph: Graph) -> dict[str, Node]:
    return {"/".join((*node.scope, node.name)): node for node in graph.nodes if node.kind == "op"}


def reads(graph: Graph, name: str) -> list[str]:
    """What the op called ``name`` reads, parameters and buffers left out."""
    sources = [graph.nodes[source.node] for source in ops(graph)[name].inputs]
    return ["/".join((*node.scope, node.name)) for node in sources if node.kind not in ("parameter", "buffer")]


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.norm(self.conv1(image))))
        return self.fc(self.drop(x.flatten(1)))


class Block(nn.Module):
    """A residual block with one in-place ReLU, called twice, and an in-place addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.conv1(x))
        out = self.conv2(out)
        out += x
        return self.relu(out)


class TwoTowers(nn.Module):
    """Keyword inputs and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 4)
        self.right = nn.Linear(4, 4)

    def forward(self, first: torch.Tensor, *, second: torch.Tensor) -> dict[str, torch.Tensor]:
        a, b = self.left(first), self.right(second)
        return {"sum": a + b, "left": a}


@dataclass
class Result:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class DataclassOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> Result:
        return Result(self.fc(x))


class Gates(nn.Module):
    """Writes four columns of one buffer, then reads each by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(4, 2) for _ in range(4))
        self.heads = nn.ModuleList(nn.Linear(2, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        buffer = torch.zeros(x.shape[0], 8)
        for index, part in enumerate(self.parts):
            buffer[:, 2 * index : 2 * index + 2] = part(x)
        return sum(head(buffer[:, 2 * index : 2 * index + 2]) for index, head in enumerate(self.heads))


class Fragile(nn.Module):
    """Raises what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.failure: type[BaseException] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        if self.failure is not None:
            raise self.failure
        return y
