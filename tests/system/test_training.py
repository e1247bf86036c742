"""Whole trainings under conditions that break others: forks, a full disk, a kill, a compiler, several ranks."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from torchboard import proto
from torchboard.eventfile.scanning import scan

SETUP = """
import os, resource, signal, sys, warnings
import torch
from torch import nn
from torchboard import Capture, Monitor
torch.manual_seed(0)
torch.set_num_threads(1)
log_dir = sys.argv[1]
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
data = torch.utils.data.TensorDataset(torch.randn(24, 1, 8, 8), torch.randint(0, 3, (24,)))

def step(images, labels, model=model):
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss
"""


def run(code, log_dir, *arguments, check=True):
    command = [sys.executable, "-c", SETUP + textwrap.dedent(code), str(log_dir), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=240)


def tags(log_dir, name="train"):
    """Tag -> steps of a run on disk."""
    found = {}
    for path in sorted((log_dir / name).glob("*tfevents*")):
        for record in scan(path):
            event = proto.Event.FromString(record.data)
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    return found


def test_data_loader_workers_neither_hang_nor_write(tmp_path):
    code = """
    with Monitor(model, log_dir) as monitor:
        for epoch in range(2):
            for batch in torch.utils.data.DataLoader(data, 8, num_workers=2):
                monitor.log_batch(loss=step(*batch))
            monitor.log_epoch()
    """
    run(code, tmp_path)
    assert tags(tmp_path)["epoch_loss"] == [0, 1]
    assert len(list((tmp_path / "train").iterdir())) == 1


def test_a_full_disk_stops_the_log_and_not_the_training(tmp_path):
    code = """
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with Monitor(model, log_dir) as monitor:
        for epoch in range(3):
            for batch in torch.utils.data.DataLoader(data, 8):
                monitor.log_batch(loss=step(*batch))
            monitor.log_epoch()
        print("trained", monitor.step)
    """
    result = run(code, tmp_path)
    assert result.stdout == "trained 9\n"
    assert result.stderr.count("cannot write the log ([Errno") == 1 and "are lost" in result.stderr
    assert "run/facts" in tags(tmp_path)


def test_what_log_epoch_returned_for_survives_a_kill(tmp_path):
    code = """
    monitor = Monitor(model, log_dir)
    for epoch in range(3):
        monitor.log_batch(loss=step(*data[:8]))
        monitor.log_epoch()
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run(code, tmp_path, check=False).returncode == -9
    found = tags(tmp_path)
    assert found["epoch_loss"] == found["parameters/0/weight"] == found["feature_maps/0"] == [0, 1, 2]


@pytest.mark.parametrize("ending", ["raise RuntimeError('diverged')", "sys.exit(1)", "raise KeyboardInterrupt"])
def test_a_training_that_ends_early_loses_nothing(tmp_path, ending):
    code = f"""
    monitor = Monitor(model, log_dir, update_freq=1)
    for epoch in range(3):
        monitor.log_batch(loss=step(*data[:8]))
        if epoch == 2:
            {ending}
        monitor.log_epoch()
    """
    run(code, tmp_path, check=False)
    assert tags(tmp_path)["epoch_loss"] == [0, 1] and tags(tmp_path)["batch_loss"] == [1, 2, 3]


def test_a_compiled_model_trains_as_before_and_its_parameters_are_seen(tmp_path):
    code = """
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with Monitor(compiled, log_dir) as monitor:
        for epoch in range(2):
            monitor.log_batch(loss=step(*data[:8], model=compiled))
            monitor.log_epoch()
    """
    run(code, tmp_path)
    found = tags(tmp_path)
    assert found["gradients/0/weight"] == found["parameters/3/bias"] == found["updates/3/bias"] == [0, 1]


def test_of_several_ranks_the_first_one_writes(tmp_path):
    code = """
    rank = int(sys.argv[2])
    model.insert(1, nn.BatchNorm2d(4))  # buffers, which every forward pass of the wrapper synchronises over ranks
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{log_dir}/meeting", rank=rank, world_size=2)
    parallel = nn.parallel.DistributedDataParallel(model)
    with Monitor(parallel, log_dir + "/run") as monitor:
        for epoch in range(2):
            monitor.log_batch(loss=step(*data[12 * rank : 12 * rank + 12], model=parallel))
            monitor.log_epoch(val_loss=1.0)
    torch.distributed.barrier()  # a rank that leaves early may bring the other one down
    torch.distributed.destroy_process_group()
    """
    command = [sys.executable, "-c", SETUP + textwrap.dedent(code), str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE) for rank in range(2)]
    errors = [process.communicate(timeout=240)[1].decode() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    found = tags(tmp_path / "run")
    expected = ("epoch_loss", "gradients/0/weight", "activations/0", "feature_maps/0")
    assert {tag: found.get(tag) for tag in expected} == dict.fromkeys(expected, [0, 1])
    assert len(list((tmp_path / "run" / "train").iterdir())) == 1
