"""Times of operators on a device that runs them later: a pretended one on meta tensors, and a real one where there is one."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
import torch
from graph_models import Fragile, ops, record
from torch import nn

import torchboard
import torchboard.capture.graphs
import torchboard.graph.device_clock
from torchboard.capture.graphs import FirstPassGraph, StepGraph
from torchboard.graph.collapse import drawable
from torchboard.graph.device_clock import DeviceClock
from torchboard.graph.nodes import Graph
from torchboard.graph.observed import GraphRecorder
from torchboard.graph.observed_step import StepRecorder
from torchboard.graph.op_graph import graph_profile
from torchboard.graph.recorded import RecordedGraph
from torchboard.graph.spans import Span, known

ADD = torch.ops.aten.add.Tensor


class Device:
    """Stands in for what torch has for a kind of device: a millisecond passes from one event to the next."""

    def __init__(self) -> None:
        self.done = True
        self.is_capturing = False
        self.refuses: str | None = None
        self.recorded: list[Event] = []
        self.asked_by: set[int] = set()

    def is_initialized(self) -> bool:
        return True

    def is_current_stream_capturing(self) -> bool:
        return self.is_capturing

    def current_stream(self, device: torch.device) -> str:
        return f"the stream of {device}"

    def Event(self, enable_timing: bool) -> Event:  # noqa: N802
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device

    def _ask(self, what: str) -> None:
        self.device.asked_by.add(threading.get_ident())
        if self.device.refuses == what:
            raise RuntimeError("an illegal memory access was encountered")

    def record(self, stream: str) -> None:
        self._ask("record")
        self.time, self.stream = float(len(self.device.recorded)), stream
        self.device.recorded.append(self)

    def query(self) -> bool:
        self._ask("query")
        assert not self.device.is_capturing
        return self.device.done

    def elapsed_time(self, end: Event) -> float:
        self._ask("elapsed_time")
        assert self.device.done
        return end.time - self.time


@pytest.fixture
def device(monkeypatch) -> Device:
    """A device that ``meta`` tensors are said to be on."""
    pretended = Device()
    monkeypatch.setattr(torch, "get_device_module", lambda device: pretended)
    return pretended


class Net(nn.Module):
    """A view, an in-place operator and a product of matrices on one device; an addition on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2, bias=False, device="meta")

    def forward(self, x: torch.Tensor, on_host: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.fc(x.view(2, 4)).relu_(), on_host + 1


def net_graph() -> Graph:
    return record(Net(), torch.zeros(8, device="meta"), torch.zeros(3))


def test_an_operator_has_the_time_between_its_own_events_and_what_lies_between_operators_belongs_to_none(device):
    graph = net_graph()
    assert known(graph.spans)
    costs = {name: node.cost for name, node in ops(graph).items()}
    times = {name: cost.device_seconds for name, cost in costs.items()}
    assert times == {"Net/view": 0, "Net/fc/linear": 0.001, "Net/relu_": 0.001, "Net/add": 0}
    assert [name for name, cost in costs.items() if cost.seconds] == ["Net/add"]
    assert {event.stream for event in device.recorded} == {"the stream of meta"}
    assert len(device.recorded) == 4
    assert graph.note == ""


def test_times_of_the_host_and_of_a_device_lie_beside_each_other(device):
    graph = net_graph()
    assert known(graph.spans)
    profile = {stats.name: stats for stats in graph_profile(graph).nodes}
    linear, relu, add = (profile[f"Net/{name}"] for name in ("fc/linear", "relu_", "add"))
    assert (linear.device, linear.start, linear.duration) == ("/device:META:0", 0, 1000)
    assert (relu.device, relu.start, relu.duration) == ("/device:META:0", 1000, 1000)
    assert (add.device, add.start) == ("/device:CPU:0", 2000)
    assert add.duration >= 1
    table = RecordedGraph.of(Net(), graph).costs.markdown()
    header, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:])
    column = header.index("device time")
    assert [row[column] for row in rows[1:]] == ["1.000 ms", "1.000 ms", "2.000 ms"]
    assert [bool(row[column - 1]) for row in rows[1:]] == [True, False, True]
    assert "2.000 ms on a device" in table


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        return x + 1

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        torch.ones(1000).sort()
        return gradient + 1


class Applied(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Twice.apply(x)


def test_a_node_that_ran_on_both_has_both(device):
    model = Applied()
    recorder = StepRecorder(model)
    recorder.attach()
    model(torch.zeros(2, device="meta", requires_grad=True)).sum().backward()
    recorder.end()
    recorder.close()
    assert known(recorder.graph.spans)
    (node,) = (node for node in recorder.graph.nodes if node.name == "TwiceBackward")
    assert (node.cost.device_seconds, node.cost.seconds > 0) == (0.001, True)
    stats = [stats for stats in graph_profile(recorder.graph).nodes if stats.name == "gradients/Applied/TwiceBackward"]
    assert {each.device for each in stats} == {"/device:CPU:0", "/device:META:0"}
    assert sum(each.nbytes for each in stats) == node.cost.nbytes
    first, second = sorted(stats, key=lambda each: each.start)
    assert first.start + first.duration == second.start


def test_times_are_not_asked_for_before_the_device_has_got_there(device):
    device.done = False
    graph = net_graph()
    assert not known(graph.spans)
    assert sum(node.cost.device_seconds for node in graph.nodes) == 0
    assert {stats.duration for stats in graph_profile(graph).nodes if stats.device == "/device:META:0"} == {0}
    device.done = True
    assert known(graph.spans)
    assert sum(node.cost.device_seconds for node in graph.nodes) == 0.002
    device.done = False
    assert known(graph.spans)


def recorded_by(kind):
    """What has recorded a pass, or a step, of a small model."""
    model, x = nn.Sequential(nn.Linear(4, 4, device="meta")), torch.zeros(2, 4, device="meta")
    graph = FirstPassGraph(model) if kind == "a first pass" else StepGraph(model)
    if kind == "a step":
        graph.end_step()
    model(x).sum().backward()
    if kind == "a step":
        graph.end_step()
    return graph


@pytest.mark.parametrize("kind", ["a first pass", "a step"])
def test_a_graph_waits_for_its_times_and_training_does_not_wait_for_it(device, kind):
    device.done = False
    graph = recorded_by(kind)
    assert graph.collect() is None
    device.done = True
    recorded = graph.collect()
    assert sum(node.cost.device_seconds for node in recorded.operations.nodes) > 0
    assert graph.collect() is None


@pytest.mark.parametrize("kind", ["a first pass", "a step"])
def test_at_the_end_a_graph_goes_without_the_times_of_a_device_that_hangs(device, kind, monkeypatch):
    monkeypatch.setattr(torchboard.capture.graphs, "PATIENCE", 0.01)
    device.done = False
    graph = recorded_by(kind)
    recorded = graph.collect(last=True)
    assert recorded is not None
    assert sum(node.cost.device_seconds for node in recorded.operations.nodes) == 0


def test_a_summary_says_what_is_known_by_then(device):
    device.done = False
    model = nn.Sequential(nn.Linear(4, 4, device="meta"))
    graph = FirstPassGraph(model)
    model(torch.zeros(2, 4, device="meta"))
    assert "device time" not in graph.costs.markdown()
    device.done = True
    assert "device time" in graph.costs.markdown()


def test_only_the_thread_that_trains_calls_the_device(device):
    model = nn.Sequential(nn.Linear(4, 4, device="meta"))
    graph = FirstPassGraph(model)
    model(torch.zeros(2, 4, device="meta"))
    recorded = graph.collect()
    device.refuses = "query"
    device.asked_by.clear()
    values: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: values.update(recorded.settle()))
    thread.start()
    thread.join()
    assert max(stats.duration for stats in values["step1"].nodes) == 1000
    assert device.asked_by == set()


def test_what_is_captured_into_a_graph_of_the_device_has_no_time_and_that_is_said(device):
    device.is_capturing = True
    graph = net_graph()
    assert (list(graph.spans), device.recorded) == ([], [])
    assert graph.note == "operators without a time: 2 captured into a graph of the device's own"


def test_times_are_not_asked_for_while_the_device_captures(device):
    graph = net_graph()
    device.is_capturing = True
    assert not known(graph.spans)
    device.is_capturing = False
    assert known(graph.spans)


@pytest.mark.parametrize("refused", ["record", "query", "elapsed_time"])
def test_a_device_that_fails_costs_its_times_and_nothing_else(device, refused):
    device.refuses = refused
    graph = net_graph()
    assert known(graph.spans)
    assert sum(node.cost.device_seconds for node in graph.nodes) == 0
    assert list(ops(graph)) == ["Net/view", "Net/fc/linear", "Net/relu_", "Net/add"]
    assert graph.note == ("operators without a time: 1 refused by the device" if refused == "record" else "")


def test_an_operator_whose_end_cannot_be_marked_has_no_time(device):
    clock = DeviceClock()
    started = clock.start(ADD, [], {"device": torch.device("meta")})
    device.refuses = "record"
    assert clock.stop(started) is None
    assert clock.start(ADD, [], {"device": torch.device("meta")}) is None
    assert clock.note == "operators without a time: 1 refused by the device"


def test_events_are_limited(device, monkeypatch):
    monkeypatch.setattr(torchboard.graph.device_clock, "MAX_SPANS", 3)
    model = nn.Sequential(*[nn.ReLU() for _ in range(5)])
    graph = record(model, torch.zeros(2, device="meta"))
    assert [len(node.cost.spans) for node in graph.nodes if node.kind == "op"] == [1, 1, 1, 0, 0]
    assert graph.note.startswith("operators without a time: 2 beyond the first")


def test_every_device_has_events_on_its_own_stream(device):
    clock, devices = DeviceClock(), [torch.device("meta", 0), torch.device("meta", 1)]
    started = [clock.start(ADD, [], {"device": each}) for each in devices]
    spans = [clock.stop(each) for each in reversed(started)]
    assert known(spans)
    streams = [f"the stream of {each}" for each in (*devices, *reversed(devices))]
    assert [event.stream for event in device.recorded] == streams
    assert {span.device: span.seconds for span in spans} == {"meta:1": 0.001, "meta:0": 0.003}


def test_a_host_and_a_device_without_events_have_no_clock(device):
    clock, host = DeviceClock(), torch.zeros(2)
    assert clock.start(ADD, [host, host], {"device": torch.device("cpu")}) is None
    assert clock.start(ADD, [], {"device": None}) is None
    assert clock.start(torch.ops.aten.view.default, [torch.zeros(2, device="meta")], {}) is None
    assert device.recorded == []


def test_a_device_that_nothing_can_be_on_yet_is_left_alone(device, monkeypatch):
    monkeypatch.setattr(device, "is_initialized", lambda: False)
    assert list(net_graph().spans) == []


def test_a_device_of_another_make_is_left_alone(device, monkeypatch):
    monkeypatch.delattr(Device, "is_initialized")
    graph = net_graph()
    assert (list(graph.spans), graph.note) == ([], "")


def test_after_an_interrupt_nothing_is_timed_any_more(device):
    model, x = Fragile().to("meta"), torch.zeros(2, 4, device="meta")
    recorder = GraphRecorder(model)
    recorder.attach()
    model.failure = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        model(x)
    before = len(device.recorded)
    assert before > 0
    x + 1  # noqa: B018
    assert len(device.recorded) == before
    recorder.detach()


def test_a_collapsed_graph_keeps_the_sums_and_a_known_graph_can_be_pickled(device):
    graph = net_graph()
    small = drawable(graph, limit=1)
    assert known(graph.spans)
    assert len(small.nodes) < len(graph.nodes)
    assert sum(node.cost.device_seconds for node in small.nodes) == 0.002
    again = pickle.loads(pickle.dumps(graph))
    assert [span.seconds for span in again.spans] == [0.001, 0.001]


def test_a_graph_that_is_asked_for_waits_for_its_times(device):
    device.done = False
    threading.Timer(0.05, setattr, (device, "done", True)).start()
    graph = torchboard.graph(Net(), torch.zeros(8, device="meta"), torch.zeros(3))
    assert "2.000 ms on a device" in str(graph)


def test_a_span_waits_no_longer_than_it_is_told(device):
    device.done = False
    event = device.Event(enable_timing=True)
    assert not known([Span("meta", device, event, event)], patience=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_times_on_a_real_device_are_those_that_its_kernels_take():
    model = nn.Sequential(nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 4096)).cuda()
    x = torch.rand(4096, 4096, device="cuda")
    for _ in range(3):
        model(x)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    model(x)
    end.record()
    graph = torchboard.graph(model, x)
    torch.cuda.synchronize()
    seconds = sum(node.cost.device_seconds for node in graph.operations.nodes)
    assert 0.3 < seconds / (begin.elapsed_time(end) / 1e3) < 3
    assert all(node.cost.device_seconds > 0 for node in ops(graph.operations).values())
