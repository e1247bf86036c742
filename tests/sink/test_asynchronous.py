"""The queue keeps its three promises: order, flush, errors."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import warnings

import pytest
from gate import Gate
from serving import until

from torchboard.errors import ClosedError, InvalidValueError, SinkError, TorchboardWarning
from torchboard.sink import asynchronous
from torchboard.sink.asynchronous import DROPPED_TAG, AsyncSink
from torchboard.sink.memory import MemorySink
from torchboard.values import Event, Scalar


def event(step, droppable=False):
    return Event(step, 1.0, (("loss", Scalar(float(step))),), "train", (), droppable)


def written(sink):
    return [event.step for event in sink.events if event.pairs[0][0] == "loss"]


def test_events_arrive_in_order_and_flush_waits_for_all_before_it():
    gate = Gate()
    sink = AsyncSink(gate)
    for step in range(1000):
        sink.write(event(step))
    sink.flush()
    assert written(gate) == list(range(1000)) and gate.flushed == 1
    sink.close()
    assert gate.closed == 1


def test_many_threads_may_write_and_nothing_is_lost():
    gate = Gate()
    sink = AsyncSink(gate)
    threads = [
        threading.Thread(target=lambda base=base: [sink.write(event(base + i)) for i in range(200)])
        for base in range(0, 1000, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    assert sorted(written(gate)) == list(range(1000))


def test_an_idle_sink_wakes_up_for_a_write(monkeypatch):
    monkeypatch.setattr(asynchronous, "_NAP", 1000.0)
    gate = Gate()
    sink = AsyncSink(gate)
    sink.write(event(1))
    until(lambda: sink._parked)
    sink.write(event(2))
    until(lambda: written(gate) == [1, 2])
    sink.close()


def test_a_full_queue_drops_what_may_be_dropped_and_counts_it():
    gate = Gate()
    sink = AsyncSink(gate, max_bytes=3 * event(0).nbytes)
    gate.open.clear()
    for step in range(10):
        sink.write(event(step, droppable=True))
    assert 5 <= sink.dropped <= 7
    gate.open.set()
    with pytest.warns(TorchboardWarning, match="are lost"):
        sink.close()
    assert len(written(gate)) + sink.dropped == 10
    assert [value.value for _, value in gate.series(DROPPED_TAG)][-1] == sink.dropped


def test_a_full_queue_makes_scalars_wait_for_room():
    gate = Gate()
    sink = AsyncSink(gate, max_bytes=2 * event(0).nbytes)
    gate.open.clear()
    writer = threading.Thread(target=lambda: [sink.write(event(step)) for step in range(10)])
    writer.start()
    writer.join(0.2)
    assert writer.is_alive() and sink.dropped == 0
    gate.open.set()
    writer.join()
    sink.close()
    assert written(gate) == list(range(10))


def test_a_fault_is_raised_by_the_next_call_once_with_its_cause_and_later_events_go_on():
    gate = Gate()
    sink = AsyncSink(gate)
    gate.failure = ValueError("broken")
    sink.write(event(1))
    with pytest.raises(SinkError, match="broken") as caught:
        sink.flush()
    assert isinstance(caught.value.__cause__, ValueError)
    gate.failure = None
    sink.write(event(2))
    with pytest.warns(TorchboardWarning, match="1 events"):
        sink.close()
    assert written(gate) == [2] and sink.dropped == 1


def test_a_full_disk_is_warned_of_once_and_nothing_is_lost_when_space_returns(recwarn):
    gate = Gate()
    sink = AsyncSink(gate)
    gate.failure = OSError(errno.ENOSPC, "No space left on device")
    for step in range(5):
        sink.write(event(step))
    sink.flush()
    gate.failure = None
    sink.close()
    assert written(gate) == [0, 1, 2, 3, 4] and sink.dropped == 0
    assert [str(warning.message).count("No space left") for warning in recwarn] == [1]


def test_a_disk_that_stays_full_bounds_memory_and_blocks_nobody(recwarn):
    gate = Gate()
    sink = AsyncSink(gate, max_bytes=4 * event(0).nbytes)
    gate.failure = OSError(errno.ENOSPC, "No space left on device")
    for step in range(100):
        sink.write(event(step))
    sink.close()
    assert sink.dropped == 100 and gate.events == []


def test_a_full_disk_raises_at_the_next_call_where_that_is_asked_for():
    gate = Gate()
    sink = AsyncSink(gate, on_error="raise")
    gate.failure = OSError(errno.ENOSPC, "No space left on device")
    sink.write(event(1))
    with pytest.raises(SinkError, match="No space"):
        sink.flush()
    with pytest.warns(TorchboardWarning, match="lost"):
        sink.close()


def test_a_closed_sink_says_so_and_closes_once():
    gate = Gate()
    sink = AsyncSink(gate)
    sink.close()
    sink.close()
    assert gate.closed == 1
    with pytest.raises(ClosedError):
        sink.write(event(1))


def test_an_unknown_policy_is_refused():
    with pytest.raises(InvalidValueError, match="on_error"):
        AsyncSink(MemorySink(), on_error="ignore")


def test_a_value_that_never_arrives_costs_its_event_and_no_other():
    class Lost:
        nbytes = 8
        plugins = {}

        def settle(self):
            raise RuntimeError("device lost")

    gate = Gate()
    sink = AsyncSink(gate)
    sink.write(Event(1, 1.0, (), "train", (Lost(),)))
    with pytest.raises(SinkError, match="device lost"):
        sink.flush()
    sink.write(event(2))
    with pytest.warns(TorchboardWarning, match="1 events"):
        sink.close()
    assert written(gate) == [2]


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(3)", "raise RuntimeError('crash')"])
def test_a_script_that_ends_without_close_loses_nothing(tmp_path, ending):
    code = (
        "import sys; from torchboard.run import open_run; from torchboard.values import Scalar\n"
        "run = open_run(sys.argv[1])\n"
        "for step in range(500): run.write(step, (('loss', Scalar(1.0)),))\n" + ending
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL, check=False)
    assert count(tmp_path) == 500


def test_a_sink_that_is_closed_while_its_thread_has_found_nothing_writes_what_came_since():
    class Slow(AsyncSink):
        """Closes between the thread's look at the queue and what it does then."""

        def _set_lane(self):
            if not self._closing:
                self.write(event(1))
                self._closing = True
            super()._set_lane()

    gate = Gate()
    sink = Slow(gate)
    sink._start()
    sink._thread.join(60)
    assert written(gate) == [1]


def count(directory):
    from torchboard.eventfile.scanning import scan

    return sum(1 for file in directory.glob("*tfevents*") for _ in scan(file)) - 2


def test_files_keep_their_place_among_events_and_flush_waits_for_them():
    gate = Gate()
    sink = AsyncSink(gate)
    sink.write(event(1))
    sink.put("train", "a", b"x")
    sink.write(event(2))
    sink.flush()
    assert [getattr(item, "step", item) for item in gate.events] == [1, "a", 2]
    assert gate.files == {("train", "a"): b"x"}
    sink.close()
    with pytest.raises(ClosedError):
        sink.put("train", "b", b"x")


def test_a_file_waits_out_a_full_disk(recwarn):
    gate = Gate()
    sink = AsyncSink(gate)
    gate.failure = OSError(errno.ENOSPC, "No space left on device")
    sink.put("", "a", b"x")
    sink.flush()
    assert gate.files == {}
    gate.failure = None
    sink.close()
    assert gate.files == {("", "a"): b"x"} and sink.dropped == 0


def test_files_in_the_queue_count_towards_its_size():
    gate = Gate()
    sink = AsyncSink(gate, max_bytes=1000)
    gate.open.clear()
    putter = threading.Thread(target=lambda: [sink.put("", str(number), bytes(600)) for number in range(4)])
    putter.start()
    putter.join(0.2)
    waits = putter.is_alive()
    gate.open.set()
    putter.join()
    sink.close()
    assert waits and len(gate.files) == 4


def test_a_defect_behind_the_queue_is_told_and_the_thread_lives_on(monkeypatch):
    gate = Gate()
    sink = AsyncSink(gate)
    with monkeypatch.context() as patch:
        patch.setattr(sink, "_log_dropped", lambda *_: 1 / 0)
        sink.write(event(1))
        until(lambda: sink._error)
        with pytest.raises(SinkError, match="division"):
            sink.write(event(2))
    sink.write(event(3))
    sink.flush()
    assert written(gate) == [1, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TorchboardWarning)
        sink.close()
