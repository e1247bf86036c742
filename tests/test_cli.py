"""The command line, on logs that were really written."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from torchboard import Monitor, SummaryWriter, proto
from torchboard.cli import main
from torchboard.cli.chart import draw
from torchboard.eventfile.framing import frame
from torchboard.values import Event, Histogram, Scalar, Text, encode


@pytest.fixture
def log(tmp_path):
    """Two runs: scalars, one of them not finite, a text and a histogram."""
    for run, factor in (("train", 1.0), ("validation", 2.0)):
        with SummaryWriter(str(tmp_path / run)) as writer:
            for step in range(4):
                writer.add_scalar("loss", factor * step, step, walltime=100.0 + step)
            if run == "train":
                writer.add_scalar("odd", float("nan"), 0)
                writer.add_scalar("odd", float("-inf"), 1)
                writer.add_text("notes", "one *line*\nanother \x1b[31m", 7)
                writer.add_histogram("weights", np.arange(10.0), 1)
    return tmp_path


def events(directory, *pairs, name="1"):
    """A file with one value an event: (step, tag, value)."""
    messages = [
        message for step, tag, value in pairs for message in encode(Event(step, 1.0 + step / 10, ((tag, value),)))
    ]
    write(directory, messages, name)


def write(directory, messages, name="1"):
    directory.mkdir(parents=True, exist_ok=True)
    version = proto.Event(file_version="brain.Event:2")
    path = directory / f"events.out.tfevents.{name}"
    path.write_bytes(b"".join(frame(message.SerializeToString()) for message in [version, *messages]))
    return path


def test_ls_lists_runs_tags_kinds_points_and_steps(log, capsys):
    assert main(["ls", str(log)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:3] == ["train", "(1", "file,"] and rows[0][4] == "bytes)"
    assert ["loss", "scalars", "4", "0..3"] in rows
    assert ["notes", "text", "1", "7..7"] in rows
    assert ["weights", "histograms", "1", "1..1"] in rows
    assert [row[0] for row in rows if row and row[0] in ("train", "validation")] == ["train", "validation"]


def test_show_draws_scalars_and_prints_texts_without_their_escape_sequences(log, capsys):
    assert main(["show", str(log)]) == 0
    out = capsys.readouterr().out
    assert "train · loss\n4 points, steps 0 to 3, last 3 at step 3\n" in out
    assert "one *line*\nanother \N{REPLACEMENT CHARACTER}[31m\n" in out
    assert "1 point of histograms" in out and "no finite value" in out
    assert re.search(r"          3 ┤[\u2800-\u28ff]+[\u2801-\u28ff]\n", out)


def test_show_takes_globs_and_refuses_what_fits_nothing(log, capsys):
    assert main(["show", str(log), "--tag", "lo*", "--run", "val*"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "·" in line] == ["validation · loss"]
    assert main(["show", str(log), "--tag", "nothing"]) == 2
    assert "no tag of any run fits; see what there is with 'torchboard ls" in capsys.readouterr().err


def test_show_keeps_to_the_terminal(log, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    main(["show", str(log), "--tag", "loss"])
    assert max(map(len, capsys.readouterr().out.splitlines())) == 50


def test_a_chart_goes_from_corner_to_corner():
    lines = draw(np.arange(9), np.arange(9.0), 24, height=3, unicode=False)
    assert lines == [
        "          8 |       ****",
        "            |    ***    ",
        "          0 |****       ",
        "             0         8",
    ]


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0], [-1.7e308, 1.7e308], [np.nan, 1.0], list(range(100_000))])
def test_a_chart_draws_any_values(values):
    lines = draw(np.arange(len(values)), np.array(values, np.float64), 60)
    assert {len(line) for line in lines} == {60}
    assert any("\u2801" <= letter <= "\u28ff" for line in lines for letter in line)


def test_export_writes_tidy_csv_to_a_file_and_to_stdout(log, capsys):
    assert main(["export", str(log), "--out", str(log / "all.csv")]) == 0
    text = (log / "all.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 10
    assert rows[1] == {"run": "train", "tag": "loss", "step": "1", "wall_time": "101.0", "value": "1.0"}
    assert [row["value"] for row in rows if row["tag"] == "odd"] == ["nan", "-inf"]
    capsys.readouterr()
    assert main(["export", str(log), "--out", "-"]) == 0
    assert capsys.readouterr().out == text


def test_export_writes_json_that_any_parser_reads(log):
    assert main(["export", str(log), "--out", str(log / "all.json")]) == 0
    rows = json.loads((log / "all.json").read_text(), parse_constant=pytest.fail)
    assert rows[1] == {"run": "train", "tag": "loss", "step": 1, "wall_time": 101.0, "value": 1.0}
    assert [row["value"] for row in rows if row["tag"] == "odd"] == ["NaN", "-Infinity"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ls", "{}/nowhere"], "there is no such directory; give the directory"),
        (["ls", "{}/empty"], "no file in it or below is an event file; check the path."),
        (["export", "{}", "--out", "{}/all.txt"], "the name tells no format; end it in .csv or .json"),
        (["export", "{}", "--out", "{}/no/all.csv"], "the file cannot be written"),
    ],
)
def test_errors_come_as_three_parts_on_stderr_with_status_2(log, capsys, words, message):
    (log / "empty").mkdir()
    assert main([word.format(log) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("torchboard: ") and message in err


def test_the_doctor_finds_nothing_in_a_sound_log(log, capsys):
    assert main(["doctor", str(log)]) == 0
    assert capsys.readouterr().out == "nothing found\n"


def test_the_doctor_finds_nothing_in_the_log_of_a_monitor(tmp_path, capsys):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, tmp_path) as monitor:
        for _ in range(3):
            for _ in range(2):
                loss = model(torch.randn(5, 1, 4, 4)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                monitor.log_batch(loss=loss)
            monitor.log_epoch(val_loss=loss)
    assert main(["doctor", str(tmp_path)]) == 0, capsys.readouterr().out
    assert main(["show", str(tmp_path)]) == 0
    assert "train · epoch_loss\n3 points, steps 0 to 2" in capsys.readouterr().out


def doctor(directory, capsys):
    assert main(["doctor", str(directory)]) == 1
    return capsys.readouterr().out.splitlines()


def test_the_doctor_finds_steps_that_go_back(tmp_path, capsys):
    events(tmp_path / "a", *((step, "loss", Scalar(1.0)) for step in (0, 1, 2, 0, 1)))
    assert doctor(tmp_path, capsys) == [
        "a: tag 'loss' goes from step 2 to 0 (1 times in all): the default loader shows 2 of 5 points"
    ]


def test_the_doctor_finds_two_kinds_under_a_tag(tmp_path, capsys):
    events(tmp_path, (0, "x", Scalar(1.0)), (1, "x", Histogram(np.array([[0.0, 1.0, 2.0]]))))
    assert doctor(tmp_path, capsys) == [".: tag 'x' holds scalars and histograms: TensorBoard shows neither"]


def test_the_doctor_finds_files_written_at_the_same_time(tmp_path, capsys):
    events(tmp_path, *((step, "a", Scalar(1.0)) for step in range(30)), name="1")
    events(tmp_path, *((step, "b", Scalar(1.0)) for step in range(10, 50)), name="2")
    events(tmp_path, *((step, "c", Scalar(1.0)) for step in range(49, 60)), name="3")
    (line,) = doctor(tmp_path, capsys)
    assert "tfevents.1 and events.out.tfevents.2 were written at the same time, for 2 s" in line


def test_the_doctor_finds_torn_and_corrupt_records(tmp_path, capsys):
    torn, corrupt = (write(tmp_path / name, encode(Event(1, 1.0, (("x", Scalar(1.0)),)))) for name in "ab")
    torn.write_bytes(torn.read_bytes()[:-3])
    data = bytearray(corrupt.read_bytes())
    data[-6] ^= 1
    corrupt.write_bytes(data)
    first, second = doctor(tmp_path, capsys)
    assert re.fullmatch(r"a: events.out.tfevents.1: record at byte \d+: the file ends within it: .*", first)
    assert re.fullmatch(r"b: .*: record at byte \d+: the checksum of its data does not fit", second)


def test_the_doctor_finds_a_directory_that_looks_like_a_file(tmp_path, capsys):
    events(tmp_path / "my.tfevents.run", (0, "x", Scalar(1.0)))
    (line,) = doctor(tmp_path, capsys)
    assert "the directory's own name contains 'tfevents'" in line


def test_the_doctor_finds_tags_that_are_sampled(tmp_path, capsys):
    events(
        tmp_path, *((step, "x", Scalar(1.0)) for step in range(1001)), *((step, "t", Text("")) for step in range(11))
    )
    lines = doctor(tmp_path, capsys)
    assert [line.split(": TensorBoard")[0] for line in lines] == [
        ".: tag 'x' has 1001 points of scalars",
        ".: tag 't' has 11 points of text",
    ]


def test_the_doctor_finds_scalars_that_are_not_float32(tmp_path, capsys):
    message = proto.Event(step=1)
    value = message.summary.value.add(tag="x")
    value.metadata.plugin_data.plugin_name = "scalars"
    value.tensor.dtype = proto.DataType["DT_DOUBLE"].number
    value.tensor.double_val.append(1.0)
    write(tmp_path, [message])
    assert doctor(tmp_path, capsys) == [
        ".: scalar 'x' is written as DT_DOUBLE: the default loader shows DT_FLOAT of rank 0 only"
    ]


def test_the_doctor_finds_values_without_a_plugin_and_wall_times_that_are_none(tmp_path, capsys):
    message = proto.Event(step=1)
    message.summary.value.add(tag="x", tensor=proto.TensorProto(dtype=1))
    late = proto.Event(step=2, wall_time=float("nan"))
    late.summary.value.add(tag="y", simple_value=1.0)
    write(tmp_path, [message, late])
    lines = doctor(tmp_path, capsys)
    assert [line.split(":")[1] for line in lines] == [
        " tag 'x' names no plugin",
        " tag 'y' has a wall time that is not finite at step 2",
    ]


def test_view_starts_tensorboard_with_room_for_more_points(log, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "call", lambda command: started.append(command) or 0)
    assert main(["view", str(log), "--port", "6007"]) == 0
    (command,) = started
    assert command[:5] == [sys.executable, "-m", "tensorboard.main", "--logdir", str(log)]
    assert command[5] == "--samples_per_plugin" and command[6].startswith("scalars=5000,images=100,histograms=500")
    assert command[7:] == ["--port", "6007"]


def test_what_view_starts_is_understood_by_tensorboard(log, capfd):
    assert main(["view", str(log), "--inspect", "--tag", "loss"]) == 0
    assert "Event statistics" in capfd.readouterr().out


def test_view_without_tensorboard_says_how_to_get_it(log, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["view", str(log)]) == 2
    assert "TensorBoard is not installed; run 'pip install tensorboard'." in capsys.readouterr().err


def test_the_command_starts_without_torch(log):
    code = (
        "import sys; from torchboard.cli import main; status = main(sys.argv[1:])\n"
        "heavy = {'torch', 'matplotlib', 'PIL', 'tensorboard'} & set(sys.modules); sys.exit(f'{heavy}' if heavy else status)"
    )
    for command in (["ls"], ["show", "--tag", "loss"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-c", code, command[0], str(log), *command[1:]], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "torchboard.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert all(name in done.stdout for name in ("ls", "show", "export", "doctor", "view"))


def test_a_closed_pipe_ends_the_command_quietly(log):
    command = [sys.executable, "-m", "torchboard.cli", "export", str(log), "--out", "-"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait() == 0
