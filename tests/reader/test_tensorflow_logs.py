"""Files of TensorFlow's own writers, in the forms of its first version and its second.

``tests/golden/tensorflow_logs.py`` made them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from accumulated import accumulated

import torchboard
from torchboard.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=["v1", "v2"])
def log(request, tmp_path):
    """A log directory with one such file."""
    shutil.copy(GOLDEN / f"tensorflow_{request.param}.tfevents", tmp_path / "events.out.tfevents.1")
    return tmp_path


def test_every_kind_is_read_back(log):
    reader = torchboard.read(log)
    of_plugin = {plugin: tag for tag, plugin in reader.tags().items()}
    loss = reader.scalars("loss")
    assert loss.steps.tolist() == list(range(20)) and not reader.problems
    assert np.array_equal(loss.values, np.float32(1 / np.arange(1, 21)))
    (histogram,) = reader.histograms("weights").values
    assert histogram.buckets[:, 2].sum() == 100 and (histogram.buckets[0, 0], histogram.buckets[-1, 1]) == (0, 99)
    (picture,) = reader.images(of_plugin["images"]).values
    assert picture.pixels.shape == (1, 4, 5, 3) and (picture.pixels == 51).all()
    (sound,) = reader.values(of_plugin["audio"]).values
    assert sound.sample_rate == 8000 and [clip.shape for clip in sound.clips] == [(1, 8)]
    (text,) = reader.texts("notes").values
    assert text.markdown == "text"


def test_tags_plugins_and_steps_are_those_that_tensorboard_finds(log):
    reader = torchboard.read(log)
    theirs = {tag: (curve.plugin, len(curve.steps)) for (_, tag), curve in accumulated(log).items()}
    assert {tag: (plugin, len(_series(reader, tag, plugin).steps)) for tag, plugin in reader.tags().items()} == theirs


def _series(reader, tag, plugin):
    read = {"scalars": reader.scalars, "graphs": reader.graphs}.get(plugin, reader.values)
    return read(tag)


def test_a_compacted_copy_holds_the_same(log, tmp_path_factory):
    before, target = accumulated(log), tmp_path_factory.mktemp("compact")
    assert main(["compact", str(log), "--output", str(target)]) == 0
    after = accumulated(target)
    assert {key: (curve.plugin, curve.steps) for key, curve in after.items()} == {
        key: (curve.plugin, curve.steps) for key, curve in before.items()
    }
