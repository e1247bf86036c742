"""Forked and spawned children of a process that logs: they neither hang nor write what the parent has in its queue."""

from __future__ import annotations

import os
import signal

import pytest
from in_trouble import files, finish, run, start, steps, steps_for_tensorboard

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def children(directory, kind="fork"):
    """The runs that children made, in the order of their steps."""
    return sorted((path for path in directory.iterdir() if path.name.startswith(f"{kind}-")), key=steps)


@pytest.mark.parametrize("ending", ["sys.exit(0)", "raise SystemExit(0)", "writer.close(); os._exit(0)"])
def test_a_forked_child_logs_to_a_run_of_its_own_and_the_parent_goes_on(tmp_path, ending):
    code = f"""
    writer = SummaryWriter(log_dir)
    log(300)
    child = os.fork()
    if child == 0:
        log(20); log(10, tag="of the child")
        {ending}
    assert os.waitpid(child, 0)[1] == 0
    log(300, 300)
    print(child)
    """
    result = run(code, tmp_path)
    assert steps(tmp_path) == list(range(600)) == steps_for_tensorboard(tmp_path) and len(files(tmp_path)) == 1
    (child,) = children(tmp_path)
    assert child.name == f"fork-{result.stdout.strip()}"
    assert steps(child) == list(range(20)) == steps_for_tensorboard(child)
    assert steps(child, "of the child") == list(range(10))
    assert result.stderr == ""


def test_a_child_that_logs_nothing_leaves_no_trace(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    log(300)
    child = os.fork()
    if child == 0:
        writer.flush()
        assert threading.active_count() == 1
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    log(300, 300)
    """
    run(code, tmp_path)
    assert steps(tmp_path) == list(range(600)) and children(tmp_path) == []


def test_forks_at_any_moment_of_a_busy_writer_lose_and_repeat_nothing(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    busy = threading.Thread(target=log, args=(20_000,))
    busy.start()
    for number in range(12):
        child = os.fork()
        if child == 0:
            log(50, number * 50, "child")
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
    busy.join()
    """
    run(code, tmp_path)
    assert steps(tmp_path) == list(range(20_000)) == steps_for_tensorboard(tmp_path)
    found = sorted(step for child in children(tmp_path) for step in steps(child, "child"))
    assert found == list(range(600)) and len(children(tmp_path)) == 12


def test_a_child_of_a_child_has_a_run_beside_it(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    for generation in range(3):
        log(10, 10 * generation)
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            break
    """
    run(code, tmp_path)
    assert steps(tmp_path) == list(range(10))
    assert [steps(child) for child in children(tmp_path)] == [list(range(10, 20)), list(range(20, 30))]


def test_other_runs_and_files_of_a_child_are_its_own_too(tmp_path):
    code = """
    import numpy as np
    writer = SummaryWriter(log_dir)
    writer.add_scalars("both", {"a": 0.0}, 0); writer.add_embedding(np.eye(3), tag="first")
    child = os.fork()
    if child == 0:
        writer.add_scalars("both", {"a": 0.0}, 0); writer.add_embedding(np.eye(3), tag="second")
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """
    run(code, tmp_path)
    (child,) = children(tmp_path)
    (chart,) = children(tmp_path / "both_a")
    assert steps(tmp_path / "both_a", "both") == steps(chart, "both") == [0]
    assert "second" not in (tmp_path / "projector_config.pbtxt").read_text()
    assert "first" not in (child / "projector_config.pbtxt").read_text()


def test_a_child_with_a_new_writer_on_the_same_directory_has_a_run_of_its_own(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    log(10)
    if os.fork() == 0:
        writer = SummaryWriter(log_dir)
        log(20)
        writer.close()
        os._exit(0)
    os.wait()
    """
    run(code, tmp_path)
    (child,) = children(tmp_path)
    assert steps(tmp_path) == list(range(10)) and steps(child) == list(range(20))


def test_workers_of_a_data_loader_may_log(tmp_path):
    code = """
    from torch.utils.data import DataLoader
    class Items:
        def __len__(self): return 64
        def __getitem__(self, item):
            writer.add_scalar("item", float(item), item)
            return item
    writer = SummaryWriter(log_dir)
    for epoch in range(2):
        for batch in DataLoader(Items(), batch_size=4, num_workers=2):
            writer.add_scalar("loss", float(16 * epoch + int(batch[0]) // 4), 16 * epoch + int(batch[0]) // 4)
    """
    result = run(code, tmp_path)
    assert steps(tmp_path) == list(range(32))
    assert len(children(tmp_path)) == 4
    found = sorted(step for child in children(tmp_path) for step in steps(child, "item"))
    assert found == sorted(2 * list(range(64)))
    assert "torchboard" not in result.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_lose_nothing_whatever_way_they_start(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import multiprocessing, sys
from torchboard import SummaryWriter

def work(writer, first):
    for step in range(first, first + 50):
        writer.add_scalar("loss", float(step), step)

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    writer = SummaryWriter(sys.argv[1])
    work(writer, 1000)
    processes = [context.Process(target=work, args=(writer, first)) for first in (0, 50)]
    for process in processes: process.start()
    for process in processes: process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    work(writer, 1050)
"""
    )
    log_dir = tmp_path / "log"
    result = run(
        "import runpy; sys.argv[:2] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')", script, log_dir
    )
    assert steps(log_dir) == list(range(1000, 1100))
    found = children(log_dir, "fork" if method == "fork" else "spawn")
    assert [steps(child) for child in found] == [list(range(50)), list(range(50, 100))]
    assert result.stderr == ""


def test_a_writer_that_travels_and_logs_nothing_leaves_no_trace(tmp_path):
    code = """
    import pickle
    if len(sys.argv) == 2:
        import subprocess
        writer = SummaryWriter(log_dir)
        log(10)
        copy = pickle.loads(pickle.dumps(writer))
        copy.add_scalar("copied", 0.0, 0)
        with open(log_dir + "/pickled", "wb") as file:
            pickle.dump(writer, file)
    else:
        with open(log_dir + "/pickled", "rb") as file:
            writer = pickle.load(file)
        if sys.argv[2] == "log":
            log(5)
    """
    run(code, tmp_path)
    assert steps(tmp_path, "copied") == [0] and len(files(tmp_path)) == 1
    run(code, tmp_path, "nothing")
    assert children(tmp_path, "spawn") == []
    run(code, tmp_path, "log")
    (child,) = children(tmp_path, "spawn")
    assert steps(child) == list(range(5))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_that_ends_the_process_loses_nothing(tmp_path, name):
    number = getattr(signal, name)
    code = f"writer = SummaryWriter(log_dir); log(300); os.kill(os.getpid(), {int(number)}); time.sleep(20)"
    result = run(code, tmp_path, check=False)
    assert result.returncode == -number
    assert steps(tmp_path) == list(range(300))


def test_a_signal_in_the_middle_of_everything_loses_nothing_that_came_before_it(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    step = 0
    print("ready", flush=True)
    while True:
        for tag in ("loss", "other"):
            writer.add_scalar(tag, float(step), step)
        os.write(3, b".") if step % 1000 == 999 else None
        step += 1
    """
    for attempt in range(3):
        directory = tmp_path / str(attempt)
        process = start(
            "os.dup2(2, 3)\n" + "\n".join(line.removeprefix("    ") for line in code.splitlines()), directory
        )
        assert process.stdout.readline() == "ready\n"
        process.stderr.read(5 * (attempt + 1))
        process.terminate()
        ended = finish(process, check=False)
        assert ended.returncode == -signal.SIGTERM
        kept = steps(directory)
        assert kept == list(range(len(kept)))
        assert len(kept) >= 1000 * (5 * (attempt + 1) + ended.stderr.count("."))


def test_a_child_that_is_terminated_has_its_log_flushed(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    log(10)
    child = os.fork()
    if child == 0:
        log(500)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
    """
    run(code, tmp_path)
    (child,) = children(tmp_path)
    assert steps(child) == list(range(500))


def test_a_child_neither_frees_nor_keeps_the_directory_of_its_parent(tmp_path):
    code = """
    writer = SummaryWriter(log_dir)
    log(10); writer.flush()
    if os.fork() == 0:
        log(5); writer.flush()
        print("child", flush=True)
        sys.stdin.read()
        os._exit(0)
    sys.stdin.read()
    """
    parent = start(code, tmp_path)
    assert parent.stdout.readline() == "child\n"
    try:
        refused = run("SummaryWriter(log_dir)", tmp_path, check=False)
        assert "RunInUseError" in refused.stderr
        parent.kill()
        parent.wait()
        run("writer = SummaryWriter(log_dir, purge_step=10); log(10, 10)", tmp_path)
    finally:
        (child,) = children(tmp_path)
        os.kill(int(child.name.removeprefix("fork-")), signal.SIGKILL)
        finish(parent, check=False)
    assert steps(tmp_path) == list(range(20)) and steps(child) == list(range(5))
