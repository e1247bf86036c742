"""The command line as a program: how it starts, fails and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from handmade import scalar, write

from torchboard.cli import main

COMMANDS = ("ls", "show", "export", "compact", "doctor", "view")


def started(*words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "torchboard.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ls", "{}/nowhere"], "there is no such directory; give the directory"),
        (["ls", "{}/empty"], "no file in it or below is an event file; check the path."),
        (["ls", "{}", "more"], "ls … more: that is more than it takes; see 'torchboard ls --help'."),
        (["ls", "{}", "--tag", "nothing"], "no tag of any run fits; see what there is with 'torchboard ls"),
        (["show", "{}", "--tag", "nothing"], "no tag of any run fits; see what there is with 'torchboard ls"),
        (["show", "{}", "--smooth", "1"], "--smooth 1.0: a weight lies from 0 to below 1; give one such as 0.6."),
        (["show", "{}", "--width", "3"], "a chart has at least 24 characters a line"),
        (["export", "{}", "--tag", "notes"], "no tag of any run fits"),
        (["export", "{}", "--out", "{}/all.txt"], "the name tells no format; end it in .csv, .json or .parquet"),
        (["export", "{}", "--out", "{}/no/all.csv"], "the file cannot be written"),
        (["export", "{}", "--format", "parquet"], "its bytes are not for stdout; name a file with --out"),
        (["compact", "{}", "--output", "{}/below"], "it lies in the log, and TensorBoard would show every run twice"),
        (["compact", "{}", "--output", "{}/../full"], "it is there and not empty; give a new directory"),
        (["compact", "{}", "--time-slack", "-1"], "seconds are a number from 0 up"),
        (["view", "{}", "--port", "70000"], "a port is a number from 0 to 65535"),
    ],
)
def test_errors_come_as_three_parts_on_stderr_with_status_2(log, capsys, words, message):
    (log / "empty").mkdir()
    (log.parent / "full").mkdir()
    (log.parent / "full" / "thing").touch()
    before = sorted(log.rglob("*"))
    assert main([word.format(log) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("torchboard: ") and err.count("\n") == 1 and message in err
    assert sorted(log.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND; see 'torchboard --help'."),
        (["lst", "x"], "invalid choice: 'lst'"),
        (["show"], "the following arguments are required: LOG_DIR; see 'torchboard show --help'."),
        (["compact", "x", "--in-place", "--output", "y"], "argument --output: not allowed with argument --in-place"),
        (["show", "x", "--height", "a"], "argument --height: invalid int value: 'a'; see 'torchboard show --help'."),
    ],
)
def test_words_that_make_no_command_end_with_status_2_and_one_line(capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        main(words)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith("torchboard: the command line: ") and message in err
    assert err.count("\n") == 1


def test_the_module_is_the_command_and_lists_its_commands():
    running = started("--help")
    out, err = running.communicate()
    assert running.returncode == 0 and err == ""
    assert all(f"\n    {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"torchboard {command}" in capsys.readouterr().out


def test_commands_start_without_what_they_do_not_need(log):
    code = (
        "import sys; from torchboard.cli import main; status = main(sys.argv[1:])\n"
        "heavy = {'torch', 'tensorboard', 'matplotlib', 'PIL', 'pandas', 'pyarrow', 'tqdm'} & set(sys.modules)\n"
        "sys.exit(f'{heavy}' if heavy else status)"
    )
    for words in (["ls"], ["show", "--tag", "loss"], ["doctor"], ["export", "--out", os.devnull], ["compact"]):
        words = [*words, "--format", "csv"] if words[0] == "export" else words
        command = [sys.executable, "-c", code, words[0], str(log), *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), words


def test_ls_loads_less_than_every_command(log):
    code = "import sys; from torchboard.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "ls", str(log)], capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.startswith("torchboard.cli.")}
    assert ours == {f"torchboard.cli.{name}" for name in ("log", "ls", "progress", "terminal")}


@pytest.mark.parametrize("words", [["export"], ["ls"], ["show"]])
def test_a_closed_pipe_ends_the_command_quietly(tmp_path, words):
    write(tmp_path, [scalar(step, f"tag{step}") for step in range(3000)])
    running = started(*words, tmp_path)
    running.stdout.readline()
    running.stdout.close()
    assert running.stderr.read() == ""
    running.stderr.close()
    assert running.wait() == 0


def test_ctrl_c_ends_the_command_quietly_and_leaves_nothing_half_written(log):
    code = (
        "import signal, sys, torchboard.cli.export as export\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background programs deaf for it\n"
        "def wait(piece):\n"
        "    print('writing', flush=True)\n"
        "    signal.pause()\n"
        "export._rows = wait\n"
        "from torchboard.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "export", str(log), "--out", str(log / "all.csv")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "writing\n"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err) == (130, "", "")
    assert not list(log.glob("all*"))


def test_a_failing_file_is_an_error_in_three_parts(log, capsys, monkeypatch):
    monkeypatch.setattr("torchboard.cli.ls.load", lambda *_: (_ for _ in ()).throw(PermissionError(13, "denied")))
    assert main(["ls", str(log)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("torchboard: ls ") and "denied); see to it and try again." in err
