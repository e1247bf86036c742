"""Names of event files sort by age, whatever the clock does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from torchboard.eventfile.names import event_file_name


def test_a_name_tells_when_where_and_who():
    assert event_file_name([], 1700000000.9, "host.local", 42) == "events.out.tfevents.1700000000.host_local.42.0000"
    assert event_file_name([], 5, "h", 1, suffix=".v2") == "events.out.tfevents.0000000005.h.1.0000.v2"


@given(
    st.lists(
        st.tuples(st.integers(0, 2 * 10**9), st.sampled_from(["a", "zz", "host-1"]), st.integers(1, 99999)), max_size=30
    )
)
def test_every_new_name_sorts_behind_all_before_it(openings):
    names: list[str] = []
    for now, host, pid in openings:
        names.append(event_file_name(names, now, host, pid))
    assert names == sorted(set(names))


def test_a_name_sorts_behind_the_files_of_other_writers():
    others = ["events.out.tfevents.1900000000.zebra.7.0.v2", "events.out.tfevents.1800000000.a", "checkpoint.pt"]
    assert event_file_name(others, 1700000000, "ant", 3) > max(others)
