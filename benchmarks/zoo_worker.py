"""One model of the zoo, drawn by one method and checked; run by ``graph_zoo.py`` in a process of its own.

Times are processor time of one thread.
"""

from __future__ import annotations

import tempfile
import time
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tensorboard import program
from tensorboard.compat.proto import graph_pb2
from torch import nn
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from zoo_cases import Case
from zoo_checks import (
    Call,
    State,
    buffers_of,
    check,
    check_costs,
    check_graph,
    check_page,
    once,
    put_back,
    same,
    watched,
)
from zoo_pool import Figures, OverTime, described, limit

from torchboard import SummaryWriter
from torchboard.graph.collapse import drawable
from torchboard.graph.eager import eagerly
from torchboard.graph.observed import GraphRecorder
from torchboard.graph.op_graph import op_graph
from torchboard.graph.recorded import RecordedGraph, record

METHOD_SECONDS = 90
"""Of processor time, for one method and one model."""

torch.set_num_threads(1)
warnings.simplefilter("ignore")


def figures_of(method: str, make: Callable[[], Case]) -> Figures:
    """What a method makes of one model; ``cannot`` where it does not run even unrecorded, ``failed`` with the reason."""
    try:
        with limit(METHOD_SECONDS):
            torch.manual_seed(0)
            model, args, kwargs = make()
            first = seconds_of(lambda: once(model, args, kwargs))
            eager = min([first, *(seconds_of(lambda: once(model, args, kwargs)) for _ in range(rounds(first)))])
    except (Exception, OverTime) as error:
        return {"cannot": described(error)}
    try:
        with limit(METHOD_SECONDS), tempfile.TemporaryDirectory() as folder:
            return {"eager": eager, **METHODS[method](Path(folder), model, args, kwargs, eager)}
    except (Exception, OverTime) as error:
        return {"eager": eager, "failed": described(error)}


def ours(folder: Path, model: nn.Module, args: Any, kwargs: Any, eager: float) -> Figures:
    """Records one of the model's own passes, writes it, and checks both."""
    buffers, calls = buffers_of(model), []
    expected, random_after = once(model, args, kwargs)
    state = State.of(model)
    put_back(model, buffers)
    with eagerly(), watched(model, calls):
        once(model, args, kwargs)
    times = []
    for _ in range(rounds(eager)):
        put_back(model, buffers)
        recorder = GraphRecorder(model)
        began = time.process_time()
        recorder.attach()
        with eagerly():
            result, random_after_recording = once(model, args, kwargs)
        times.append(time.process_time() - began)
        if recorder.error is not None:
            raise recorder.error
    check("outputs", same(result, expected))
    check("random numbers", random_after_recording == random_after)
    check("state", State.of(model) == state)
    check("hooks left", not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()))
    return {**written(folder, model, recorder.graph, calls, result, (args, kwargs)), **_cost(times, eager)}


def _cost(times: list[float], eager: float) -> Figures:
    return {"ratio": min(times) / eager, "recorded": min(times)}


def written(folder: Path, model: nn.Module, graph: Any, calls: list[Call], result: Any, arguments: Any) -> Figures:
    """Writes a graph, and checks it and the file."""
    check_graph(graph, calls, result)
    began = time.process_time()
    recorded = RecordedGraph.of(model, graph)
    with SummaryWriter(folder) as writer:
        writer.add_graph(recorded)
    seconds = time.process_time() - began
    flops, operators = counted(model, *arguments)
    check_costs(recorded, model, flops)
    check_page(folder, graph)
    return {
        "write_seconds": seconds,
        "nodes": len(graph.nodes),
        "operators": operators,
        "bytes": size_of(folder),
        "operator_seconds": recorded.costs.total.seconds,
        "unknown": sum(node.kind == "constant" for node in graph.nodes),
    }


def peers(folder: Path, model: nn.Module, args: Any, kwargs: Any, eager: float) -> Figures:
    """PyTorch's writer, which takes positional arguments alone."""
    from torch.utils.tensorboard import SummaryWriter as Peer

    began = time.process_time()
    with Peer(str(folder)) as writer:
        writer.add_graph(model, kwargs if kwargs and not args else args)
    seconds = time.process_time() - began
    (event,) = (event for event in events(folder) if event.HasField("graph_def"))
    nodes = len(graph_pb2.GraphDef.FromString(event.graph_def).node)
    return {"ratio": seconds / eager, "recorded": seconds, "nodes": nodes, "bytes": size_of(folder)}


def exported(folder: Path, model: nn.Module, args: Any, kwargs: Any, eager: float) -> Figures:
    """The non-strict export of the model."""
    began = time.process_time()
    program = torch.export.export(model, args, kwargs, strict=False)
    seconds = time.process_time() - began
    return {"ratio": seconds / eager, "recorded": seconds, "nodes": len(program.graph.nodes)}


def torchlens(folder: Path, model: nn.Module, args: Any, kwargs: Any, eager: float) -> Figures:
    """torchlens as it comes."""
    import torchlens

    began = time.process_time()
    trace = torchlens.trace(model, list(args), kwargs)
    seconds = time.process_time() - began
    return {"ratio": seconds / eager, "recorded": seconds, "nodes": len(trace)}


METHODS: dict[str, Callable[..., Figures]] = {
    "torchboard": ours,
    "add_graph": peers,
    "export": exported,
    "torchlens": torchlens,
}
"""What draws, or would."""


def served(makers: dict[str, Callable[[], Case]]) -> Figures:
    """How many of these models a running TensorBoard gives back over HTTP, node for node."""
    with tempfile.TemporaryDirectory() as folder:
        nodes = {}
        for name, make in makers.items():
            model, args, kwargs = make()
            recorded = record(model, args, kwargs)
            with SummaryWriter(Path(folder) / name) as writer:
                writer.add_graph(recorded)
            nodes[name] = len(op_graph(drawable(recorded.operations)).nodes)
        board = program.TensorBoard()
        board.configure(argv=["tensorboard", "--logdir", folder, "--port", "0", "--load_fast", "false"])
        url = board.launch().rstrip("/")
        wrong = {name: [nodes_at(url, name), number] for name, number in nodes.items()}
        wrong = {name: numbers for name, numbers in wrong.items() if numbers[0] != numbers[1]}
        return {"models": len(nodes), "right": len(nodes) - len(wrong), "wrong": wrong}


def nodes_at(url: str, run: str) -> int:
    """How many nodes of a run's graph are served; waits until it is loaded."""
    address = f"{url}/data/plugin/graphs/graph?{urllib.parse.urlencode({'run': run, 'conceptual': 'false'})}"
    for _ in range(100):
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return answer.read().decode().count("\nnode {") + 1
        except OSError:
            time.sleep(0.2)
    return -1


class _Operators(TorchDispatchMode):
    """Counts operators."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def counted(model: nn.Module, args: Any, kwargs: Any) -> tuple[int | None, int | None]:
    """torch's own count of FLOPs, and the operators of a pass; None of the models that the counters cannot run.

    A function mode is on, as in a recorded pass: without one, attention in evaluation mode is an operator that the counter
    has no formula for.
    """
    operators = _Operators()
    try:
        with eagerly(), BaseTorchFunctionMode(), FlopCounterMode(display=False) as counter, operators:
            once(model, args, kwargs)
    except Exception:
        return None, None
    return counter.get_total_flops(), operators.number


def rounds(first: float) -> int:
    """How often something is repeated whose first time took so long."""
    return 3 if first < 0.3 else 1


def seconds_of(action: Callable[[], Any]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def events(folder: Path) -> Iterator[Any]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    for path in folder.rglob("*tfevents*"):
        yield from EventFileLoader(str(path)).Load()
