"""TensorBoard's profiler plugin, xprof, shows what a monitor profiled.

The plugin need not be where the tests run: TORCHBOARD_XPROF_PYTHON may name another Python that has it and TensorBoard.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from serving import tensorboard, until
from torch import nn

from torchboard import Monitor
from torchboard.profile.trace import read_trace
from torchboard.profile.xspace import xspace

sys.path.append(str(Path(__file__).parents[1] / "profile"))
from traces import LAYERS, ON_A_GPU  # noqa: E402

PYTHON = os.environ.get("TORCHBOARD_XPROF_PYTHON", sys.executable)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    if subprocess.run([PYTHON, "-c", "import xprof, tensorboard"], capture_output=True).returncode:
        pytest.skip("xprof is not installed")
    log_dir = tmp_path_factory.mktemp("log")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    optimizer = torch.optim.Adam(model.parameters())
    with Monitor(model, log_dir / "cpu", profile_batch=(2, 3), histogram_freq=0, feature_maps=False) as monitor:
        for _ in range(4):
            loss = model(torch.randn(8, 1, 8, 8)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.log_batch(loss=loss)
    by_hand = log_dir / "gpu" / "plugins" / "profile" / "now"
    by_hand.mkdir(parents=True)
    (by_hand / "here.xplane.pb").write_bytes(xspace(read_trace(ON_A_GPU, LAYERS), "here"))
    with tensorboard(log_dir, "default", tmp_path_factory.mktemp("board") / "output.txt", PYTHON) as board:
        until(lambda: board.get("plugins_listing")["profile"]["enabled"])
        yield board


def ask(board, page, **query):
    """What the plugin answers; it compresses whatever it is asked for."""
    _, body = board.fetch(f"plugin/profile/{page}", **query)
    return json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)


def tool(board, run, name):
    ((host),) = ask(board, "hosts", run=run, tag=name)
    return ask(board, "data", run=run, tag=name, host=host["hostname"])


def rows(table):
    """The rows of one of the plugin's tables, as column -> value."""
    columns = [column["id"] for column in table["cols"]]
    return [dict(zip(columns, (cell["v"] for cell in row["c"]))) for row in table["rows"]]


@pytest.fixture(scope="module")
def run(board):
    runs = until(lambda: ask(board, "runs"), lambda found: len(found) == 2)
    (run,) = [name for name in runs if name.startswith("cpu/train/")]
    return run


def test_the_tools_for_a_host_are_offered(board, run):
    tools = until(lambda: ask(board, "run_tools", run=run))
    wanted = {"overview_page", "trace_viewer@", "memory_profile", "framework_op_stats", "input_pipeline_analyzer"}
    assert wanted <= set(tools)


def test_the_trace_holds_the_batches_the_layers_and_the_operators(board, run):
    names = [event["name"] for event in tool(board, run, "trace_viewer@")["traceEvents"]]
    assert names.count("train 2") == names.count("train 3") == 1
    assert names.count("0 (Conv2d)") == names.count("aten::conv2d") == names.count("Sequential") == 2
    assert names.count("ConvolutionBackward0") == 2


def test_operators_are_told_apart_by_layer_and_direction(board, run):
    found = {row["operation"]: row["occurrences"] for row in rows(tool(board, run, "framework_op_stats")[0])}
    assert found["0/conv2d"] == found["3/addmm"] == found["backward/0/convolution_backward"] == 2


def test_each_batch_is_a_step_that_took_time(board, run):
    steps = rows(tool(board, run, "input_pipeline_analyzer")[1])
    assert [step["stepnum"] for step in steps] == ["train 2", "train 3"]
    assert all(0 < step["hostComputeTimeMs"] <= step["stepTimeMs"] for step in steps)
    text = json.dumps(tool(board, run, "overview_page"))
    assert '"host_compute_time_ms_avg": "0.0"' not in text and "host_compute_time_ms_avg" in text


def test_memory_is_shown_over_time_with_what_took_it(board, run):
    (profile,) = tool(board, run, "memory_profile")["memoryProfilePerAllocator"].items()
    assert profile[0] == "cpu" and int(profile[1]["profileSummary"]["peakStats"]["peakBytesInUse"]) > 1000
    operators = {shot["activityMetadata"]["tfOpName"] for shot in profile[1]["memoryProfileSnapshots"]}
    assert {name.partition("/")[0] for name in operators} <= {"memory", ""} and len(operators) > 2


def test_kernels_of_a_gpu_are_listed_with_their_layers(board):
    run = "gpu/now"
    assert "kernel_stats" in until(lambda: ask(board, "run_tools", run=run))
    kernels = {row["kernel_name"]: row for row in rows(tool(board, run, "kernel_stats"))}
    assert kernels["sm90_conv"]["block_dim"] == "256,1,1" and kernels["sm90_conv"]["op_name"] == "conv1/conv2d"
    device = [row for row in rows(tool(board, run, "framework_op_stats")[0]) if row["host_or_device"] == "Device"]
    assert "backward/conv1/ConvBackward0" in {row["operation"] for row in device}


def test_it_does_not_complain(board, run):
    assert [line for line in board.complaints() if "xplane" not in line] == []
