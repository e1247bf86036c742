"""Small models that are hard to draw: every one runs, and most tracers fail on some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, rnn
from torch.utils.checkpoint import checkpoint

Case = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A model with the arguments of one call."""


class Calls(nn.Module):
    """A model whose forward pass is a function of itself and the arguments."""

    def __init__(self, function: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


@dataclass
class Output:
    """What a model of the transformers kind returns."""

    logits: Tensor
    loss: Tensor | None = None


class Doubled(torch.autograd.Function):
    """An autograd function of the user's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def linear() -> nn.Linear:
    return nn.Linear(8, 8)


X = torch.linspace(-1, 1, 32).reshape(4, 8)
"""What most of the cases are given."""


def _early_exit(self: Calls, x: Tensor) -> Tensor:
    x = self.fc(x)
    return self.deep(x) if x.sum() > 0 else self.shallow(x)


def _adaptive_depth(self: Calls, x: Tensor) -> Tensor:
    for _ in range(20):
        x = self.fc(x)
        if x.abs().max() < 0.1:
            break
    return x


def _columns(self: Calls, x: Tensor) -> Tensor:
    buffer = torch.zeros(4, 16)
    buffer[:, :8] = self.left(x)
    buffer[:, 8:] = self.right(x)
    buffer[:, ::2].mul_(2)
    return buffer[:, :8] + buffer[:, 8:]


def _in_place(self: Calls, x: Tensor) -> Tensor:
    out = functional.relu_(self.fc(x))
    out += x
    out.clamp_(0, 1)
    return out


def _packed(self: Calls, x: Tensor) -> Any:
    packed = rnn.pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
    return rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)


def _forces(self: Calls, x: Tensor) -> Tensor:
    with torch.enable_grad():
        position = x.detach().requires_grad_()
        return torch.autograd.grad(self.fc(position).square().sum(), position)[0]


def _mixture(self: Calls, x: Tensor) -> Tensor:
    chosen = self.gate(x).argmax(-1)
    out = torch.zeros_like(x)
    for index, expert in enumerate((self.first, self.second)):
        rows = (chosen == index).nonzero().squeeze(1)
        if rows.numel():
            out.index_add_(0, rows, expert(x[rows]))
    return out


def _autocast(self: Calls, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return self.fc(self.fc(x)).float()


def _functional(self: Calls, x: Tensor) -> Tensor:
    return torch.func.functional_call(self.fc, {"weight": self.fc.weight * 2, "bias": torch.ones(8)}, (x,))


def _tied() -> nn.Module:
    model = Calls(
        lambda self, ids: self.head(self.embedding(ids)), embedding=nn.Embedding(10, 8), head=nn.Linear(8, 10)
    )
    model.head.weight = model.embedding.weight
    return model


def _generator(self: Calls) -> Tensor:
    return self.fc(torch.randn(4, 8))


def _long(self: Calls, x: Tensor) -> Tensor:
    for _ in range(3000):
        x = x + 1
    return x


def _numpy(self: Calls, x: Tensor) -> Tensor:
    return self.fc(torch.from_numpy(np.sort(x.detach().numpy(), -1)))


def cases() -> dict[str, Callable[[], Case]]:
    """Name -> how to make it."""
    small = {"fc": linear}
    simple: dict[str, tuple[Callable[..., Any], dict[str, Callable[[], nn.Module]]]] = {
        "dict output": (lambda self, x: {"a": self.fc(x), "b": None, "c": [x + 1, {"d": x}]}, small),
        "dataclass output": (lambda self, x: Output(self.fc(x)), small),
        "no tensor out": (lambda self, x: print(end="") or self.fc(x).shape[0], small),
        "branch on data": (_early_exit, {"fc": linear, "deep": linear, "shallow": linear}),
        "loop on data": (_adaptive_depth, small),
        "mixture of experts": (_mixture, {"gate": lambda: nn.Linear(8, 2), "first": linear, "second": linear}),
        "columns in place": (_columns, {"left": linear, "right": linear}),
        "in place": (_in_place, small),
        "forces": (_forces, small),
        "autograd function": (lambda self, x: self.fc(Doubled.apply(x)), small),
        "shared layer": (lambda self, x: self.fc(self.fc(self.fc(x))), small),
        "checkpoint": (lambda self, x: checkpoint(self.fc, x, use_reentrant=False), small),
        "reentrant checkpoint": (lambda self, x: checkpoint(self.fc, x, use_reentrant=True), small),
        "vmap": (lambda self, x: torch.vmap(lambda row: self.fc(row).sin())(x), small),
        "functional call": (_functional, small),
        "autocast": (_autocast, small),
        "complex": (lambda self, x: torch.fft.irfft(torch.fft.rfft(self.fc(x)) * 2j), small),
        "numpy inside": (_numpy, small),
        "a chain of 3000": (_long, small),
        "weight norm": (lambda self, x: self.fc(x), {"fc": lambda: parametrizations.weight_norm(linear())}),
        "spectral norm": (lambda self, x: self.fc(x), {"fc": lambda: parametrizations.spectral_norm(linear())}),
        "sparse matrix": (lambda self, x: self.fc(torch.sparse.mm(torch.eye(4).to_sparse(), x)), small),
        "nested tensor": (
            lambda self, x: self.fc(torch.nested.nested_tensor([x[:2], x[:3]], layout=torch.jagged)).values(),
            small,
        ),
        "called by forward": (lambda self, x: self.fc.forward(x), small),
    }

    def made(name: str) -> Callable[[], Case]:
        function, children = simple[name]
        return lambda: (Calls(function, **{key: child() for key, child in children.items()}), (X,), {})

    sequence = torch.linspace(-1, 1, 80).reshape(2, 5, 8)
    return {name: made(name) for name in simple} | {
        "keywords only": lambda: (Calls(lambda self, *, x, mask=None: self.fc(x), fc=linear()), (), {"x": X}),
        "None and numbers in": lambda: (Calls(lambda self, x, m, s: self.fc(x) * s, fc=linear()), (X, None, 3), {}),
        "dict in": lambda: (Calls(lambda self, batch: self.fc(batch["x"]), fc=linear()), ({"x": X, "n": 2},), {}),
        "no input": lambda: (Calls(_generator, fc=linear()), (), {}),
        "tied weights": lambda: (_tied(), (torch.arange(6).reshape(2, 3),), {}),
        "LSTM": lambda: (nn.LSTM(8, 4, 2, bidirectional=True, batch_first=True), (sequence,), {}),
        "GRU": lambda: (nn.GRU(8, 4), (sequence,), {}),
        "LSTM cell loop": lambda: (
            Calls(
                lambda self, x: [state := None] and [state := self.cell(row, state) for row in x][-1],
                cell=nn.LSTMCell(8, 4),
            ),
            (sequence,),
            {},
        ),
        "packed sequence": lambda: (Calls(_packed, lstm=nn.LSTM(8, 4, batch_first=True)), (sequence,), {}),
        "multi-head attention": lambda: (nn.MultiheadAttention(8, 2, batch_first=True), (sequence,) * 3, {}),
        "transformer in training": lambda: (
            nn.Transformer(8, 2, 1, 1, 16, batch_first=True).train(),
            (sequence,) * 2,
            {},
        ),
        "embedding bag": lambda: (nn.EmbeddingBag(10, 4), (torch.arange(6), torch.tensor([0, 2])), {}),
        "scripted child": lambda: (nn.Sequential(torch.jit.script(linear()), nn.ReLU()), (X,), {}),
        "compiled child": lambda: (nn.Sequential(torch.compile(linear(), backend="eager"), nn.ReLU()), (X,), {}),
        "data parallel": lambda: (nn.DataParallel(nn.Sequential(linear(), nn.ReLU())), (X,), {}),
        "half precision": lambda: (linear().bfloat16(), (X.bfloat16(),), {}),
        "meta device": lambda: (linear().to("meta"), (X.to("meta"),), {}),
        "frozen layers": lambda: (nn.Sequential(linear(), nn.BatchNorm1d(8).eval(), nn.Dropout()).train(), (X,), {}),
        "quantized": lambda: (torch.ao.quantization.quantize_dynamic(nn.Sequential(linear())), (X,), {}),
        "a model in a list": lambda: (
            Calls(lambda self, x: [layer(x) for layer in self.layers], layers=nn.ModuleList([linear()] * 2)),
            (X,),
            {},
        ),
    }
