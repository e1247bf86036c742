"""A tensor is traced back to what wrote it, through views and in-place writes, and none is kept alive."""

from __future__ import annotations

import gc
import weakref

import torch
from hypothesis import given
from hypothesis import strategies as st

from torchboard.graph.nodes import Source
from torchboard.graph.producers import Producers, View, disjoint, view_of

A, B, C = Source(0, 0), Source(1, 0), Source(2, 0)


def addresses(view: View) -> set[int]:
    base = torch.arange(10_000)
    return set(base.as_strided(view.shape, view.strides, view.offset).flatten().tolist())


boxes = st.lists(st.integers(0, 4), min_size=2, max_size=2)


@given(
    st.integers(0, 40),
    st.integers(0, 40),
    boxes,
    boxes,
    st.sampled_from([(10, 1), (1, 10), (7, 2), (4, 3), (6, 0), (3, 3)]),
)
def test_views_called_disjoint_share_no_element(a, b, shape_a, shape_b, strides):
    first, second = View(a, tuple(shape_a), strides, torch.float32), View(b, tuple(shape_b), strides, torch.float32)
    assert disjoint(first, second) == disjoint(second, first)
    if disjoint(first, second):
        assert not addresses(first) & addresses(second)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1))
def test_chunks_and_slices_of_one_tensor_are_proven_disjoint(rows, columns, axis):
    chunks = torch.zeros(4 * rows, 4 * columns).chunk(4, axis)
    views = [view_of(chunk) for chunk in chunks]
    assert all(disjoint(a, b) == (a != b) for a in views for b in views)


def test_a_view_that_was_never_seen_comes_from_what_made_its_storage():
    producers, x = Producers(), torch.zeros(4)
    producers.made(x, A)
    assert producers.of(x[1:]) == (A,)


def test_a_read_depends_on_every_write_that_overlaps_it():
    producers, x = Producers(), torch.zeros(8)
    producers.made(x, A)
    producers.wrote(x[:4], B)
    producers.wrote(x[4:], C)
    assert producers.of(x) == (C, B, A)
    assert producers.of(x[:4]) == (B,)
    assert producers.of(x[5:6]) == (C, A)


def test_a_write_over_all_of_it_hides_what_was_there():
    producers, x = Producers(), torch.zeros(8)
    producers.made(x, A)
    view = x[:]
    producers.made(view, B)
    producers.wrote(x, C)
    assert producers.of(x) == producers.of(view) == (C,)


def test_a_tensor_nobody_made_has_no_source():
    assert Producers().of(torch.zeros(1)) == ()


def test_a_tensor_at_the_address_of_one_that_is_gone_is_another_one():
    producers, addresses, reused = Producers(), set(), 0
    for _ in range(50):
        x = torch.zeros(4)
        reused += id(x) in addresses
        assert not producers.knows(x)
        assert producers.of(x) == ()
        producers.made(x, A)
        assert producers.knows(x)
        addresses.add(id(x))
        del x
    assert reused


def test_no_tensor_is_kept_alive():
    producers, x = Producers(), torch.zeros(4)
    producers.made(x, A)
    producers.wrote(x, B)
    gone = weakref.ref(x)
    del x
    gc.collect()
    assert gone() is None


def test_a_wrapper_comes_from_what_it_wraps_and_what_it_wraps_from_its_maker():
    producers, values, offsets = Producers(), torch.zeros(5, 2), torch.tensor([0, 2, 5])
    producers.made(values, A)
    producers.made(offsets, B)
    wrapped = torch.nested.nested_tensor_from_jagged(values, offsets)
    assert set(producers.of(wrapped)) == {A, B}
    doubled = wrapped * 2
    producers.made(doubled, C)
    assert producers.of(doubled.values()) == (C,)
    assert producers.of(offsets) == (B,)
