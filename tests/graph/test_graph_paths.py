"""Paths can be drawn: unique, none inside another, no box too full."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from torchboard.graph.paths import MAX_SIBLINGS, paths

names = st.sampled_from(["a", "b", "a_1", "a b", "a:b", "", "é", "part_0"])


def boxes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


@given(st.lists(st.tuples(st.lists(names, max_size=3).map(tuple), names), max_size=40))
def test_paths_are_unique_and_none_is_a_box(items):
    found = paths(items)
    assert len(set(found)) == len(items)
    assert not {box for path in found for box in boxes(path)} & set(found)
    assert all(set(path) <= set("abcdefghijklmnopqrstuvwxyz0123456789_/") for path in found)


def test_later_namesakes_are_numbered_and_a_scope_keeps_its_name():
    items = [((), "add"), ((), "add"), ((), "conv"), (("conv",), "weight"), ((), "add_1")]
    assert paths(items) == ["add", "add_1", "conv_1", "conv/weight", "add_1_1"]


def test_a_box_that_is_too_full_is_divided_in_order():
    items = [(("Net",), f"op{index}") for index in range(2300)]
    found = paths(items)
    assert found[0] == "Net/part_0/op0"
    assert found[-1] == "Net/part_22/op2299"
    levels = Counter(path.rpartition("/")[0] for path in found)
    assert max(levels.values()) <= MAX_SIBLINGS
