"""The short way into the queue gives up nothing that the long way promises."""

from __future__ import annotations

import errno
import math
import threading

import pytest
from gate import Gate
from serving import until

from torchboard import SummaryWriter, read
from torchboard.errors import ClosedError, InvalidValueError, SinkError, TagError, TorchboardWarning
from torchboard.run import Run
from torchboard.sink import asynchronous
from torchboard.sink.asynchronous import AsyncSink
from torchboard.sink.lane import LIMIT
from torchboard.values import Event
from torchboard.values.points import POINT


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def sink(gate, monkeypatch):
    """Its thread never sleeps for long, for that closes the lane, and a test may be held up at any point."""
    monkeypatch.setattr(asynchronous, "_IDLE_TICKS", math.inf)
    sink = AsyncSink(gate)
    yield sink
    gate.failure = None
    gate.open.set()
    sink.close()


@pytest.fixture
def writer(sink):
    """Its first scalar has gone the long way, and the lane is open."""
    writer = SummaryWriter.on_run(Run(sink, "train"), lambda: 0)
    writer.add_scalar("loss", 0.0, 0)
    sink.flush()
    opened(sink)
    return writer


def opened(sink):
    """Waits until the thread has opened the lane."""
    until(lambda: sink.lane.limit)


def steps(gate, tag="loss"):
    return [step for step, _ in gate.series(tag)]


def in_lane(writer, sink, step, tag="loss"):
    """Logs a scalar and says whether it went the short way."""
    before = sink._queued_bytes
    writer.add_scalar(tag, float(step), step)
    return sink._queued_bytes == before


def test_a_known_curve_takes_the_lane_and_others_do_not(writer, sink, gate):
    gate.open.clear()
    assert in_lane(writer, sink, 1)
    assert not in_lane(writer, sink, 1, "other")
    writer.add_scalar("loss", 3, 3)
    gate.open.set()
    sink.flush()
    assert steps(gate) == [0, 1, 3] and steps(gate, "other") == [1]


def test_points_and_events_keep_their_order(writer, sink, gate):
    for step in range(1, 400):
        if step % 7:
            writer.add_scalar("loss", float(step), step)
        else:
            sink.write(Event(step, 1.0, gate.events[0].pairs, "train"))
    sink.flush()
    assert steps(gate) == list(range(400))


def test_a_flood_loses_nothing(writer, sink, gate):
    for step in range(1, 6 * LIMIT):
        writer.add_scalar("loss", 0.5, step)
    sink.flush()
    assert steps(gate) == list(range(6 * LIMIT))


def test_the_lane_holds_so_much_and_no_more(writer, sink, gate):
    gate.open.clear()
    writer.add_scalar("loss", 0.5, 1)
    until(lambda: sink._in_hand)  # the thread stands at the gate, and takes nothing more
    assert [in_lane(writer, sink, step) for step in range(2, LIMIT + 12)] == [True] * LIMIT + [False] * 10
    gate.open.set()
    sink.flush()
    assert steps(gate) == list(range(LIMIT + 12))


def test_while_writing_fails_the_lane_is_closed_and_nothing_is_lost_when_it_works_again(writer, sink, gate, recwarn):
    gate.failure = OSError(errno.ENOSPC, "No space left on device")
    for step in range(1, 200):
        writer.add_scalar("loss", 0.5, step)
    sink.flush()
    until(lambda: sink.lane.limit == 0)
    gate.failure = None
    for step in range(200, 400):
        writer.add_scalar("loss", 0.5, step)
    opened(sink)
    sink.flush()
    assert steps(gate) == list(range(400)) and sink.dropped == 0
    assert [str(warning.message).count("No space left") for warning in recwarn] == [1]


def test_a_fault_behind_points_reaches_the_next_scalar(writer, sink, gate):
    gate.failure = ValueError("broken")
    writer.add_scalar("loss", 1.0, 1)
    until(lambda: sink.lane.limit == 0)
    with pytest.raises(SinkError, match="broken"):
        writer.add_scalar("loss", 1.0, 2)
    gate.failure = None
    sink.flush()
    assert sink.dropped == 1
    with pytest.warns(TorchboardWarning, match="are lost"):
        sink.close()


def test_a_defect_behind_points_is_told_and_what_is_queued_behind_them_is_done(writer, sink, gate, monkeypatch):
    gate.open.clear()
    writer.add_scalar("other", 1.0, 1)  # the long way, and it waits for the gate
    until(lambda: not sink._queue)
    monkeypatch.setattr(sink, "_deliver_points", lambda points: 1 / 0)
    sink._queue.append(bytes(POINT.itemsize))  # both are taken together when the gate opens
    told = []
    flushing = threading.Thread(target=lambda: told.append(caught(sink.flush)), daemon=True)
    flushing.start()
    until(lambda: len(sink._queue) == 2)
    gate.open.set()
    flushing.join(60)
    assert "division" in told[0]


def caught(call):
    with pytest.raises(SinkError) as error:
        call()
    return str(error.value)


def test_after_close_a_scalar_is_refused(writer, sink):
    sink.close()
    with pytest.raises(ClosedError):
        writer.add_scalar("loss", 1.0, 1)


def test_steps_that_go_back_and_steps_beyond_64_bits_leave_the_lane(writer, sink, gate):
    writer.add_scalar("loss", 1.0, 5)
    with pytest.warns(TorchboardWarning, match="from step 5 to 4"):
        writer.add_scalar("loss", 1.0, 4)
    with pytest.raises(InvalidValueError, match="64 bits"):
        writer.add_scalar("loss", 1.0, 2**63)
    writer.add_scalar("loss", 1.0, 6)
    sink.flush()
    assert steps(gate) == [0, 5, 4, 6]


def test_another_kind_under_the_tag_is_still_refused(writer, sink, gate):
    writer.add_scalar("loss", 1.0, 1)
    with pytest.raises(TagError):
        writer.add_tensor("loss", [2.0], 2)
    with pytest.raises(TagError):
        writer.add_scalar(["loss"], 1.0, 2)


def test_many_threads_may_take_the_lane(sink, gate):
    def log(number):
        writer = SummaryWriter.on_run(Run(sink, "train"), lambda: 0)
        for step in range(1, 3000):
            writer.add_scalar(f"loss/{number}", 0.5, step)

    threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.flush()
    assert [steps(gate, f"loss/{number}") for number in range(4)] == [list(range(1, 3000))] * 4


def test_on_disk_the_curves_of_two_runs_are_whole(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        run = writer._run.sub("below")
        other = SummaryWriter.on_run(run, lambda: 0)
        for step in range(1000):
            writer.add_scalar("loss", step / 2, step, **({"walltime": 5.0} if step % 100 == 0 else {}))
            other.add_scalar("loss", -float(step), step)
            other.add_scalar("long" * 100, 1.0, step)
    log = read(tmp_path)
    assert log.scalars("loss", run=".").values.tolist() == [step / 2 for step in range(1000)]
    assert log.scalars("loss", run="below").values.tolist() == [-step for step in range(1000)]
    assert len(log.scalars("long" * 100)) == 1000
    assert not log.problems


def test_a_tensor_on_the_host_takes_the_lane(writer, sink, gate):
    import numpy as np
    import torch

    gate.open.clear()
    for step, number in enumerate((torch.tensor(0.5), torch.tensor([2], dtype=torch.bfloat16), np.float32(3), 4), 1):
        before = sink._queued_bytes
        writer.add_scalar("loss", number, step)
        assert sink._queued_bytes == before
    gate.open.set()
    sink.flush()
    assert [value.value for _, value in gate.series("loss")] == [0.0, 0.5, 2.0, 3.0, 4.0]


def test_a_dict_of_metrics_is_one_event_and_keeps_the_rules_of_tags(writer, sink, gate):
    import torch

    writer.log({"loss": 0.5, "accuracy": torch.tensor(0.25)}, 1)
    writer.log({"loss": 1.5, "accuracy": 0.75}, 2)
    with pytest.warns(TorchboardWarning, match="from step 2 to 1"):
        writer.log({"loss": 1.0, "accuracy": 0.5}, 1)
    with pytest.warns(TorchboardWarning, match="'other' went from"):
        writer.log({"other": 1.0}, 5)
        writer.log({"other": 1.0}, 5)
    with pytest.raises(InvalidValueError, match="accuracy"):
        writer.log({"loss": 1.0, "accuracy": "high"}, 3)
    with pytest.raises(TagError):
        writer.log({"": 1.0}, 3)
    with pytest.raises(InvalidValueError, match="dict of numbers"):
        writer.log([("loss", 1.0)], 3)
    writer.add_text("words", "text", 0)
    with pytest.raises(TagError, match="already holds"):
        writer.log({"words/text_summary": 1.0}, 3)
    writer.log({}, 9)
    sink.flush()
    assert steps(gate, "accuracy") == [1, 2, 1] and steps(gate) == [0, 1, 2, 1]
    assert len(gate.events) == 7
