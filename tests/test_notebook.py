"""TensorBoard in a notebook: the example, executed, and what is said where there is none."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from torch import nn

import torchboard
from torchboard import MemorySink, Monitor, notebook, read
from torchboard.errors import InvalidValueError, TorchboardError, TorchboardWarning

ROOT = Path(torchboard.__file__).parents[1]
SHOWN = "from tensorboard import manager; [board.logdir for board in manager.get_all()]"
"""What TensorBoard knows of its own servers."""
EXAMPLE = ROOT / "examples" / "notebook.ipynb"


@pytest.fixture
def no_board_stays(tmp_path, monkeypatch):
    """Ends what TensorBoard a notebook leaves behind: where it notes its servers there are no others than those."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield
    for path in (tmp_path / ".tensorboard-info").glob("*.info"):
        with suppress(ProcessLookupError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGTERM)


def executed(path, folder, more):
    """The cells of a notebook, and one more, with their outputs; run in a folder of their own."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = nbformat.read(path, as_version=4)
    cells.cells.append(nbformat.v4.new_code_cell(more))
    nbclient.NotebookClient(cells, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in cells.cells if cell.cell_type == "code"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_example_trains_and_shows_tensorboard_below_its_cell(tmp_path, monkeypatch, no_board_stays):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    work = tmp_path / "work"
    work.mkdir()
    *cells, boards = executed(EXAMPLE, work, SHOWN)
    (shown,) = [cell for cell in cells if "monitor.show()" in cell.source]
    assert any("tensorboard-frame" in output.get("data", {}).get("text/html", "") for output in shown.outputs)
    assert [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"] == []
    log = read(work / "runs" / "notebook")
    assert log.scalars("predictions/accuracy", "validation").values[-1] > 0.8
    assert (work / "runs" / "notebook" / "train" / "projector_config.pbtxt").exists()
    assert boards.outputs[0]["data"]["text/plain"] == str([str(work / "runs" / "notebook")])
    assert len(cells[-1].outputs) == 1


def test_the_example_is_kept_without_outputs():
    cells = [cell for cell in json.loads(EXAMPLE.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_outside_a_notebook_it_says_how_to_look_and_training_goes_on(tmp_path):
    with Monitor(nn.Linear(1, 1), tmp_path / "a log") as monitor:
        command = f"torchboard view {shlex.quote(str(tmp_path / 'a log'))}"
        with pytest.warns(TorchboardWarning, match=f"show\\(\\) is for notebooks; to look at the log run .{command}."):
            monitor.show()
        monitor.log_epoch(loss=1.0)
    with pytest.warns(TorchboardWarning, match="torchboard view runs"):
        notebook.show("runs")


def test_a_shell_in_a_terminal_is_no_notebook(monkeypatch):
    class IPython:
        @staticmethod
        def get_ipython():
            return object()

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    with pytest.warns(TorchboardWarning, match="for notebooks"):
        notebook.show("runs")


def test_what_cannot_be_shown_is_refused(tmp_path, monkeypatch):
    with Monitor(nn.Linear(1, 1), sink=MemorySink()) as monitor:
        with pytest.raises(
            InvalidValueError, match=r"on a MemorySink: there is no directory .* give the monitor a log_dir"
        ):
            monitor.show()
    with pytest.raises(InvalidValueError, match="log_dir of type int: it is no path"):
        notebook.show(3)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TorchboardError, match="TensorBoard is not installed; run 'pip install tensorboard'"):
        notebook.show("runs")


def test_the_flags_are_those_of_the_command_line():
    assert notebook.flags("a b")[:2] == ["--logdir", "a b"]
    assert "scalars=10000" in notebook.flags("a b")[3]
