"""Errors have three parts, and survive a trip between processes."""

from __future__ import annotations

import pickle

import pytest

from torchboard import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TorchboardError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_says_what_came_what_is_wrong_and_what_to_do(kind):
    error = pickle.loads(pickle.dumps(kind("tag ''", "a tag is a text", "give a name")))
    assert type(error) is kind
    assert str(error) == "tag '': a tag is a text; give a name."


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_names_every_error(kind):
    assert kind.__name__ in errors.__doc__
