"""What each layer of a model costs in one pass: parameters, FLOPs, time and activation memory, as a Markdown table.

A layer's figures are its own, without those of the modules inside it, so every column adds up to the model's. The
parameters are those of ``model.parameters()``, each counted once; the FLOPs are ``torch.utils.flop_counter``'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from torchboard.graph.module_names import class_name, module_names, parameter_names
from torchboard.graph.nodes import Graph, Node
from torchboard.graph.spans import Span, seconds_of
from torchboard.graph.tensors import is_flat_shard

_MAX_ROWS = 300
_UNSAFE = re.compile(r"[`|\s]")
_DEVICE_TIME = "device time"
"""The column that is shown only if something ran on a device whose times are known."""
_HEADER = ("layer", "class", "output", "parameters", "FLOPs", "time", _DEVICE_TIME, "activations")
_LEFT = 3
"""How many columns hold text; the others hold numbers."""


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs, all its calls together.

    Attributes:
        name: its dotted name; empty for the model itself, for what it does between its layers.
        class_name: its class.
        output: shape of what it gave last, None where nothing is known.
        parameters: elements of the parameters that it owns.
        flops: floating point operations of the pass.
        seconds: time that its operators ran on the host.
        nbytes: memory allocated for its results.
        spans: of its operators that ran on devices, how long each did there.
    """

    name: str
    class_name: str
    output: tuple[int, ...] | None = None
    parameters: int = 0
    flops: int = 0
    seconds: float = 0.0
    nbytes: int = 0
    spans: tuple[Span, ...] = ()

    @property
    def device_seconds(self) -> float:
        """Time that its operators ran on devices, as far as that is known by now."""
        return seconds_of(self.spans)


@dataclass(frozen=True)
class LayerCosts:
    """What the layers of a model cost.

    Attributes:
        model: class name of the model.
        layers: in the order in which the model lists them; those that cost nothing are left out.
        note: what is to be known of the pass; empty if it was a whole one.
    """

    model: str
    layers: tuple[LayerCost, ...]
    note: str = ""

    @property
    def total(self) -> LayerCost:
        """The sum of all layers, named ``total``."""
        return _sum("total", self.model, self.layers)

    def markdown(self) -> str:
        """The totals in a sentence, and a table with a row a layer; of a large model with a row a group of layers."""
        total, layers = self.total, _grouped(self.layers)
        figures = [
            (f"{_time(total.seconds)} in operators", total.seconds),
            (f"{_time(total.device_seconds)} on a device", total.device_seconds),
            (f"{_bytes(total.nbytes)} of activations", total.nbytes),
        ]
        shown = [
            f"{total.parameters:,} parameters",
            f"{total.flops:,} FLOPs",
            *(text for text, known in figures if known),
        ]
        sentences = [f"{self.model}: {', '.join(shown)}.", f"Note: {self.note}." if self.note else ""]
        rows = [[*_HEADER], *map(_cells, layers), _cells(total)]
        if not total.device_seconds:
            rows = [[cell for cell, title in zip(row, _HEADER) if title != _DEVICE_TIME] for row in rows]
        return "\n".join([" ".join(filter(None, sentences)), "", *_lines(rows)])


def layer_costs(model: nn.Module, graph: Graph | None) -> LayerCosts:
    """The costs of ``model``'s layers as ``graph``, a recording of it, saw them; without one, their parameters alone."""
    owned: dict[str, int] = {}
    parameters = parameter_names(model)
    counted = [(name, parameter) for name, parameter in parameters if not is_flat_shard(parameter)]
    for name, parameter in counted:
        owner = name.rpartition(".")[0]
        owned[owner] = owned.get(owner, 0) + parameter.numel()
    ran: dict[str, list[Node]] = {}
    for node in graph.nodes if graph is not None else ():
        if node.kind == "op":
            ran.setdefault(node.module or "", []).append(node)
    layers = [
        LayerCost(
            name=name,
            class_name=class_name(module),
            output=next((node.outputs[0].shape for node in reversed(ran.get(name, ())) if node.outputs), None),
            parameters=owned.get(name, 0),
            flops=sum(node.cost.flops for node in ran.get(name, ())),
            seconds=sum(node.cost.seconds for node in ran.get(name, ())),
            nbytes=sum(node.cost.nbytes for node in ran.get(name, ())),
            spans=tuple(span for node in ran.get(name, ()) for span in node.cost.spans),
        )
        for module, name in module_names(model).items()
        if name in ran or name in owned
    ]
    note = graph.note if graph is not None else "no pass has been recorded, so only the parameters are known"
    if len(counted) < len(parameters):
        note = "; ".join(filter(None, (note, "parameters that FullyShardedDataParallel shards are not counted")))
    return LayerCosts(next(class_name(module) for module in module_names(model)), tuple(layers), note)


def _grouped(layers: Sequence[LayerCost]) -> Sequence[LayerCost]:
    """``layers``, or groups of them by the beginning of their names, as deep as the table has room for."""
    depth = max((layer.name.count(".") + 1 for layer in layers), default=1)
    while len(layers) > _MAX_ROWS and depth > 1:
        depth -= 1
        groups: dict[str, list[LayerCost]] = {}
        for layer in layers:
            groups.setdefault(".".join(layer.name.split(".")[:depth]), []).append(layer)
        layers = [
            group[0] if len(group) == 1 else _sum(name, group[0].class_name if group[0].name == name else "", group)
            for name, group in groups.items()
        ]
    return layers


def _sum(name: str, kind: str, layers: Iterable[LayerCost]) -> LayerCost:
    layers = list(layers)
    return LayerCost(
        name,
        kind,
        parameters=sum(layer.parameters for layer in layers),
        flops=sum(layer.flops for layer in layers),
        seconds=math.fsum(layer.seconds for layer in layers),
        nbytes=sum(layer.nbytes for layer in layers),
        spans=tuple(span for layer in layers for span in layer.spans),
    )


def _cells(layer: LayerCost) -> list[str]:
    """One row; nothing stands where nothing was spent."""
    return [
        f"`{_UNSAFE.sub('_', layer.name)}`" if layer.name else "(model)",
        layer.class_name,
        "" if layer.output is None else "×".join(map(str, layer.output)) or "scalar",
        f"{layer.parameters:,}" if layer.parameters else "",
        _quantity(layer.flops, "", 1000) if layer.flops else "",
        _time(layer.seconds) if layer.seconds else "",
        _time(layer.device_seconds) if layer.device_seconds else "",
        _bytes(layer.nbytes) if layer.nbytes else "",
    ]


def _lines(rows: list[list[str]]) -> list[str]:
    """A Markdown table that is one in a terminal, too; the first row is its header."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = ["-" * width if i < _LEFT else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return [
        "| "
        + " | ".join(
            cell.ljust(width) if i < _LEFT else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        )
        + " |"
        for row in (rows[0], rule, *rows[1:])
    ]


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _bytes(number: int) -> str:
    return _quantity(number, "B", 1024)


def _quantity(number: float, unit: str, base: int) -> str:
    """Four digits and a prefix: ``3.628 G``, ``1.5 MiB``."""
    prefixes = ("", "k", "M", "G", "T", "P", "E") if base == 1000 else ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
    power = 0
    while number >= base and power < len(prefixes) - 1:
        number /= base
        power += 1
    return f"{number:.4g} {prefixes[power]}{unit}".strip()
