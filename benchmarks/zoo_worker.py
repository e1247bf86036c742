"""One model of the zoo, drawn by each method and checked; run by ``graph_zoo.py`` in a process of its own."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from google.protobuf import text_format
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.compat.proto import graph_pb2
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.graph import graphs_plugin
from torch import nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode
from zoo_cases import Case

from torchboard import SummaryWriter
from torchboard.graph.eager import eagerly
from torchboard.graph.module_names import module_names
from torchboard.graph.nodes import Graph
from torchboard.graph.observed import GraphRecorder
from torchboard.graph.op_graph import op_graph
from torchboard.graph.recorded import RecordedGraph
from torchboard.graph.tensors import nested_tensors

METHOD_SECONDS = 90

torch.set_num_threads(1)
warnings.simplefilter("ignore")


def figures_of(make: Callable[[], Case]) -> dict[str, Any]:
    """What each method makes of one model; ``cannot`` where it does not run even unrecorded."""
    try:
        with limit(METHOD_SECONDS):
            torch.manual_seed(0)
            model, args, kwargs = make()
            eager = min(seconds_of(lambda: once(model, args, kwargs)) for _ in range(3))
    except BaseException as error:
        return {"cannot": described(error)}
    methods = {"torchboard": ours, "add_graph": peers, "export": exported}
    return {name: attempt(method, model, args, kwargs, eager) for name, method in methods.items()}


def attempt(method: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The figures of one method, or why it failed."""
    try:
        with limit(METHOD_SECONDS), tempfile.TemporaryDirectory() as folder:
            return method(Path(folder), *arguments)
    except BaseException as error:
        return {"failed": described(error)}


def ours(folder: Path, model: nn.Module, args: Any, kwargs: Any, eager: float) -> dict[str, Any]:
    """Records one of the model's own passes, writes it, and checks both."""
    state = state_of(model)
    expected = once(model, args, kwargs)
    expected_state, calls, ratios = state_of(model), [], []
    put_back(model, state)
    with eagerly(), watched(model, calls):
        once(model, args, kwargs)
    for _ in range(3):
        put_back(model, state)
        recorder = GraphRecorder(model)
        recorder.attach()
        began = time.perf_counter()
        with eagerly():
            result = once(model, args, kwargs)
        ratios.append((time.perf_counter() - began) / eager)
        if recorder.error is not None:
            raise recorder.error
    graph = recorder.graph
    check("outputs", same(result[0], expected[0]))
    check("random numbers", torch.equal(result[1], expected[1]))
    check("state", same(state_of(model), expected_state))
    check("hooks left", not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()))
    check_graph(graph, calls, result[0])
    began = time.perf_counter()
    recorded = RecordedGraph.of(model, graph)
    with SummaryWriter(folder) as writer:
        writer.add_graph(recorded)
    seconds = time.perf_counter() - began + min(ratios) * eager
    check_costs(recorded, model, flops_of(model, args, kwargs))
    check_page(folder, graph)
    return {
        "ratio": min(ratios),
        "eager": eager,
        "seconds": seconds,
        "nodes": len(graph.nodes),
        "bytes": size_of(folder),
        "operator_seconds": recorded.costs.total.seconds,
    }


def peers(folder: Path, model: nn.Module, args: Any, kwargs: Any, eager: float) -> dict[str, Any]:
    """PyTorch's writer, which takes positional arguments alone."""
    from torch.utils.tensorboard import SummaryWriter as Peer

    began = time.perf_counter()
    with Peer(str(folder)) as writer:
        writer.add_graph(model, kwargs if kwargs and not args else args)
    seconds = time.perf_counter() - began
    (event,) = (event for event in events(folder) if event.HasField("graph_def"))
    nodes = len(graph_pb2.GraphDef.FromString(event.graph_def).node)
    return {"ratio": seconds / eager, "seconds": seconds, "nodes": nodes, "bytes": size_of(folder)}


def exported(folder: Path, model: nn.Module, args: Any, kwargs: Any, eager: float) -> dict[str, Any]:
    """The non-strict export of the model."""
    began = time.perf_counter()
    program = torch.export.export(model, args, kwargs, strict=False)
    seconds = time.perf_counter() - began
    return {"ratio": seconds / eager, "seconds": seconds, "nodes": len(program.graph.nodes)}


def check_graph(graph: Graph, calls: list[tuple[str, tuple[int, ...] | None]], result: Any) -> None:
    """Endpoints, shapes, scopes, and that what went in has to do with what came out."""
    ops = op_graph(graph)
    names = {node.name for node in ops.nodes}
    check("unique names", len(names) == len(ops.nodes))
    referred = {name.split(":")[0] for node in ops.nodes for name in node.inputs}
    check("endpoints", referred <= names)
    shaped = {node.name for node in ops.nodes if node.output_shapes}
    check("shapes on edges", referred <= shaped)
    check("scopes", [call.module for call in graph.calls] == [module for module, _ in calls])
    given = [tuple(tensor.shape) for _, tensor in nested_tensors(result) if not tensor.is_nested]
    drawn = [node.outputs[0].shape for node in graph.nodes if node.kind == "output"]
    check("output shapes", given == [shape for shape in drawn if shape is not None])
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
    reached: set[int] = set()
    for node in graph.nodes:
        if node.kind != "constant" and (not node.inputs or any(source.node in reached for source in node.inputs)):
            reached.add(node.id)
    check(
        "reachable",
        all(node.id in reached for node in graph.nodes if node.kind == "output" and not is_constant(graph, node)),
    )


def is_constant(graph: Graph, node: Any) -> bool:
    """Whether an output is a tensor that was there before the pass."""
    return all(graph.nodes[source.node].kind == "constant" for source in node.inputs)


def flops_of(model: nn.Module, args: Any, kwargs: Any) -> int | None:
    """torch's own count; None of the models that its counter cannot run.

    A function mode is on, as in a recorded pass: without one, attention in evaluation mode is an operator that its counter
    has no formula for.
    """
    try:
        with eagerly(), BaseTorchFunctionMode(), FlopCounterMode(display=False) as counter:
            once(model, args, kwargs)
    except Exception:
        return None
    return counter.get_total_flops()


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
    check("TensorBoard's page", [node.name for node in shown.node] == [node.name for node in op_graph(graph).nodes])


def once(model: nn.Module, args: Any, kwargs: Any) -> tuple[Any, torch.Tensor]:
    """The result of a pass from a known random state, and the random state after it."""
    args, kwargs = tree_map(lambda x: x.clone() if type(x) is torch.Tensor else x, (args, kwargs))
    torch.manual_seed(1)
    with torch.no_grad():
        result = model(*args, **kwargs)
    return result, torch.get_rng_state()


@contextlib.contextmanager
def watched(model: nn.Module, calls: list[Any]) -> Iterator[None]:
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


def same(a: Any, b: Any) -> bool:
    """Whether two results hold the same bits."""
    ours, theirs = list(nested_tensors(a)), list(nested_tensors(b))
    return [path for path, _ in ours] == [path for path, _ in theirs] and all(
        _same_tensor(x, y) for (_, x), (_, y) in zip(ours, theirs)
    )


def _same_tensor(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.is_nested:
        a, b = a.values(), b.values()
    if a.device.type == "meta" or a.shape != b.shape or a.dtype != b.dtype:
        return a.shape == b.shape and a.dtype == b.dtype
    if a.is_quantized:
        return torch.equal(a, b)
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))


def state_of(model: nn.Module) -> list[torch.Tensor]:
    """Copies of its parameters and buffers."""
    return [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())]


def put_back(model: nn.Module, state: list[torch.Tensor]) -> None:
    """Gives the model the state it had."""
    with torch.no_grad():
        for tensor, before in zip((*model.parameters(), *model.buffers()), state):
            tensor.copy_(before)


def check(what: str, holds: bool) -> None:
    if not holds:
        raise AssertionError(what)


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


def seconds_of(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def events(folder: Path) -> Iterator[Any]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for path in folder.rglob("*tfevents*"):
        yield from EventFileLoader(str(path)).Load()


class OverTime(BaseException):
    """A method took too long."""


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raises ``OverTime`` in what takes longer."""

    def over(*_: Any) -> None:
        raise OverTime(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
