"""A signal that ends the process loses nothing, and nobody else's handler is touched."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from torchboard.sink import signals

SETUP = """
import os, signal, sys, threading, time
from torchboard.sink import signals

class Sink:
    lock = threading.Lock()

    def __init__(self, name):
        self.name = name

    def flush(self):
        with self.lock:
            os.write(1, self.name.encode())

def tell(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    time.sleep(20)
"""


def run(code, **options):
    """Exit status and output of a script about one sink ``a``; a hang is a failure."""
    command = [sys.executable, "-c", SETUP + textwrap.dedent(code)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, ended.stdout


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_nobody_handles_flushes_every_sink_and_then_ends_the_process(name):
    number = getattr(signal, name)
    status, output = run(f"a, b = Sink('a'), Sink('b'); signals.watch(a); signals.watch(b); tell(signal.{name})")
    assert status == -number and sorted(output) == ["a", "b"]


def test_sigint_is_pythons_own_business_unless_it_would_end_the_process():
    assert run("a = Sink('a'); signals.watch(a); print(signal.getsignal(signal.SIGINT).__name__)")[1] == (
        "default_int_handler\n"
    )
    code = "signal.signal(signal.SIGINT, signal.SIG_DFL); a = Sink('a'); signals.watch(a); tell(signal.SIGINT)"
    assert run(code) == (-signal.SIGINT, "a")


def test_a_signal_while_the_main_thread_holds_the_lock_that_the_flush_needs_does_not_hang():
    code = """
    a = Sink('a'); signals.watch(a)
    with Sink.lock:
        os.kill(os.getpid(), signal.SIGTERM)
        os.write(1, b'released ')
    time.sleep(20)
    """
    assert run(code) == (-signal.SIGTERM, "released a")


def test_two_signals_in_a_row_are_as_good_as_one():
    code = """
    class Slow(Sink):
        def flush(self):
            time.sleep(0.3)
            super().flush()
    a = Slow('a'); signals.watch(a)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    tell()
    """
    status, output = run(code)
    assert status == -signal.SIGTERM and "a" in output


@pytest.mark.parametrize("handler", ["lambda *_: sys.exit(7)", "signal.SIG_IGN"])
def test_a_handler_that_is_there_first_stays(handler):
    code = f"""
    mine = {handler}
    signal.signal(signal.SIGTERM, mine)
    a = Sink('a'); signals.watch(a)
    assert signal.getsignal(signal.SIGTERM) is mine
    signals.unwatch(a)
    assert signal.getsignal(signal.SIGTERM) is mine
    """
    assert run(code) == (0, "")


def test_a_handler_that_comes_later_wins_and_may_call_ours_which_then_only_flushes():
    code = """
    a = Sink('a'); signals.watch(a)
    before = signal.getsignal(signal.SIGTERM)
    def later(*arguments):
        before(*arguments)
        os.write(1, b' later')
        sys.exit(5)
    signal.signal(signal.SIGTERM, later)
    signals.unwatch(Sink('b'))
    assert signal.getsignal(signal.SIGTERM) is later
    tell()
    """
    assert run(code) == (5, "a later")


def test_the_handler_goes_with_the_last_sink():
    code = """
    a, b = Sink('a'), Sink('b')
    signals.watch(a); signals.watch(b); signals.unwatch(a)
    assert callable(signal.getsignal(signal.SIGTERM))
    signals.unwatch(b)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    """
    assert run(code) == (0, "")


def test_another_thread_sets_no_handler():
    before = signal.getsignal(signal.SIGTERM)
    sink = type("Sink", (), {"flush": lambda self: None})()
    thread = threading.Thread(target=signals.watch, args=(sink,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    signals.unwatch(sink)


def test_a_sink_that_fails_to_flush_does_not_keep_the_process():
    code = """
    class Broken(Sink):
        def flush(self):
            raise OSError(28, 'No space left on device')
    a, b = Broken('a'), Sink('b')
    signals.watch(a); signals.watch(b); tell()
    """
    assert run(code) == (-signal.SIGTERM, "b")


def test_a_forked_child_ends_as_if_there_were_no_sink():
    code = """
    a = Sink('a'); signals.watch(a)
    child = os.fork()
    if child == 0:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert callable(signal.getsignal(signal.SIGTERM))
    """
    assert run(code) == (0, "")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="handlers of C code cannot be seen here")
def test_a_handler_that_c_code_set_stays():
    code = """
    import ctypes
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: os._exit(9))
    ctypes.CDLL(None).signal(int(signal.SIGTERM), handler)
    a = Sink('a'); signals.watch(a); tell()
    """
    assert run(code) == (9, "")


def test_a_process_that_was_told_to_ignore_the_signal_goes_on():
    code = "a = Sink('a'); signals.watch(a); os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    assert run(code, preexec_fn=ignore) == (0, "goes on\n")
