"""What is compared of a model before and after, and what a graph of it must be."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from google.protobuf import text_format
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.compat.proto import graph_pb2
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.graph import graphs_plugin
from torch import nn
from torch.utils._pytree import tree_map

from torchboard.graph.collapse import drawable
from torchboard.graph.module_names import module_names
from torchboard.graph.nodes import Graph
from torchboard.graph.op_graph import op_graph
from torchboard.graph.recorded import RecordedGraph
from torchboard.graph.tensors import nested_tensors

Call = tuple[str, "tuple[int, ...] | None"]
"""A module that ran, and the shape of the tensor that it gave."""


def check(what: str, holds: bool) -> None:
    """Raises where it does not hold."""
    if not holds:
        raise AssertionError(what)


# the model


def seed() -> None:
    """Every generator that a model may draw from begins anew."""
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)


def random_states() -> tuple[Any, ...]:
    """Of every generator that a model may draw from."""
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()


def once(model: nn.Module, args: Any, kwargs: Any) -> tuple[Any, tuple[Any, ...]]:
    """The result of a pass from a known random state, and the random states after it."""
    args, kwargs = copied(args, kwargs)
    seed()
    with torch.no_grad():
        result = model(*args, **kwargs)
    return result, random_states()


def copied(args: Any, kwargs: Any) -> Any:
    """Arguments that the model may write into."""
    return tree_map(lambda x: x.clone() if type(x) is torch.Tensor else x, (args, kwargs))


class State(NamedTuple):
    """What a model is: the bits of its parameters and buffers, and its modes.

    Attributes:
        bits: a check sum a tensor.
        modes: ``training`` of every module.
    """

    bits: list[int]
    modes: list[bool]

    @classmethod
    def of(cls, model: nn.Module) -> State:
        tensors = (*model.parameters(), *model.buffers())
        return cls([bits_of(tensor) for tensor in tensors], [module.training for module in model.modules()])


def buffers_of(model: nn.Module) -> list[torch.Tensor]:
    """Copies of the buffers."""
    return [buffer.detach().clone() for buffer in model.buffers()]


def put_back(model: nn.Module, buffers: list[torch.Tensor]) -> None:
    """Gives the model the buffers that it had."""
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers):
            buffer.copy_(before)


def bits_of(tensor: torch.Tensor) -> int:
    """A check sum of a tensor's elements, shape and type."""
    told = zlib.crc32(f"{tensor.dtype}{tensor.layout}".encode())
    tensor = tensor.detach()
    if tensor.is_nested:
        tensor = tensor.values()
    elif tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    told = zlib.crc32(f"{tuple(tensor.shape)}".encode(), told)
    if tensor.device.type == "meta":
        return told
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    return zlib.crc32(tensor.resolve_conj().contiguous().reshape(-1).view(torch.uint8).numpy(), told)


def same(a: Any, b: Any) -> bool:
    """Whether two results hold the same bits."""
    ours, theirs = list(nested_tensors(a)), list(nested_tensors(b))
    return [path for path, _ in ours] == [path for path, _ in theirs] and all(
        bits_of(x) == bits_of(y) for (_, x), (_, y) in zip(ours, theirs)
    )


@contextlib.contextmanager
def watched(model: nn.Module, calls: list[Call]) -> Iterator[None]:
    """Notes the modules that run, in order, with the shape of what they give."""
    handles, running = [], []
    for module, name in module_names(model).items():
        if isinstance(module, torch.jit.ScriptModule):
            continue

        def begins(module: nn.Module, args: Any, name: str = name) -> None:
            calls.append((name, None))
            running.append(len(calls) - 1)

        def ends(module: nn.Module, args: Any, result: Any, name: str = name) -> None:
            position = running.pop()
            if isinstance(result, torch.Tensor) and not result.is_nested:
                calls[position] = (name, tuple(result.shape))

        handles += [module.register_forward_pre_hook(begins), module.register_forward_hook(ends)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# the graph


def check_graph(graph: Graph, calls: list[Call], result: Any) -> None:
    """Endpoints, shapes, scopes, and that what went in has to do with what came out."""
    ops = op_graph(graph)
    names = {node.name for node in ops.nodes}
    check("unique names", len(names) == len(ops.nodes))
    boxes = {name.rpartition("/")[0] for name in names}
    check("no node is a box", not names & boxes)
    referred = {name.split(":")[0] for node in ops.nodes for name in node.inputs}
    check("endpoints", referred <= names)
    shaped = {node.name for node in ops.nodes if node.output_shapes}
    check("shapes on edges", referred <= shaped)
    check("scopes", [call.module for call in graph.calls] == [module for module, _ in calls])
    given = [tuple(tensor.shape) for _, tensor in nested_tensors(result) if not tensor.is_nested]
    drawn = [node.outputs[0].shape for node in graph.nodes if node.kind == "output"]
    check("output shapes", given == [shape for shape in drawn if shape is not None])
    check_shapes_of_modules(graph, calls)
    check("order", all(source.node < node.id for node in graph.nodes for source in node.inputs))
    check("every output is reached", all(reached(graph)))


def check_shapes_of_modules(graph: Graph, calls: list[Call]) -> None:
    """What a module gave has a shape that something in its box gave or read."""
    in_scope: dict[Any, set[Any]] = {}
    for node in graph.nodes:
        seen = {spec.shape for spec in node.outputs} | {
            graph.nodes[s.node].outputs[s.output].shape
            for s in node.inputs
            if s.output < len(graph.nodes[s.node].outputs)
        }
        for depth in range(len(node.scope) + 1):
            in_scope.setdefault(node.scope[:depth], set()).update(seen)
    for call, (_, shape) in zip(graph.calls, calls):
        if shape is not None and call.scope in in_scope:
            check(f"shape of {call.module}", shape in in_scope[call.scope])


def reached(graph: Graph) -> list[bool]:
    """Of every output, whether it comes from an input, a parameter or an operation that made something of nothing.

    An output that was there before the pass is left out.
    """
    found: set[int] = set()
    for node in graph.nodes:
        if node.kind != "constant" and (not node.inputs or any(source.node in found for source in node.inputs)):
            found.add(node.id)
    outputs = [node for node in graph.nodes if node.kind == "output"]
    return [
        node.id in found
        for node in outputs
        if any(graph.nodes[source.node].kind != "constant" for source in node.inputs)
    ]


def check_costs(recorded: RecordedGraph, model: nn.Module, flops: int | None) -> None:
    """FLOPs are torch's and parameters the model's."""
    total = recorded.costs.total
    check(f"FLOPs ({total.flops} and {flops})", flops in (None, total.flops))
    check("parameters", total.parameters == sum(parameter.numel() for parameter in model.parameters()))


def check_page(folder: Path, graph: Graph) -> None:
    """TensorBoard's own code gives back what was written."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    plugin = graphs_plugin.GraphsPlugin(base_plugin.TBContext(data_provider=provider, multiplexer=multiplexer))
    body, _ = plugin.graph_impl(RequestContext(), ".", None, False, experiment="e")
    shown = text_format.Parse(body, graph_pb2.GraphDef())
    expected = op_graph(drawable(graph)).nodes
    check("TensorBoard's page", [node.name for node in shown.node] == [node.name for node in expected])
