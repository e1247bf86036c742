"""The monitor, as a person uses it."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import math
import pickle
import sys
import time
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from torchboard import Capture, MemorySink, Monitor, SummaryWriter, read, schedule
from torchboard.capture.norms import Norms
from torchboard.errors import ClosedError, InvalidValueError, RunError, RunInUseError, TagError, TorchboardWarning
from torchboard.hparams import HParam, RealInterval
from torchboard.values import Scalar


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.head(self.drop(functional.relu(self.norm(self.conv(x))).flatten(1)))


def optimizer_of(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def train_step(model, optimizer):
    x, y = torch.randn(4, 1, 8, 8), torch.randint(0, 3, (4,))
    loss = functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def fit(model, sink, epochs=2, batches=3, **options):
    """A monitored training, and the optimizer it used."""
    optimizer = optimizer_of(model)
    with Monitor(model, sink=sink, **options) as monitor:
        for epoch in range(epochs):
            for _ in range(batches):
                monitor.log_batch(loss=train_step(model, optimizer))
            monitor.log_epoch(val_loss=0.5 + epoch)
    return optimizer


def scalars(sink, tag, run="train"):
    return [(step, value.value) for step, value in sink.series(tag, run)]


def hooks(model):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, name)) for module in model.modules() for name in names)


def test_everything_a_run_holds():
    sink = MemorySink()
    fit(Net(), sink)
    parameters = ["conv/weight", "conv/bias", "norm/weight", "norm/bias", "head/weight", "head/bias"]
    layers = ["Net", "conv", "norm", "drop", "head"]
    assert sink.tags("train") == {
        "run/facts": "text",
        "run/model": "text",
        "epoch_loss": "scalars",
        "epoch_learning_rate": "scalars",
        "__run_graph__": "graphs",
        "step1": "graph_tagged_run_metadata",
        "model": "graph_keras_model",
        "run/layers": "text",
        **{f"{kind}/{name}": "histograms" for kind in ("activations", "activation_gradients") for name in layers},
        **{f"{kind}/{name}": "histograms" for kind in ("gradients", "updates", "parameters") for name in parameters},
        **{f"update_ratio/{name}": "scalars" for name in parameters},
        "gradient_norm": "scalars",
        "feature_maps/conv": "images",
    }
    assert sink.tags("validation") == {"evaluation_loss_vs_iterations": "scalars", "epoch_loss": "scalars"}
    assert [step for step, _ in sink.series("gradients/conv/weight")] == [0, 1]
    assert scalars(sink, "epoch_loss", "validation") == [(0, 0.5), (1, 1.5)]
    assert scalars(sink, "epoch_learning_rate") == [(0, pytest.approx(0.1)), (1, pytest.approx(0.1))]


def test_the_graph_holds_the_models_operations_and_none_of_ours():
    sink = MemorySink()
    fit(Net(), sink)
    ((step, graph),) = sink.series("__run_graph__")
    operations = {node.op for node in graph.nodes} - {"Placeholder", "Parameter", "Buffer", "Output"}
    assert step == 0
    assert operations == {"conv2d", "batch_norm", "relu", "flatten", "dropout", "linear"}


def test_a_counter_of_the_users_does_not_see_our_operations():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.append(function._schema.name)
            return function(*args, **(kwargs or {}))

    counters, model = [], Net()
    for watched in (False, True):
        model.zero_grad()
        monitor = Monitor(model, sink=MemorySink(), write_graph=False) if watched else None
        with Names() as counter:
            model(torch.ones(2, 1, 8, 8)).sum().backward()
        counters.append(counter.seen)
        if monitor:
            monitor.close()
    assert counters[0] == counters[1] != []


def test_what_validation_found_is_there_over_steps_of_training_too():
    sink = MemorySink()
    model = Net()
    optimizer = optimizer_of(model)
    with Monitor(model, sink=sink, histogram_freq=0) as monitor:
        for epoch in range(3):
            for _ in range(epoch):
                train_step(model, optimizer)
            with monitor.phase("validation"):
                monitor.log_batch(accuracy=0.25)
                monitor.log_batch(accuracy=0.75)
            monitor.log_epoch(loss=7.0, val_loss=torch.tensor(float(epoch)))
        monitor.log_epoch(val_loss=9.0)
    assert scalars(sink, "evaluation_loss_vs_iterations", "validation") == [(0, 0.0), (1, 1.0), (3, 2.0)]
    assert scalars(sink, "evaluation_accuracy_vs_iterations", "validation") == [(0, 0.5), (1, 0.5), (3, 0.5)]
    assert scalars(sink, "epoch_loss", "validation") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 9.0)]
    assert not [tag for tag in sink.tags("train") if tag.startswith("evaluation_")]


def test_an_epochs_metrics_are_the_means_of_its_batches():
    sink = MemorySink()
    with Monitor(nn.Linear(1, 1), sink=sink) as monitor:
        for loss in (1.0, torch.tensor(2.0), np.float32(6.0)):
            monitor.log_batch(loss=loss)
        monitor.log_epoch()
        monitor.log_batch(loss=8.0)
        monitor.log_epoch(extra=math.nan, val_extra=math.inf)
    assert scalars(sink, "epoch_loss") == [(0, 3.0), (1, 8.0)]
    assert math.isnan(scalars(sink, "epoch_extra")[0][1])
    assert scalars(sink, "epoch_extra", "validation") == [(1, math.inf)]


def test_an_epoch_without_a_batch_is_an_epoch():
    sink = MemorySink()
    with Monitor(Net(), sink=sink) as monitor:
        monitor.log_epoch()
        monitor.log_epoch(loss=1.0)
    assert scalars(sink, "epoch_loss") == [(1, 1.0)]


def test_batch_scalars_count_from_one_and_come_every_so_many():
    sink = MemorySink()
    fit(Net(), sink, batches=5, update_freq=2, write_steps_per_second=True)
    assert [step for step, _ in sink.series("batch_loss")] == [2, 4, 6, 8, 10]
    assert [step for step, _ in sink.series("batch_steps_per_second")] == [2, 4, 6, 8, 10]
    assert all(rate > 0 for _, rate in scalars(sink, "epoch_steps_per_second"))
    each = MemorySink()
    fit(Net(), each, batches=2, update_freq="batch")
    assert [step for step, _ in each.series("batch_loss")] == [1, 2, 3, 4]


def test_histograms_come_every_so_many_epochs():
    sink = MemorySink()
    fit(Net(), sink, epochs=5, histogram_freq=2)
    for tag in ("parameters/conv/weight", "gradients/conv/weight", "activations/conv", "feature_maps/conv"):
        assert [step for step, _ in sink.series(tag)] == [0, 2, 4]
    none = MemorySink()
    model = Net()
    fit(model, none, histogram_freq=0, write_graph=False)
    assert set(none.tags()) == {"run/facts", "run/model", "epoch_loss", "epoch_learning_rate"}


@pytest.mark.parametrize(("every", "captured"), [(10, 1), (1, 4), (2, 2), (0, 1), (schedule.at(1, 2), 3)], ids=str)
def test_steps_are_captured_on_schedule_and_the_first_of_an_epoch_always(every, captured):
    sink = MemorySink()
    fit(Net(), sink, epochs=1, batches=4, capture=Capture(every=every))
    ((_, histogram),) = sink.series("activations/head")
    assert histogram.buckets[:, 2].sum() == captured * 4 * 3
    ((_, histogram),) = sink.series("gradients/head/bias")
    assert histogram.buckets[:, 2].sum() == captured * 3


def test_a_window_covers_the_micro_batches_of_an_accumulated_step():
    sink, model = MemorySink(), Net()
    optimizer = optimizer_of(model)
    with Monitor(model, sink=sink, capture=Capture(every=0)) as monitor:
        for _ in range(3):
            for _ in range(4):
                loss = model(torch.randn(4, 1, 8, 8)).sum()
                loss.backward()
                monitor.log_batch(loss=loss)
            optimizer.step()
            optimizer.zero_grad()
        assert monitor.step == 3
        monitor.log_epoch()
    ((_, histogram),) = sink.series("activations/head")
    assert histogram.buckets[:, 2].sum() == 4 * 4 * 3


def test_a_window_waits_for_every_optimizer_of_the_model():
    sink, model = MemorySink(), Net()
    first, second = torch.optim.SGD(model.conv.parameters(), 0.1), torch.optim.Adam(model.head.parameters(), 0.2)
    with Monitor(model, sink=sink, capture=Capture(every=1)) as monitor:
        for _ in range(3):
            model(torch.randn(4, 1, 8, 8)).sum().backward()
            first.step()
            second.step()
        monitor.log_epoch()
    assert {"gradients/conv/weight", "gradients/head/weight"} <= set(sink.tags())
    assert scalars(sink, "epoch_learning_rate_SGD") == [(0, 0.1)] and scalars(sink, "epoch_learning_rate_Adam") == [
        (0, 0.2)
    ]


def test_every_parameter_group_has_a_learning_rate_as_its_scheduler_left_it():
    sink, model = MemorySink(), Net()
    groups = [{"params": model.conv.parameters()}, {"params": model.head.parameters(), "lr": 0.4, "name": "head"}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda epoch: 1.0, lambda epoch: 0.5**epoch])
    with Monitor(model, sink=sink) as monitor:
        for _ in range(3):
            model(torch.randn(4, 1, 8, 8)).sum().backward()
            optimizer.step()
            monitor.log_epoch()
            scheduler.step()
    assert scalars(sink, "epoch_learning_rate_0") == [(0, 0.1), (1, 0.1), (2, 0.1)]
    assert scalars(sink, "epoch_learning_rate_head") == [(0, 0.4), (1, 0.2), (2, 0.1)]


def test_steps_that_no_optimizer_shows_are_told_by_log_batch():
    sink, model = MemorySink(), Net()
    with Monitor(model, sink=sink, capture=Capture(every=2)) as monitor:
        for _ in range(4):
            loss = model(torch.randn(4, 1, 8, 8)).sum()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients):
                    parameter -= 0.01 * gradient
            monitor.log_batch(loss=loss)
        assert monitor.step == 4
        monitor.log_epoch()
    ((_, histogram),) = sink.series("activations/head")
    assert histogram.buckets[:, 2].sum() == 2 * 4 * 3


def test_a_phase_has_a_run_of_its_own():
    sink, model = MemorySink(), Net()
    optimizer = optimizer_of(model)
    with Monitor(model, sink=sink) as monitor:
        for _ in range(2):
            train_step(model, optimizer)
            with monitor.phase("validation"), torch.no_grad():
                for loss in (1.0, 3.0):
                    model(torch.randn(7, 1, 8, 8))
                    monitor.log_batch(loss=loss)
                monitor.writer.add_text("note", "seen")
            monitor.log_epoch()
    assert scalars(sink, "epoch_loss", "validation") == [(0, 2.0), (1, 2.0)]
    assert [step for step, _ in sink.series("note/text_summary", "validation")] == [0, 1]
    assert [value.buckets[:, 2].sum() for _, value in sink.series("activations/head", "validation")] == [21, 21]
    assert [value.buckets[:, 2].sum() for _, value in sink.series("activations/head")] == [12, 12]


def test_a_phase_that_raises_ends_all_the_same():
    with Monitor(Net(), sink=MemorySink()) as monitor:
        with pytest.raises(KeyError), monitor.phase("validation"):
            raise KeyError
        assert monitor.phase_name == "train"
        with pytest.raises(TagError), monitor.phase("../outside"):
            pass


def test_the_writer_shares_run_and_step():
    sink = MemorySink()
    with Monitor(Net(), sink=sink) as monitor:
        monitor.log_epoch()
        assert isinstance(monitor.writer, SummaryWriter)
        monitor.writer.add_scalar("mine", 1.0)
        monitor.writer.add_scalar("mine", 2.0, 7)
    assert scalars(sink, "mine") == [(1, 1.0), (7, 2.0)]


def test_training_is_the_same_to_the_bit_with_and_without():
    states = []
    for watched in (True, False):
        torch.manual_seed(0)
        model = Net()
        optimizer = optimizer_of(model)
        monitor = Monitor(model, sink=MemorySink(), capture=Capture(every=1)) if watched else None
        losses = []
        for _ in range(2):
            for _ in range(4):
                losses.append(train_step(model, optimizer).detach())
                if monitor:
                    monitor.log_batch(loss=losses[-1])
            if monitor:
                monitor.log_epoch()
        if monitor:
            monitor.close()
        momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
        states.append((*losses, *model.state_dict().values(), *momenta, torch.rand(3)))
    assert len(states[0]) == len(states[1])
    assert all(torch.equal(a, b) for a, b in zip(*states))


def test_a_closed_monitor_leaves_no_hook_and_an_unwatched_step_carries_none():
    model = Net()
    optimizer = optimizer_of(model)
    monitor = Monitor(model, sink=MemorySink(), capture=Capture(every=0))
    assert hooks(model)
    train_step(model, optimizer)
    assert hooks(model) == 0
    monitor.log_epoch()
    assert hooks(model)
    monitor.close()
    assert hooks(model) == 0


def test_a_forgotten_monitor_leaves_no_hook_and_loses_nothing(tmp_path):
    model = Net()
    monitor = Monitor(model, tmp_path)
    monitor.log_batch(loss=train_step(model, optimizer_of(model)))
    monitor.writer.add_scalar("mine", 1.0)
    del monitor
    gc.collect()
    assert hooks(model) == 0
    with pytest.warns(TorchboardWarning, match="holds a run"):
        again = Monitor(model, tmp_path)
    again.log_epoch()
    again.close()
    assert len(list((tmp_path / "train").iterdir())) == 2


def test_monitors_that_name_no_directory_have_one_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "Jan01_00-00-00_")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Monitor(Net()) as first:
            first.log_epoch(loss=0.0)
        second, third = Monitor(Net()), Monitor(Net())
        for loss, monitor in enumerate((second, third), 1):
            monitor.log_epoch(loss=loss)
            monitor.close()
    losses = [read(path).scalars("epoch_loss").values.tolist() for path in sorted((tmp_path / "runs").iterdir())]
    assert losses == [[0.0], [1.0], [2.0]]


def interrupted(log_dir, resume):
    """Ctrl-C in a function that trains: what it leaves is a cycle of its frame, its traceback, the model and the monitor."""
    model = Net()
    model.monitor = monitor = Monitor(model, log_dir, resume=resume)
    monitor.log_epoch(loss=1.0)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        model.error = error
        return error.__traceback__


@pytest.mark.parametrize("shown", [False, True], ids=["garbage", "shown last"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_monitor_that_an_interrupted_function_left_gives_its_directory_back(tmp_path, monkeypatch, resume, shown):
    gc.disable()
    try:
        last = interrupted(tmp_path, resume)
        last.tb_frame.f_locals.keys()  # as who prints a traceback
        monkeypatch.setattr(sys, "last_traceback", last if shown else None, raising=False)
        del last
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with Monitor(Net(), tmp_path, resume=resume) as monitor:
                monitor.log_epoch(loss=2.0)
    finally:
        gc.enable()
    assert [("holds a run" in str(warning.message), warning.filename) for warning in told] == (
        [] if resume else [(True, __file__)]
    )
    assert read(tmp_path).scalars("epoch_loss").values.tolist() == ([1.0, 2.0] if resume else [2.0])


def test_a_forgotten_model_that_holds_its_monitor_is_gone_and_nothing_is_lost(tmp_path):
    model = Net()
    model.monitor = Monitor(model, tmp_path)
    model.monitor.log_batch(loss=train_step(model, optimizer_of(model)))
    model.monitor.writer.add_scalar("mine", 1.0)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and read(tmp_path).scalars("mine").values.tolist() == [1.0]


def test_a_monitor_that_somebody_holds_keeps_its_directory(tmp_path):
    monitor = Monitor(Net(), tmp_path)
    with pytest.raises(RunInUseError, match="another monitor of this process"):
        Monitor(Net(), tmp_path)
    monitor.close()


@pytest.mark.parametrize("how", ["path", "text", "file URL"])
def test_the_line_that_makes_a_monitor_where_a_run_lies_is_warned_of(tmp_path, how):
    Monitor(Net(), tmp_path).close()
    log_dir = {"path": tmp_path, "text": str(tmp_path), "file URL": f"file://{tmp_path}"}[how]
    with pytest.warns(TorchboardWarning, match="holds a run") as told:
        Monitor(Net(), log_dir).close()
    assert [warning.filename for warning in told] == [__file__]


@pytest.mark.parametrize("when", ["armed", "between", "closed"])
def test_a_monitored_model_can_be_copied_pickled_and_saved(when):
    model = Net()
    optimizer = optimizer_of(model)
    sink = MemorySink()
    monitor = Monitor(model, sink=sink, capture=Capture(every=0))
    if when != "armed":
        train_step(model, optimizer)
    if when == "closed":
        monitor.close()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    model.eval()
    x = torch.randn(2, 1, 8, 8)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    with torch.no_grad():
        outputs = [other.eval()(x) for other in copies]
        assert all(torch.equal(output, model(x)) for output in outputs)
    monitor.close()
    assert not any(value.plugin == "histograms" for event in sink.events for _, value in event.pairs)


class Holder(nn.Module):
    """A model that holds its monitor, and logs in its forward pass."""

    def __init__(self, log_dir, whole):
        super().__init__()
        self.net = nn.Linear(3, 2)
        self.monitor = Monitor(self if whole else self.net, log_dir, capture=Capture(every=1))
        self.board = self.monitor.writer

    def forward(self, x):
        out = self.net(x)
        with self.monitor.phase("inner"):
            self.monitor.log_batch(len(x), mean=out.mean())
            self.monitor.writer.add_scalar("called", 1.0)
        return out


@pytest.mark.parametrize("whole", [True, False], ids=["itself", "a part"])
@pytest.mark.parametrize("how", ["deepcopy", "averaged", "pickled", "saved"])
def test_a_model_that_holds_its_monitor_is_copied_with_a_silent_one(tmp_path, how, whole):
    def saved(model):
        file = io.BytesIO()
        torch.save(model, file)
        return torch.load(io.BytesIO(file.getvalue()), weights_only=False)

    ways = {
        "deepcopy": copy.deepcopy,
        "averaged": lambda model: torch.optim.swa_utils.AveragedModel(model).module,
        "pickled": lambda model: pickle.loads(pickle.dumps(model)),
        "saved": saved,
    }
    model, x = Holder(tmp_path, whole), torch.randn(4, 3)
    model(x)
    model.monitor.log_epoch(loss=1.0)
    other = ways[how](model)
    assert torch.equal(other(x), model(x)) and (other.monitor.epoch, other.monitor.phase_name) == (1, "train")
    with pytest.warns(TorchboardWarning, match="copy of a model"):
        other.monitor.log_epoch(loss=2.0)
    model.monitor.log_epoch(loss=3.0)
    model.monitor.close()
    other.monitor.log_batch(loss=4.0)
    assert read(tmp_path).scalars("epoch_loss").values.tolist() == [1.0, 3.0]
    assert read(tmp_path).scalars("called", run="inner").values.tolist() == [1.0, 1.0]
    Monitor(nn.Linear(1, 1), tmp_path, resume=True).close()  # the copy keeps nothing open


def test_a_silent_monitor_takes_every_call_of_a_monitor(tmp_path):
    with Monitor(Net(), tmp_path) as monitor:
        silent = copy.copy(monitor)
    public = {name for name in {*dir(monitor), *vars(monitor)} if not name.startswith("_")}
    assert public <= {*dir(silent), *vars(silent)}
    with silent as entered, silent.phase("validation"):
        assert entered is silent and silent.phase_name == "validation"
        silent.log_batch(4, loss=1.0)
        silent.log_predictions([0], [0.5], tag="x")
        silent.log_embeddings("head", torch.zeros(1), labels=["a"])
        silent.log_slices([0], [0.5], {"site": [0]})
        silent.writer.add_histogram("h", torch.ones(3))
        silent.show()
        silent.flush()
    assert silent.summary() == "" and silent.phase_name == "train"
    with pytest.warns(TorchboardWarning, match="copy of a model") as told:
        for _ in range(2):
            silent.log_epoch(loss=1.0)
    assert len(told) == 1 and told[0].filename == __file__ and silent.epoch == 2
    assert pickle.loads(pickle.dumps(silent)).epoch == 2


def test_a_model_whose_forward_pass_raises_is_watched_again_at_the_next_pass():
    class Shy(Net):
        def forward(self, x):
            out = super().forward(x)
            if not hasattr(self, "seen"):
                self.seen = True
                raise RuntimeError("not yet")
            return out

    sink, model = MemorySink(), Shy()
    optimizer = optimizer_of(model)
    with Monitor(model, sink=sink) as monitor:
        with pytest.raises(RuntimeError, match="not yet"):
            train_step(model, optimizer)
        train_step(model, optimizer)
        monitor.log_epoch()
    assert {"__run_graph__", "activations/head", "gradients/head/weight"} <= set(sink.tags())


@pytest.mark.parametrize("phase", [None, "rollout"])
def test_passes_without_gradients_in_training_mode_count_as_training_unless_they_have_a_phase(phase):
    sink, model = MemorySink(), nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, sink=sink, capture=Capture(every=1)) as monitor:
        with torch.no_grad(), monitor.phase(phase) if phase else contextlib.nullcontext():
            model(torch.randn(5, 3))
        model(torch.randn(4, 3)).sum().backward()
        optimizer.step()
        monitor.log_epoch()
    counts = {
        run: value.buckets[:, 2].sum()
        for run in ("train", "rollout")
        for _, value in sink.series("activations/Linear", run)
    }
    assert counts == ({"train": 8, "rollout": 10} if phase else {"train": 18})


def test_two_monitors_on_one_model_both_see_it():
    model, sinks = Net(), (MemorySink(), MemorySink())
    optimizer = optimizer_of(model)
    first, second = (Monitor(model, sink=sink) for sink in sinks)
    train_step(model, optimizer)
    first.log_epoch()
    first.close()
    second.log_epoch()
    second.close()
    assert sinks[0].tags() == sinks[1].tags() and "activations/head" in sinks[0].tags()
    assert hooks(model) == 0


def test_a_call_after_close_says_so_and_a_second_close_does_nothing():
    monitor = Monitor(Net(), sink=MemorySink())
    monitor.close()
    monitor.close()
    for call in (monitor.log_batch, monitor.log_epoch, monitor.flush):
        with pytest.raises(ClosedError, match="close"):
            call()


@pytest.mark.parametrize(
    "model", [None, "net", nn.Parameter(torch.zeros(1)), Net, [Net()]], ids=lambda model: type(model).__name__
)
def test_what_is_not_a_module_is_refused(model):
    with pytest.raises(InvalidValueError, match="torch.nn.Module.*; "):
        Monitor(model, sink=MemorySink())


@pytest.mark.parametrize(
    "options",
    [{"histogram_freq": -1}, {"histogram_freq": 1.5}, {"update_freq": "step"}, {"update_freq": True}],
    ids=str,
)
def test_bad_options_are_refused(options):
    with pytest.raises(InvalidValueError, match="frequency"):
        Monitor(Net(), sink=MemorySink(), **options)


REFUSED = {
    "capture": [None, "eager", {"every": 1}, Capture],
    "sink": [5, "x", object(), MemorySink],
    "log_dir": [5, b"x", ["a"]],
    "update_freq": [[1], {}, np.ones(2)],
    "feature_maps": [np.zeros((1, 1, 8, 8)), [[1.0]], "yes", 1, None],
    "write_images": [1, "yes", None],
    "write_steps_per_second": [1, "yes", None],
    "write_graph": ["steps", np.ones(2)],
    "optimizer": [0.1, optimizer_of(Net())],
}


@pytest.mark.parametrize(
    "argument, value",
    [(argument, value) for argument, values in REFUSED.items() for value in values],
    ids=lambda it: it if isinstance(it, str) else type(it).__name__,
)
def test_an_argument_of_another_kind_is_refused_in_three_parts_before_anything_is_made(tmp_path, argument, value):
    model, log_dir = Net(), tmp_path / "run"
    with pytest.raises(InvalidValueError, match=f"{argument}.*: .*; "):
        Monitor(model, **{"log_dir": log_dir, argument: value})
    assert not log_dir.exists() and not hooks(model)


@pytest.mark.parametrize("field", ["include", "dead_units"])
def test_a_pattern_that_matches_no_layer_is_refused_with_what_is_near_before_anything_is_made(tmp_path, field):
    model = Net()
    for selector, near in (("cnov", "conv"), (["head", nn.LSTM], "Linear"), (lambda name, module: False, "Linear")):
        with pytest.raises(InvalidValueError, match=f"{field}=.* matches no layer of Net.*{near}"):
            Monitor(model, tmp_path / "run", capture=Capture(**{field: selector}))
    assert not (tmp_path / "run").exists() and not hooks(model)
    Monitor(model, tmp_path / "run", capture=Capture(**{field: ["conv", nn.Linear]})).close()


@pytest.mark.parametrize("field", ["include", "exclude", "dead_units"])
def test_a_predicate_takes_name_and_module(field):
    for selector in (lambda module: True, lambda: True, lambda name, module, more: True, nn.Linear(2, 2)):
        with pytest.raises(InvalidValueError, match="layer selector .* function of .name, module.; "):
            Capture(**{field: selector})
    Capture(**{field: [lambda *layer: True, lambda name, module, more=None: True]})


@pytest.mark.parametrize("call", ["log_batch", "log_epoch"])
def test_a_metric_without_a_name_is_refused_and_nothing_of_the_call_counts(call):
    sink = MemorySink()
    with Monitor(Net(), sink=sink) as monitor:
        monitor.log_batch(loss=1.0)
        for value in ({"loss": 9.0}, torch.ones(())):
            with pytest.raises(InvalidValueError, match=rf"{call}\(.*\): .*name"):
                getattr(monitor, call)(value, other=1.0)
        monitor.log_epoch()
    assert scalars(sink, "epoch_loss") == [(0, 1.0)] and "epoch_other" not in sink.tags()


@pytest.mark.parametrize("value", ["low", torch.zeros(2), torch.zeros((), device="meta"), None], ids=str)
@pytest.mark.parametrize("call", ["log_batch", "log_epoch"])
def test_a_metric_that_is_not_a_number_is_refused_and_nothing_of_the_call_counts(call, value):
    sink = MemorySink()
    with Monitor(Net(), sink=sink) as monitor:
        with pytest.raises(InvalidValueError, match="metric 'bad'"):
            getattr(monitor, call)(loss=9.0, bad=value)
        monitor.log_batch(loss=1.0)
        monitor.log_epoch()
    assert scalars(sink, "epoch_loss") == [(0, 1.0)]


@pytest.mark.parametrize("call", ["log_batch", "log_epoch"])
@pytest.mark.parametrize("name", ["x\ud800", "val_x\ud800", ""])
def test_a_metric_whose_name_no_file_holds_is_refused_and_nothing_of_the_call_counts(call, name):
    sink = MemorySink()
    with Monitor(Net(), sink=sink) as monitor:
        for _ in range(2):
            with pytest.raises(TagError, match="tag .*; "):
                getattr(monitor, call)(loss=9.0, **{name: 1.0})
            monitor.log_batch(loss=1.0)
        monitor.log_epoch()
    assert scalars(sink, "epoch_loss") == [(0, 1.0)]


def test_a_phase_whose_name_no_file_holds_is_refused():
    with Monitor(Net(), sink=MemorySink()) as monitor:
        with pytest.raises(TagError, match="surrogate"), monitor.phase("x\ud800"):
            pass
        assert monitor.phase_name == "train"


def test_a_log_dir_that_cannot_be_used_is_refused_before_anything_is_hooked(tmp_path):
    (tmp_path / "file").write_text("")
    model = Net()
    with pytest.raises(RunError):
        Monitor(model, tmp_path / "file")
    with Monitor(model, tmp_path / "run"):
        before = hooks(model)
        with pytest.raises(RunInUseError, match="another monitor"):
            Monitor(model, tmp_path / "run")
        assert hooks(model) == before


def test_a_second_run_in_one_directory_starts_again_in_a_file_that_sorts_later(tmp_path):
    with Monitor(Net(), tmp_path) as monitor:
        monitor.log_epoch(loss=1.0)
    with pytest.warns(TorchboardWarning, match="resume=True"):
        monitor = Monitor(Net(), tmp_path)
    monitor.log_epoch(loss=1.0)
    monitor.close()
    assert len(list((tmp_path / "train").iterdir())) == 2


def test_a_model_that_cannot_show_feature_maps_is_warned_of_once():
    class Fussy(Net):
        def forward(self, x):
            if not self.training:
                raise ValueError("training only")
            return super().forward(x)

    sink, model = MemorySink(), Fussy()
    optimizer = optimizer_of(model)
    with Monitor(model, sink=sink) as monitor:
        train_step(model, optimizer)
        with pytest.warns(TorchboardWarning, match="feature maps.*training only"):
            monitor.log_epoch()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train_step(model, optimizer)
            monitor.log_epoch()
    assert "activations/head" in sink.tags() and "feature_maps/conv" not in sink.tags()


def test_facts_name_model_parameters_versions_and_options():
    sink = MemorySink()
    fit(Net(), sink, epochs=1, histogram_freq=3)
    ((_, facts),) = sink.series("run/facts")
    for words in (
        "| model | Net |",
        "| parameters | 483 |",
        torch.__version__,
        "| device | cpu |",
        "| histogram_freq | 3 |",
        "Capture(",
    ):
        assert words in facts.markdown.replace("\\", "")
    ((_, structure),) = sink.series("run/model")
    assert "(conv): Conv2d(1, 4" in structure.markdown


def test_a_probe_of_ones_own_is_used_for_feature_maps():
    sink, model = MemorySink(), Net()
    optimizer = optimizer_of(model)
    with Monitor(model, sink=sink, feature_maps=torch.randn(1, 1, 6, 6).repeat(1, 1, 2, 2)[:, :, :8, :8]) as monitor:
        train_step(model, optimizer)
        monitor.log_epoch()
    assert "feature_maps/conv" in sink.tags()
    off = MemorySink()
    fit(Net(), off, feature_maps=False)
    assert "feature_maps/conv" not in off.tags()


def test_what_log_epoch_returned_for_is_on_disk(tmp_path):
    from torchboard import proto
    from torchboard.eventfile.scanning import scan

    monitor = Monitor(Net(), tmp_path)
    monitor.log_epoch(loss=2.0)
    (file,) = (tmp_path / "train").iterdir()
    values = [value for record in scan(file) for value in proto.Event.FromString(record.data).summary.value]
    assert ("epoch_loss", 2.0) in [(value.tag, value.simple_value) for value in values]
    monitor.close()


def trial_of(sink):
    """The beginning of the trial, and how it ended."""
    ((_, start),) = sink.series("_hparams_/session_start_info", "")
    return start, [value.succeeded for _, value in sink.series("_hparams_/session_end_info", "")]


def test_hyperparameters_make_a_trial_that_succeeds_when_the_monitor_is_closed():
    sink = MemorySink()
    lr = HParam("lr", RealInterval(0.0, 1.0))
    monitor = Monitor(nn.Linear(2, 1), sink=sink, hparams={lr: 0.5, "bias": True}, trial_id="mine")
    start, ended = trial_of(sink)
    assert (start.hparams, start.group, ended) == ({"lr": 0.5, "bias": True}, "mine", [])
    monitor.log_epoch(loss=1.0)
    monitor.close()
    monitor.close()
    assert trial_of(sink)[1] == [True]


def test_a_trial_fails_where_an_exception_leaves_the_monitor():
    sink = MemorySink()
    with pytest.raises(KeyError), Monitor(nn.Linear(2, 1), sink=sink, hparams={"lr": 0.5}):
        raise KeyError("x")
    assert trial_of(sink)[1] == [False]


def test_without_hyperparameters_there_is_no_trial():
    sink = MemorySink()
    Monitor(nn.Linear(2, 1), sink=sink).close()
    assert sink.tags("") == {}


@pytest.mark.parametrize(
    "options",
    [{"hparams": {"lr": [1]}}, {"hparams": {HParam("lr", RealInterval(0.0, 1.0)): 2.0}}, {"trial_id": "a"}],
    ids=str,
)
def test_hyperparameters_that_cannot_be_shown_are_refused_before_anything_is_made(tmp_path, options):
    model = nn.Linear(2, 1)
    with pytest.raises(InvalidValueError, match=": .*; "):
        Monitor(model, tmp_path / "log", **options)
    assert not (tmp_path / "log").exists() and not model._forward_hooks


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_captured_value_that_cannot_be_had_later_is_warned_of_and_no_other_is_lost(tmp_path, monkeypatch, on_error):
    def broken(norms):
        yield "gradient_norm", Scalar(1.0)
        raise ArithmeticError("no norm")

    monkeypatch.setattr(Norms, "settle", broken)
    model = Net()
    optimizer = optimizer_of(model)
    with Monitor(model, tmp_path, feature_maps=False, on_error=on_error) as monitor:
        for epoch in range(2):
            monitor.log_batch(loss=train_step(model, optimizer))
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                monitor.log_epoch()
            assert [f"{one.message}" for one in told] == [
                "some values of this model cannot be captured: left out (ArithmeticError: no norm)"
            ] * (epoch == 0)
    log = read(tmp_path)
    assert [*log.scalars("gradient_norm", run="train").values] == [1, 1]
    assert len(log.histograms("activations/head", run="train").values) == 2


def test_a_default_device_of_the_users_is_none_of_ours():
    model, sink = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), MemorySink()
    torch.set_default_device("meta")
    try:
        x = torch.ones(2, 3, device="cpu")
        optimizer = optimizer_of(model)
        with Monitor(model, sink=sink) as monitor:
            model(x).sum().backward()
            optimizer.step()
            monitor.writer.add_histogram("numbers", [1.0, 2.0])
            monitor.log_epoch()
    finally:
        torch.set_default_device(None)
    assert len(scalars(sink, "gradient_norm")) == len(sink.series("numbers")) == 1
