"""The files of an embedding, as the Projector's page reads them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorboard.plugins.projector import projector_plugin

from torchboard.values.projector import Embedding, to_points

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 20))
FEW = [0.0, 0.5, 1.0, 2.0, -1.0, float(np.frombuffer(b"\n\n\nA", "<f4")[0]), float(np.frombuffer(b"1\n2B", "<f4")[0])]
"""Numbers whose bytes are UTF-8, numbers whose bytes are not, and numbers with line breaks in them."""


def as_the_page_reads(path, shape):
    """What the plugin does with a file of numbers."""
    try:
        return projector_plugin._read_tensor_tsv_file(str(path))
    except UnicodeDecodeError:
        return projector_plugin._read_tensor_binary_file(str(path), shape)


def points_of(embedding, folder):
    (path, data), *_ = embedding.files()
    info = embedding.entry()
    assert info.tensor_path == path
    file = folder / path.replace("/", "-")
    file.write_bytes(data)
    return as_the_page_reads(file, info.tensor_shape), path


@settings(deadline=None, max_examples=150)
@given(
    hnp.arrays(np.float32, SHAPES, elements=st.floats(allow_nan=False, allow_infinity=False, width=32))
    | hnp.arrays(np.float32, SHAPES, elements=st.sampled_from(FEW))
)
def test_the_page_gets_every_number_to_the_bit(tmp_path_factory, points):
    read, _ = points_of(Embedding("any", 0, points), tmp_path_factory.getbasetemp())
    assert read.dtype == np.float32 and np.array_equal(read.view(np.int32) + 0, points.view(np.int32))


@pytest.mark.parametrize(
    ("points", "ending"),
    [
        (np.random.default_rng(0).normal(size=(100, 16)), "bytes"),
        (np.eye(3), "bytes"),
        (np.zeros((5, 4)), "tsv"),
        (np.full((5, 4), 0.5), "tsv"),
        (np.array([[FEW[5], -1.0]]), "tsv"),
    ],
    ids=["normal", "one-hot", "zeros", "halves", "text before the first line break"],
)
def test_numbers_are_kept_as_in_memory_where_the_page_can_tell(tmp_path, points, ending):
    embedding = Embedding("any", 0, to_points("any", points))
    read, path = points_of(embedding, tmp_path)
    assert path == f"00000/any/tensors.{ending}" and np.array_equal(read, points.astype(np.float32))
    assert ending == "tsv" or len(next(embedding.files())[1]) == 4 * points.size
