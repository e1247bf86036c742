"""Embedding layers as points of the projector, and what may label them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import torchboard
from torchboard import MemorySink, Monitor
from torchboard.capture.embeddings import MAX_POINTS
from torchboard.errors import InvalidValueError, TorchboardWarning
from torchboard.values.projector import CONFIG, Embedding, entries


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(4, 3)
        self.inner = nn.ModuleDict({"bags": nn.EmbeddingBag(5, 2)})
        self.head = nn.Linear(3, 1)


def listed(sink):
    """``name -> Embedding`` of everything in the list of the training run."""
    found = {}
    for entry in entries(sink.files["train", CONFIG]):
        found[entry.tensor_name] = Embedding.decode(entry, lambda path: sink.files["train", path])
    return found


def watch(model, epochs=1, **options):
    sink = MemorySink()
    with Monitor(model, sink=sink, histogram_freq=0, write_graph=False, **options) as monitor:
        for _ in range(epochs):
            monitor.log_epoch(loss=1.0)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(1.0)
    return sink


def test_every_embedding_layer_is_there_every_so_many_epochs_as_it_was_then():
    model = Words()
    first = model.words.weight.detach().clone().numpy()
    found = listed(watch(model, epochs=5, embeddings_freq=2))
    assert list(found) == [f"embeddings/{name}:0000{step}" for step in (0, 2, 4) for name in ("words", "inner/bags")]
    for step in (0, 2, 4):
        np.testing.assert_allclose(found[f"embeddings/words:0000{step}"].points, first + step, rtol=1e-6)
    assert found["embeddings/words:00000"].labels is None


def test_there_is_no_file_where_none_is_asked_for_or_no_layer_is_there():
    assert watch(Words(), embeddings_freq=0).files == {}
    assert watch(nn.Linear(2, 2), embeddings_freq=1).files == {}


def test_a_list_labels_the_rows_and_its_tabs_do_no_harm():
    found = listed(watch(nn.Sequential(nn.Embedding(3, 2)), embeddings_freq=1, embeddings_metadata=["a\tb", 2, "ü"]))
    assert found["embeddings/0:00000"].labels == (("a b",), ("2",), ("ü",))


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_file_labels_the_rows_with_a_header_where_it_has_columns(tmp_path, ending):
    (tmp_path / "words.tsv").write_text("word\tcount\n" + "\n".join(f"w{row}\t{row}" for row in range(4)) + ending)
    (tmp_path / "bags.txt").write_text("\n".join("abcde") + ending)
    metadata = {"words": tmp_path / "words.tsv", "inner.bags": str(tmp_path / "bags.txt")}
    found = listed(watch(Words(), embeddings_freq=1, embeddings_metadata=metadata))
    words = found["embeddings/words:00000"]
    assert words.header == ("word", "count") and words.labels == tuple((f"w{row}", str(row)) for row in range(4))
    assert found["embeddings/inner/bags:00000"].labels == tuple((letter,) for letter in "abcde")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (
            {"word": "abcd"},
            "embeddings_metadata for 'word': the model has no embedding layer.*give one of its layers: words",
        ),
        ({"head": ["a"]}, "embeddings_metadata for 'head': the model has no embedding layer"),
        ({3: ["a"]}, "embeddings_metadata for 3"),
        ({"words": ["a", "b"]}, "2 labels for the 4 rows of 'words'.*give 4"),
        (["a"] * 4, "4 labels for the 5 rows of 'inner.bags'.*a dict of layer name"),
        ({"words": 7}, "embeddings_metadata for 'words': 7.*give a list"),
        (3.5, "embeddings_metadata for 'words': 3.5.*give a list"),
        ("/nowhere/labels.tsv", "embeddings_metadata='/nowhere/labels.tsv'.*cannot be read"),
    ],
)
@pytest.mark.parametrize("embeddings_freq", [0, 1])
def test_labels_that_fit_no_layer_are_refused_at_the_call(metadata, message, embeddings_freq):
    with pytest.raises(InvalidValueError, match=f"(?s){message}"):
        Monitor(Words(), sink=MemorySink(), embeddings_freq=embeddings_freq, embeddings_metadata=metadata)


def test_a_file_that_is_no_table_of_labels_is_refused_at_the_call(tmp_path):
    (tmp_path / "torn.tsv").write_text("a\tb\n1\t2\n3\n4\t5\n6\t7\n")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    for name, message in (("torn", "line 3 of .* with 1 columns"), ("binary", "cannot be read")):
        with pytest.raises(InvalidValueError, match=message):
            Monitor(Words(), sink=MemorySink(), embeddings_metadata={"words": tmp_path / f"{name}.tsv"})


def test_labels_for_a_model_without_embeddings_are_refused():
    with pytest.raises(InvalidValueError, match="no nn.Embedding"):
        Monitor(nn.Linear(1, 1), sink=MemorySink(), embeddings_metadata=["a"])


@pytest.mark.parametrize("freq", [-1, True, 1.5, "epoch"])
def test_a_frequency_is_a_whole_number(freq):
    with pytest.raises(InvalidValueError, match="embeddings_freq"):
        Monitor(Words(), sink=MemorySink(), embeddings_freq=freq)


def test_an_embedding_that_is_not_finite_is_left_out_with_a_warning_and_the_others_stay():
    model = Words()
    with torch.no_grad():
        model.words.weight[0, 0] = float("nan")
    with pytest.warns(TorchboardWarning, match="embeddings of this model.*not finite") as caught:
        found = listed(watch(model, epochs=2, embeddings_freq=1))
    assert len(caught) == 1 and list(found) == ["embeddings/inner/bags:00000", "embeddings/inner/bags:00001"]


def test_no_more_rows_are_written_than_the_page_shows():
    rows = MAX_POINTS + 5
    labels = [str(row) for row in range(rows)]
    found = listed(watch(nn.Sequential(nn.Embedding(rows, 1)), embeddings_freq=1, embeddings_metadata=labels))
    (embedding,) = found.values()
    assert embedding.points.shape == (MAX_POINTS, 1) and embedding.labels[-1] == (str(MAX_POINTS - 1),)


def test_a_run_that_is_gone_on_with_still_lists_the_epochs_before(tmp_path):
    for resume, epochs in ((False, 5), (2, 1)):
        with Monitor(Words(), tmp_path, embeddings_freq=1, resume=resume) as monitor:
            if not resume:
                monitor.writer.add_embedding(torch.ones(2, 2), tag="mine", global_step=1)
            for _ in range(epochs):
                monitor.log_epoch(loss=1.0)
    names = [entry.tensor_name for entry in entries((tmp_path / "train" / CONFIG).read_bytes())]
    steps = [int(name.rpartition(":")[2]) for name in names if name.startswith("embeddings/words")]
    assert steps == [0, 1, 2] and "mine:00001" in names
    assert len(names) == len(set(names))
    assert torchboard.read(tmp_path).problems == ()
