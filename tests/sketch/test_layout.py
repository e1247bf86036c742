from __future__ import annotations

import math

import numpy as np
import pytest

from torchboard.sketch import layout


@pytest.mark.parametrize(
    ("pivot", "scale"), [(0.0, 1.0), (1.0, 2.0**14), (-1000.0, 0.5), (0.0, 2.0**-300), (3e-30, 2.0**100), (0.0, 0.0)]
)
def test_edges_ascend_around_the_pivot(pivot, scale):
    edges = layout.edges(pivot, scale)
    assert edges.shape == (layout.BINS + 1,)
    assert edges[layout.SIDE] == pivot
    assert edges[0] == -math.inf and edges[-1] == math.inf
    assert (np.diff(edges) >= 0).all()
    assert not np.isnan(edges).any()


def test_edges_of_many_rows_are_those_of_each():
    both = layout.edges(np.array([0.0, 1.0]), np.array([4.0, 0.25]))
    assert np.array_equal(both, [layout.edges(0.0, 4.0), layout.edges(1.0, 0.25)])


def test_no_resolved_bin_is_wider_than_a_32nd_of_its_distance_from_the_pivot():
    edges = layout.edges(0.0, 1.0)
    right = edges[layout.SIDE + 1 : -1]
    assert (np.diff(right) <= right[:-1] / 32).all()
    assert right[0] == layout.LOWEST * 33 / 32 and right[-1] == layout.HIGHEST
    assert np.array_equal(edges, -edges[::-1])


def test_ascending_puts_the_left_side_first_and_inside_out():
    counts = np.arange(layout.BINS)
    ordered = layout.ascending(counts)
    assert ordered[layout.SIDE] == 0 and ordered[layout.SIDE - 1] == layout.SIDE
    assert ordered[0] == layout.BINS - 1 and ordered[-1] == layout.SIDE - 1
    assert np.array_equal(layout.ascending(np.stack([counts, counts]))[1], ordered)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.5, 7.9, True),
        (0.5, 8.0, False),
        (-7.9, -0.5, True),
        (-8.0, -0.5, False),
        (0.0, 1.0, False),
        (-1.0, 1.0, False),
        (3.0, 3.0, True),
    ],
)
def test_only_narrow_data_of_one_sign_get_a_pivot(low, high, wanted):
    assert layout.wants_pivot(low, high) is wanted


@pytest.mark.parametrize(
    ("low", "high", "mean", "std", "pivot"),
    [
        (0.9996, 1.0004, 1.000002, 1e-4, 1.0),
        (0.3, 2.5, 1.0001, 0.03, 1.0),
        (996.0, 1004.0, 1000.01, 1.0, 1000.0),
        (-2.03, -1.97, -2.0001, 0.01, -2.0),
        (0.7, 0.7, 0.7, 0.0, 0.7),
    ],
)
def test_the_pivot_is_the_simplest_number_near_the_mean(low, high, mean, std, pivot):
    assert layout.choose_pivot(low, high, mean, std) == pivot


@pytest.mark.parametrize(
    ("distance", "pivot", "scale"),
    [(1.0, 0.0, 1.0), (1.99, 0.0, 1.0), (2.0, 0.0, 0.5), (3e-4, 1.0, 2.0**12), (0.0, 5.0, 0.25), (0.0, 0.0, 1.0)],
)
def test_the_scale_brings_the_farthest_element_to_between_one_and_two(distance, pivot, scale):
    assert layout.choose_scale(distance, pivot) == scale


def test_figures_of_an_empty_row_are_undefined_or_zero():
    moments, parameters = np.zeros(layout.SLOTS), np.zeros(layout.PARAMETERS)
    assert math.isnan(layout.mean(moments, parameters))
    assert math.isnan(layout.std(moments, parameters))
    assert layout.norm(moments, parameters) == 0
