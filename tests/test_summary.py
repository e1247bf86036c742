"""``tf.summary``'s shapes over our values: defaults, steps, conditions, return values and what is read back."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from torchboard import proto, read, summary
from torchboard.errors import ClosedError, InvalidValueError, TagError
from torchboard.summary import defaults


@pytest.fixture(autouse=True)
def fresh():
    """Each test begins as a new thread does."""
    writer, step = defaults._writer.set(None), defaults._step.set(None)
    yield
    defaults._writer.reset(writer)
    defaults._step.reset(step)


@pytest.fixture
def writer(tmp_path):
    writer = summary.create_file_writer(tmp_path)
    yield writer
    writer.close()


def test_a_tutorials_learning_rate_is_logged_as_written(tmp_path):
    file_writer = summary.create_file_writer(str(tmp_path) + "/metrics")
    file_writer.set_as_default()
    for epoch, learning_rate in enumerate((0.2, 0.02, 0.01)):
        assert summary.scalar("learning rate", data=learning_rate, step=epoch) is True
    file_writer.flush()
    (file,) = (tmp_path / "metrics").iterdir()
    assert file.name.endswith(".v2")
    series = read(tmp_path).scalars("learning rate", run="metrics")
    assert series.steps.tolist() == [0, 1, 2]
    assert np.allclose(series.values, [0.2, 0.02, 0.01])
    file_writer.close()


def test_a_tutorials_plots_are_logged_as_written(tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    plot_to_image = summary.plot_to_image
    file_writer = summary.create_file_writer(str(tmp_path) + "/plots")
    figure = plt.figure(figsize=(3, 2), dpi=100)
    plt.imshow(np.eye(4), cmap=plt.cm.Blues)
    with file_writer.as_default():
        summary.image("Training data", plot_to_image(figure), step=0)
    assert not plt.get_fignums()
    (shown,) = read(tmp_path).images("Training data", run="plots").values
    assert shown.pixels.shape == (1, 200, 300, 4)
    assert {(255, 255, 255, 255), (8, 48, 107, 255)} <= set(map(tuple, shown.pixels.reshape(-1, 4).tolist()))
    with pytest.raises(InvalidValueError, match="no figure"):
        plot_to_image(np.eye(3))
    file_writer.close()


def test_without_a_default_writer_nothing_is_written_and_nothing_is_asked():
    assert summary.scalar("loss", 1.0) is False
    assert summary.image("picture", np.zeros(3)) is False
    assert not summary.should_record_summaries()
    summary.flush()


def test_a_writer_of_nothing_takes_everything():
    with summary.create_noop_writer().as_default():
        assert summary.scalar("loss", 1.0) is False


def test_a_summary_needs_a_step_and_takes_the_default_one(writer, tmp_path):
    with writer.as_default():
        with pytest.raises(InvalidValueError, match="without a step"):
            summary.scalar("loss", 1.0)
        summary.set_step(3)
        assert summary.get_step() == 3 and summary.scalar("loss", 1.0)
        with writer.as_default(step=7):
            assert summary.scalar("loss", torch.tensor(2.0))
        assert summary.get_step() == 3
        assert summary.scalar("loss", np.float32(4.0), step=torch.tensor(9))
        with pytest.raises(InvalidValueError, match="whole number"):
            summary.scalar("loss", 1.0, step=1.5)
    assert read(tmp_path).scalars("loss").steps.tolist() == [3, 7, 9]


def test_record_if_decides_by_a_condition_or_by_what_it_returns(writer):
    conditions = (
        (True, True),
        (False, False),
        (torch.tensor(False), False),
        (lambda: True, True),
        (lambda: np.array(False), False),
    )
    with writer.as_default():
        for step, (condition, expected) in enumerate(conditions):
            with summary.record_if(condition):
                assert summary.should_record_summaries() is expected
                assert summary.text("words", "text", step) is expected
        assert summary.should_record_summaries()


def test_scopes_nest_and_end(writer, tmp_path):
    with writer.as_default(step=0):
        with summary.name_scope("outer") as scope, summary.name_scope("inner"):
            assert scope == "outer/"
            summary.scalar("loss", 1.0)
        summary.scalar("loss", 2.0)
    assert read(tmp_path).tags() == {"loss": "scalars", "outer/inner/loss": "scalars"}


def test_another_thread_starts_without_a_writer(writer):
    seen = []
    with writer.as_default(step=0):
        thread = threading.Thread(target=lambda: seen.append(summary.scalar("loss", 1.0)))
        thread.start()
        thread.join()
        assert summary.scalar("loss", 1.0)
    assert seen == [False]


def test_every_kind_is_read_back(writer, tmp_path):
    pictures = np.random.default_rng(0).random((5, 4, 6, 3))
    with writer.as_default(step=0):
        assert summary.image("pictures", pictures, max_outputs=2)
        assert summary.histogram("weights", torch.randn(100), description="of a layer")
        assert summary.audio("sound", np.zeros((4, 10, 1)), 8000)
        assert summary.text("table", [["a", "b"], ["c", "d"]])
        assert summary.mesh("cloud", torch.rand(1, 5, 3), description="points")
        assert summary.pr_curve("curve", [1, 0, 1], [0.9, 0.2, 0.6], description="of a classifier")
        assert summary.scalar("loss", 1.0, description="**bold**")
        assert summary.write("raw", np.arange(3))
        assert summary.graph(torch.nn.Linear(2, 1), torch.ones(1, 2))
    log = read(tmp_path)
    plugins = log.tags()
    assert set(plugins.values()) >= {"images", "histograms", "audio", "text", "mesh", "pr_curves", "scalars", "graphs"}
    (shown,) = log.images("pictures").values
    assert shown.pixels.shape == (2, 4, 6, 3)
    (weights,) = log.histograms("weights").values
    assert weights.buckets[:, 2].sum() == 100 and weights.description == "of a layer"


def test_an_array_goes_to_the_plugin_that_its_metadata_name(writer, tmp_path):
    metadata = proto.SummaryMetadata(data_class=2)
    metadata.plugin_data.plugin_name = "mine"
    with writer.as_default(step=1):
        assert summary.write("data", np.eye(2), metadata=metadata)
    assert read(tmp_path).tags() == {"data": "mine"}


def test_a_closed_writer_says_so(writer):
    writer.set_as_default(step=0)
    assert summary.get_step() == 0
    writer.close()
    writer.close()
    with pytest.raises(ClosedError):
        summary.scalar("loss", 1.0)
    with pytest.raises(RuntimeError):
        writer.set_as_default()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: summary.image("a", np.zeros((4, 4, 3))), InvalidValueError),
        (lambda: summary.image("a", np.zeros((1, 4, 4, 3)), max_outputs=0), InvalidValueError),
        (lambda: summary.audio("a", np.zeros((1, 4, 1)), 8000, encoding="mp3"), InvalidValueError),
        (lambda: summary.audio("a", np.zeros(4), 8000), InvalidValueError),
        (lambda: summary.scalar("a", [1.0, 2.0]), InvalidValueError),
        (lambda: summary.text("a", 3), InvalidValueError),
        (lambda: summary.scalar("", 1.0), TagError),
        (lambda: summary.scalar(3, 1.0), TagError),
    ],
)
def test_what_cannot_be_shown_is_refused(writer, tmp_path, call, error):
    with writer.as_default(step=0):
        with pytest.raises(error):
            call()
    assert read(tmp_path).tags() == {}
