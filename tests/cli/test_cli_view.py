"""TensorBoard started from the command line."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from urllib.request import ProxyHandler, build_opener

from serving import until

from torchboard.cli import main, view


def test_tensorboard_starts_with_room_for_more_points_and_every_other_option(log, monkeypatch):
    started = []

    class Process:
        def __init__(self, command):
            started.append(command)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self, timeout):
            return 3

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert main(["view", str(log), "--port", "0", "--bind_all", "--reload_interval", "1"]) == 3
    (command,) = started
    assert command[:5] == [sys.executable, "-m", "tensorboard.main", "--logdir", str(log)]
    assert command[5] == "--samples_per_plugin" and command[6].startswith("scalars=10000,images=1000,histograms=1000,")
    assert command[7:] == ["--port", "0", "--bind_all", "--reload_interval", "1"]


def test_ctrl_c_of_this_process_alone_ends_tensorboard_too(monkeypatch):
    monkeypatch.setattr(view, "_PATIENCE", 0.1)
    waited = []

    def interrupted(process, timeout):
        waited.append(timeout)
        if len(waited) == 1:
            raise KeyboardInterrupt
        return wait(process, timeout)

    wait = subprocess.Popen.wait
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess.Popen, "wait", interrupted)
            assert view._status(process) == 128 + signal.SIGTERM
    assert waited == [None, 0.1, None]


def test_options_are_understood_by_tensorboard(log, capfd):
    assert main(["view", str(log), "--inspect", "--tag", "loss"]) == 0
    assert "Event statistics" in capfd.readouterr().out


def test_without_tensorboard_it_says_how_to_get_it(log, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["view", str(log)]) == 2
    assert "TensorBoard is not installed; run 'pip install tensorboard'." in capsys.readouterr().err


def test_a_port_that_is_taken_is_passed_over_and_sigterm_ends_tensorboard(log):
    opener = build_opener(ProxyHandler({}))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "torchboard.cli", "view", str(log), "--port", str(port)]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = running.stderr.readline()
        assert said.startswith(f"torchboard: port {port} is taken; using "), said
        url = f"http://127.0.0.1:{int(said.split()[-1])}/data/environment"
        try:
            answer = until(lambda: json.loads(opener.open(url, timeout=60).read()))
            assert answer["data_location"] == str(log)
        finally:
            running.send_signal(signal.SIGTERM)
            running.stderr.read()
            running.stderr.close()
            running.wait(30)
    try:
        opener.open(url, timeout=5)
    except OSError:
        return
    raise AssertionError("TensorBoard still answers")
