"""What each process of a job does in ``test_ranks``; all numbers are whole or halves, so that no sum is rounded."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from torchboard import Capture, Monitor
from torchboard.capture.backward_norms import BackwardNorms
from torchboard.capture.overhead import Overhead
from torchboard.capture.ranks.exchange import Ranks
from torchboard.capture.ranks.mail import Mail
from torchboard.capture.ranks.pooled import greeting
from torchboard.capture.ranks.posts import packed
from torchboard.capture.sketches import SketchSnapshot
from torchboard.errors import TorchboardWarning
from torchboard.graph.module_names import parameter_names
from torchboard.sink.null import NullSink
from torchboard.sketch import layout

BATCH = 16


class Keeping(NullSink):
    """Keeps the rows of sketches and the scalars that it is given: (run, tag, step) -> what."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, int], object] = {}
        self.notes: dict[str, str] = {}

    def write(self, event) -> None:
        for tag, value in event.pairs:
            self.kept[event.run, tag, event.step] = _plain_value(value)
        for pending in event.pending:
            pending = getattr(pending, "pending", pending)  # of a guarded one
            if isinstance(pending, SketchSnapshot):
                self.notes |= pending.notes
                for tag, *row in zip(pending.tags, *pending.copy.wait()):
                    assert (event.run, tag, event.step) not in self.kept
                    if row[1][layout.COUNT]:
                        self.kept[event.run, tag, event.step] = [torch.from_numpy(part.copy()) for part in row]
            else:
                self.kept |= {(event.run, tag, event.step): _plain_value(value) for tag, value in pending.settle()}


def _plain_value(value: object) -> object:
    """The number or the text of a value that is one."""
    return getattr(value, "value", None) if hasattr(value, "value") else getattr(value, "markdown", None)


class Net(nn.Module):
    """Layers for every kind of split; nine features, a number that does not divide by two or four."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Identity()
        self.wide = nn.Linear(8, 8)
        self.gate = nn.ReLU()
        self.back = nn.Linear(8, 9)
        self.head = nn.Linear(9, 4, bias=False)
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        self.side(x[:, 8:])
        return self.head(self.back(self.gate(self.wide(x[:, :8])))) + self.shift.sum()


def net() -> Net:
    model = Net()
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=numbers))
    return model


def batch(step: int) -> Tensor:
    """The whole batch; the last columns hold what is special."""
    x = torch.randint(-2, 3, (BATCH, 12), generator=torch.Generator().manual_seed(1 + step)).float()
    x[::3, 8], x[1::5, 9], x[2::7, 10], x[::2, 11] = torch.nan, torch.inf, -torch.inf, -0.0
    return x


def train(model: nn.Module, part: slice, monitor: Monitor | None = None) -> list[Tensor]:
    """Two epochs, of two steps and of one, of plain gradient descent on a part of each batch, the loss being its mean.

    The gradients are halved before each step, as clipping does. Gives losses and new weights. The weights are put back after
    each step, so that all numbers stay small and exact.
    """
    optimizer = torch.optim.SGD(model.parameters(), 0.125)
    seen = []
    for step in range(3):
        out = model(batch(step)[part])
        loss = out.square().sum() / len(out)
        optimizer.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            parameter.grad.mul_(0.5)
        weights = [_local(parameter) for parameter in model.parameters()]
        before = [weight.detach().clone() for weight in weights]
        optimizer.step()
        seen += [loss.detach(), *(weight.detach().clone() for weight in weights)]
        if monitor is not None:
            monitor.log_batch(loss=loss)
        with torch.no_grad():
            for weight, old in zip(weights, before):
                weight.copy_(old)
        if step == 1:
            with monitor.phase("validation") if monitor else nullcontext(), torch.no_grad():
                model(batch(9)[part])
        if step and monitor is not None:
            monitor.log_epoch()
    return seen


def shares(count: int, number: int) -> slice:
    """Rows of the batch that belong to one of several parts."""
    size = BATCH // count
    return slice(number * size, (number + 1) * size)


def watched(
    prepare: Callable[[nn.Module], nn.Module], part: slice, before: bool = False
) -> tuple[Keeping, list[Tensor]]:
    """A training with a monitor that is made before the model is prepared, or after."""
    sink = Keeping()
    model = net()
    monitor = Monitor(model, sink=sink, capture=Capture(every=1)) if before else None
    model = prepare(model)
    monitor = monitor or Monitor(model, sink=sink, capture=Capture(every=1))
    seen = train(model, part, monitor)
    monitor.close()
    return sink, seen


def _fsdp(model: nn.Module, mesh) -> nn.Module:
    for layer in (model.wide, model.back):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _scale_of_fsdp(mesh) -> float:
    """What gradients are multiplied with; older versions divide them too little on gloo."""
    layer = nn.Linear(4, 1, bias=False)
    fully_shard(layer, mesh=mesh)
    layer(torch.ones(1, 4)).sum().backward()
    return layer.weight.grad.full_tensor()[0, 0].item()


def _split(model: nn.Module, mesh, **options) -> nn.Module:
    plan = {"wide": ColwiseParallel(**options), "back": RowwiseParallel()}
    return parallelize_module(model, mesh, plan)


def _of_two_kinds(model: nn.Module, mesh) -> nn.Module:
    return _fsdp(_split(model, mesh["model"]), mesh["data"])


def on_four_ranks(rank: int, directory: str) -> None:
    """Every kind of parallelism; what rank 0 writes is saved, and the weights that a training without a monitor has."""
    _set_up(rank, 4, directory)
    line = init_device_mesh("cpu", (4,))
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    own, half = shares(4, rank), shares(2, rank // 2)
    jobs = {
        "ddp": (DistributedDataParallel, own),
        "fsdp": (lambda model: _fsdp(model, line), own),
        "hsdp": (lambda model: _fsdp(model, square), own),
        "tensor": (lambda model: _split(model, line), slice(None)),
        "dtensor": (lambda model: _split(model, line, use_local_output=False), slice(None)),
        "both": (lambda model: _of_two_kinds(model, square), half),
    }
    for name, (prepare, part) in jobs.items():
        sink, seen = watched(prepare, part, before=name == "fsdp")
        bare = train(prepare(net()), part)
        same = len(seen) == len(bare) and all(map(torch.equal, seen, bare))
        mesh = {"fsdp": line, "hsdp": square, "both": square["data"]}.get(name)
        torch.save((sink.kept, same, 1.0 if mesh is None else _scale_of_fsdp(mesh)), f"{directory}/{name}-{rank}")
    torch.save(_localized(half, square), f"{directory}/localized-{rank}")
    _uneven(rank, directory)
    jobs = {
        "tensor": (lambda model: _cut(model, line), slice(None)),
        "dtensor": (lambda model: _cut(model, line, use_local_output=False), slice(None)),
        "both": (lambda model: fully_shard(_cut(model, square["model"]), mesh=square["data"]), half),
        "localized": (
            lambda model: DistributedDataParallel(_cut(model, square["model"]), device_mesh=square["data"]),
            half,
        ),
    }
    for name, (prepare, part) in jobs.items():
        torch.save(units(prepare, part), f"{directory}/units-{name}-{rank}")
    dist.barrier()
    dist.destroy_process_group()


def _localized(part: slice, mesh):
    """Tensor parallelism within data parallelism of the kind that takes the parameters out of the model."""

    def prepare(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(_split(model, mesh["model"]), device_mesh=mesh["data"])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sink, seen = watched(prepare, part)
    same = all(map(torch.equal, seen, train(prepare(net()), part)))
    return sink.kept, same, [str(warning.message) for warning in caught]


class Units(nn.Module):
    """Activations of a layer's output, of half of it, and of what may be cut along the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_half = nn.Linear(4, 8), nn.ReLU()
        self.wide, self.gate, self.wide_half = nn.Linear(4, 8), nn.ReLU(), nn.ReLU()
        self.back, self.tokens = nn.Linear(8, 4), nn.ReLU()
        with torch.no_grad():
            for weight in self.parameters():
                weight.zero_()
            self.first.weight[2, 0] = self.wide.weight[0, 1] = self.back.weight[2, 0] = 1
            self.wide.weight[1:6, 0] = self.back.weight[1, 1:] = 1
        self.first.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.first_half(self.first(x).chunk(2, -1)[0])
        wide = self.wide(x)
        self.gate(wide)
        self.wide_half(wide.chunk(2, -1)[0])
        return self.tokens(self.back(wide))


def _cut(model: nn.Module, mesh, **options) -> nn.Module:
    """The outputs of ``back`` are cut along the batch."""
    plan = {"wide": ColwiseParallel(**options), "back": RowwiseParallel(output_layouts=Shard(0), **options)}
    return parallelize_module(model, mesh, plan)


def units(prepare: Callable[[nn.Module], nn.Module] = copy.copy, part: slice = slice(None)) -> dict[str, object]:
    """The shares of dead units that a training on a part of a batch gives, and what is said of them."""
    sink, model = Keeping(), prepare(Units())
    numbers = torch.arange(BATCH)
    with Monitor(model, sink=sink, capture=Capture(every=1, rank_timeout=60.0), feature_maps=False) as monitor:
        out = model(torch.stack([numbers, numbers // 4, 0 * numbers, 0 * numbers], 1)[part].float()).sum()
        getattr(out, "full_tensor", lambda: out)().backward()
        torch.optim.SGD(model.parameters(), 0.0).step()
        monitor.log_epoch()
    return {tag: value for (_, tag, _), value in sink.kept.items() if "dead" in tag and "_map/" not in tag}


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def _uneven(rank: int, directory: str) -> None:
    """Layers, phases and metrics that some ranks have; no step of theirs waits for another rank's."""
    sink = Keeping()
    model = nn.Sequential(nn.Linear(2, 2))
    if rank == 3:
        model.add_module("more", nn.Linear(2, 5))
    monitor = Monitor(model, sink=sink, capture=Capture(max_elements=256), feature_maps=False)
    dist.barrier()
    train_on = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(torch.ones(1 + rank, 2)).sum().backward()
        train_on.step()
        monitor.log_batch(loss=float(rank), **({"only": 7.0} if rank == 2 else {}))
        if rank in (0, 3):
            monitor.log_batch(loss=2.0)
        if rank == 2:
            with monitor.phase("validation"), torch.no_grad():
                model(torch.ones(600, 2))
                monitor.log_batch(loss=3.5)
        monitor.log_epoch()
        monitor.close()
    torch.save((sink.kept, [str(warning.message) for warning in caught], sink.notes), f"{directory}/uneven-{rank}")


def _set_up(rank: int, size: int, directory: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.TCPStore("127.0.0.1", _port(rank, directory), size, rank == 0, wait_for_workers=False)
    if rank == 0:
        Path(directory, "port").write_text(str(store.port))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)


def _port(rank: int, directory: str) -> int:
    """0 on the rank that serves, so that the system chooses; what it chose on the others."""
    place = Path(directory, "port")
    while rank and not (place.exists() and place.read_text()):
        time.sleep(0.01)
    return int(place.read_text()) if rank else 0


@contextmanager
def _granted_waits() -> Iterator[list[float]]:
    """How many seconds rank 0 would wait for each thing that it looks for inside the context and that is not there."""
    granted, take = [], Mail.take

    def counted(mail: Mail, key: str, deadline: float) -> bytes | None:
        if not mail.has(key):
            granted.append(max(deadline - time.monotonic(), 0.0))
        return take(mail, key, deadline)

    Mail.take = counted
    try:
        yield granted
    finally:
        Mail.take = take


def on_two_ranks(rank: int, directory: str) -> None:
    """Calls that only some ranks make, a rank that is late, and one that dies."""
    early = _before_the_job_is_set_up(rank)
    _set_up(rank, 2, directory)
    torch.save(early(), f"{directory}/early-{rank}")
    torch.save(_agreements(rank, directory), f"{directory}/agreements-{rank}")
    torch.save(_collective_inside(rank), f"{directory}/inside-{rank}")
    told: dict[str, list[str]] = {}
    waits: dict[str, list[float]] = {}
    jobs = {"some": _some_call, "late": _late, "first": _first_does_not_call, "half": _half_comes}
    for name, job in jobs.items():
        dist.barrier()
        with warnings.catch_warnings(record=True) as caught, _granted_waits() as granted:
            warnings.simplefilter("always")
            result = job(rank)
        waits[name] = granted
        told[name] = [str(warning.message) for warning in caught if warning.category is TorchboardWarning]
        torch.save(result, f"{directory}/{name}-{rank}")
    torch.save((told, waits), f"{directory}/told-{rank}")
    torch.save(_other_version(rank), f"{directory}/other-{rank}")
    torch.save(_other_progress(rank, directory), f"{directory}/progress-{rank}")
    torch.save(_sharded_rows(), f"{directory}/rows-{rank}")
    torch.save(_terms_on_several_ranks(), f"{directory}/terms-{rank}")
    torch.save(_scaled(), f"{directory}/scaled-{rank}")
    for use_orig_params in (False, True):
        result = _flat_shards(use_orig_params)
        torch.save(result, f"{directory}/flat-{use_orig_params}-{rank}")
    _one_dies(rank, directory)
    _one_monitor(directory)
    os._exit(0)


def _plain(timeout: float = 0.5, alone: bool = False) -> tuple[Monitor, Keeping, Callable[[], None]]:
    """A monitor; unless it is alone, there is one on every rank when this returns, as after the first step of real training."""
    sink, model = Keeping(), nn.Sequential(nn.Linear(2, 2))
    monitor = Monitor(model, sink=sink, capture=Capture(rank_timeout=timeout), feature_maps=False, write_graph=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    if not alone:
        dist.barrier()

    def step() -> None:
        model(torch.ones(3, 2)).sum().backward()
        optimizer.step()

    return monitor, sink, step


def _before_the_job_is_set_up(rank: int) -> Callable[[], object]:
    """A monitor made before; what is called gives what it writes in the job."""
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), "2"
    monitor, sink, step = _plain(timeout=60.0, alone=True)

    def go_on():
        step()
        monitor.log_epoch()
        monitor.close()
        return sink.kept

    return go_on


def _agreements(rank: int, directory: str):
    """What long messages arrive as, how often steps are captured, and where a log goes on that only rank 0 has."""
    ranks = Ranks(60.0)
    ranks.join()
    dist.barrier()
    ranks.end_epoch(0, 0, captures=True)
    long = {other: (len(sent), sent[:1]) for other, sent in ranks.gather("long", bytes([rank]) * (9 << 20)).items()}
    overhead = Overhead(0.25, clock=iter([0.0, 0.0, 5.0 * rank, 10.0, 10.0]).__next__)
    overhead.affords()
    with overhead:
        pass
    overhead.captured()
    overhead.agree(ranks)
    disk = Path(directory, f"disk-{rank}")
    disk.mkdir()
    os.chdir(disk)
    for resume in (False, True):
        with Monitor(nn.Linear(2, 2), "log", resume=resume) as monitor:
            began = monitor.epoch
            monitor.log_epoch(loss=1.0)
            monitor.log_epoch(loss=1.0)
    return long, [overhead.affords() for _ in range(4)], began


class Talking(nn.Sequential):
    """Asks the other ranks for their inputs; Megatron's layers do such things."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return super().forward(x)


def _collective_inside(rank: int):
    """Pictures of a pass on rank 0 alone are left out; it may not wait for the others."""
    sink, model = Keeping(), Talking(nn.Conv2d(1, 2, 3), nn.ReLU())
    monitor = Monitor(model, sink=sink)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(torch.full((1, 1, 4, 4), 1.0 + rank)).sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        monitor.log_epoch()
    monitor.close()
    return sink.kept, [str(warning.message) for warning in caught]


def _some_call(rank: int):
    """Only rank 0 ends its epochs; so many that waiting in each would take long."""
    monitor, sink, step = _plain(timeout=3.0)
    for _ in range(20):
        step()
        if rank == 0:
            monitor.log_epoch()
    dist.barrier()
    monitor.close()
    return sink.kept


def _late(rank: int):
    """Rank 1 ends its first epoch when rank 0 has gone on without it, and comes to the others."""
    monitor, sink, step = _plain(timeout=3.0)
    store = dist.distributed_c10d._get_default_store()
    for epoch in range(3):
        step()
        if rank == 1 and epoch == 0:
            store.wait(["rank 0 has gone on"])
        monitor.log_epoch()
        if rank == 0:
            store.set("rank 0 has gone on", "")
        dist.barrier()
    monitor.close()
    return sink.kept


def _first_does_not_call(rank: int):
    """Only rank 1 ends its epochs."""
    monitor, sink, step = _plain()
    for _ in range(5):
        step()
        if rank == 1:
            monitor.log_epoch()
    dist.barrier()
    monitor.close()
    return sink.kept


def _half_comes(rank: int):
    """A rank with half of each gradient does not end its epoch."""
    sink, model = Keeping(), nn.Linear(4, 2, bias=False)
    nn.init.ones_(model.weight)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    with Monitor(model, sink=sink, capture=Capture(rank_timeout=0.5), feature_maps=False) as monitor:
        model(torch.ones(3, 4)).sum().backward()
        model.weight.grad.mul_(0.5)
        torch.optim.SGD(model.parameters(), 0.1).step()
        if rank == 0:
            monitor.log_epoch()
        dist.barrier()
    return sink.kept


def _flat_shards(use_orig_params: bool):
    """FSDP1, whose shards do not say what they are parts of; one monitor is made before, one after."""
    sinks, monitors, model = [Keeping(), Keeping()], [], nn.Sequential(nn.Linear(4, 3), nn.Embedding(3, 2))
    nn.init.ones_(model[0].weight)
    model.forward = lambda x: model[0](x) + model[1].weight.sum()
    options = {"capture": Capture(rank_timeout=60.0), "write_images": True, "embeddings_freq": 1}
    monitors.append(Monitor(model, sink=sinks[0], **options))
    sharded = FullyShardedDataParallel(model, use_orig_params=use_orig_params, device_id=torch.device("cpu"))
    monitors.append(Monitor(sharded, sink=sinks[1], **options))
    optimizer = torch.optim.SGD(sharded.parameters(), 0.1)
    sharded(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for monitor in monitors:
            monitor.log_epoch()
            monitor.close()
    return [sink.kept for sink in sinks], [str(warning.message) for warning in caught]


def _sharded_rows():
    """An embedding of which each rank has some rows."""
    model = nn.Sequential(nn.Embedding(4, 2))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Monitor(model, sink=Keeping(), embeddings_freq=1, capture=Capture(rank_timeout=60.0)) as monitor:
            monitor.log_epoch()
    return [str(warning.message) for warning in caught if "embedding" in str(warning.message)]


def _scaled():
    """Shards under a loss scaler that skips a step, with clipping; gradients are 3 and 9."""
    sink, model, mesh = Keeping(), nn.Linear(4, 2, bias=False), init_device_mesh("cpu", (2,))
    fully_shard(model, mesh=mesh)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.0), torch.amp.GradScaler("cpu", init_scale=64.0)
    with Monitor(model, sink=sink, capture=Capture(every=1), feature_maps=False) as monitor:
        for factor in (1.0, torch.inf, 3.0):
            optimizer.zero_grad()
            scaler.scale(factor * model(torch.ones(3, 4)).sum()).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            monitor.log_batch()
        monitor.log_epoch()
    return sink.kept, _scale_of_fsdp(mesh)


def _other_version(rank: int):
    """Rank 1 sends what this version does not: nothing of sense, then what is like ours but for its insides."""
    sink = Keeping()
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.ReLU())
    nn.init.ones_(model[0].weight)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    options = {"capture": Capture(every=1, rank_timeout=60.0, max_overhead=0.5), "feature_maps": False}
    monitor = Monitor(model, sink=sink, **options, write_graph=False) if rank == 0 else None
    ranks = None if monitor else Ranks(60.0, greeting=greeting(model))
    if ranks:
        ranks.join()
    dist.barrier()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    wrong = {
        "metrics": b'{"train": {"loss": 1}}',
        "sketches": packed([["train", "activations/0", "", "", ""]], [np.zeros(1)]),
        "units": packed([["1"], [["0", 9]]], [np.zeros((3, 2))]),
        "backward": b'[["group", 1, [[0, "", 1.0]]]]',
        "stride": b"often",
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for posts in ({channel: b"{" for channel in wrong}, wrong):
            for _ in range(2):
                optimizer.zero_grad()
                model(torch.ones(3, 4)).sum().backward()
                optimizer.step()
            if monitor:
                monitor.log_epoch(loss=1.0)
                continue
            if "group" in str(posts["backward"]):
                posts["backward"] = posts["backward"].replace(b"group", _group(model).encode())
            ranks.end_epoch(0, 0, captures=True)
            for channel, post in posts.items():
                ranks.gather(channel, post)
            ranks.from_first("agreed stride", b"1")
    if monitor:
        monitor.close()
    return sink.kept, [str(warning.message) for warning in caught if warning.category is TorchboardWarning]


def _other_progress(rank: int, directory: str) -> tuple[list[int], list[str]]:
    """Rank 0 says in ways of other versions how far its log has come; where rank 1 begins then, and what it is told."""
    model, began = nn.Linear(2, 2), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for post in (b"{", b'{"laps": 2}', b'{"epochs": "two"}', b"[2]", b'{"epochs": 2, "purge_step": null}'):
            if rank == 0:
                ranks = Ranks(60.0, f"{directory}/nothing", greeting(model))
                ranks.from_first("progress", post)
                ranks.join()
                continue
            with Monitor(model, f"{directory}/nothing", resume=True, write_graph=False) as monitor:
                began.append(monitor.epoch)
    dist.barrier()
    return began, [str(warning.message) for warning in caught if warning.category is TorchboardWarning]


def _group(model: nn.Module) -> str:
    """What the gradients of a model are called in the posts of their norms."""
    norms = BackwardNorms()
    norms.note(model.parameters())
    norms.step([(name, weight) for name, weight in parameter_names(model)], None)
    (group,) = norms.collect().groups
    return group


def _terms_on_several_ranks():
    """A layer of sequence parallelism: its gradients are sums that nobody has completed."""
    sink, model = Keeping(), nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
    parallelize_module(model, init_device_mesh("cpu", (2,)), {"1": SequenceParallel(sequence_dim=0)})
    with Monitor(model, sink=sink, feature_maps=False, write_graph=False) as monitor:
        model(torch.randn(8, 4)).full_tensor().square().sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
        monitor.log_epoch()
    return {tag for _, tag, _ in sink.kept}


def _one_dies(rank: int, directory: str) -> None:
    """Rank 1 is killed in its second epoch; rank 0 ends its own, and saves what it has."""
    monitor, sink, step = _plain(timeout=3.0)
    step()
    monitor.log_epoch()
    dist.barrier()
    if rank == 1:
        os._exit(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            step()
            monitor.log_epoch()
    monitor.close()
    torch.save((sink.kept, [str(warning.message) for warning in caught]), f"{directory}/dies-{rank}")


def _one_monitor(directory: str) -> None:
    """Only rank 0 has this monitor, and waits for nobody."""
    monitor, sink, step = _plain(timeout=300.0, alone=True)
    step()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor.log_epoch()
    monitor.close()
    torch.save((sink.kept, [str(warning.message) for warning in caught]), f"{directory}/one-0")


def whole() -> dict[tuple[str, str, int], object]:
    """The same training by one process."""
    sink, _ = watched(copy.copy, slice(None))
    return sink.kept
