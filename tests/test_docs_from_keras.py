"""The guide for people who come from Keras: its code runs, and its counts of lines are true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchboard
from torchboard import Monitor, SummaryWriter, hparams, read

GUIDE = (Path(torchboard.__file__).parents[1] / "docs" / "from_keras.md").read_text()


def blocks(text):
    """The lines of code of a section: of Keras, and of PyTorch."""
    found = dict(re.findall(r"```python\n# (Keras|PyTorch)\n(.*?)```", text, re.DOTALL))
    return {kind: [line for line in code.splitlines() if line.strip()] for kind, code in found.items()}


BASE, *SECTIONS = re.split(r"^## ", GUIDE, flags=re.MULTILINE)
SECTIONS = {section.partition("\n")[0]: blocks(section) for section in SECTIONS if "```" in section}
WITHOUT = {line.strip() for code in blocks(BASE).values() for line in code}


def counts(section):
    return tuple(sum(line.strip() not in WITHOUT for line in section[kind]) for kind in ("Keras", "PyTorch"))


def test_the_table_counts_the_lines_of_the_sections():
    rows = re.findall(r"^\| \[?([^|\]]+?)\]?(?:\(#([^)]*)\))? \| (\d+) \| (\d+) \|$", GUIDE, re.MULTILINE)
    table = {title: (int(keras), int(pytorch)) for title, _, keras, pytorch in rows}
    found = {title: counts(section) for title, section in SECTIONS.items()}
    found["all of them"] = tuple(map(sum, zip(*found.values())))
    assert table == found
    for title, anchor, _, _ in rows[:-1]:
        assert anchor == re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def given(of_words):
    """The data and the models that the guide's reader has."""
    torch.manual_seed(0)
    pictures, targets = torch.rand(40, 1, 8, 8), torch.randint(2, (40,))

    def build(units, dropout):
        layers = [nn.Flatten(), nn.Linear(64, units), nn.Dropout(dropout), nn.Linear(units, 2)]
        model = nn.Sequential(*layers)
        return model, torch.optim.SGD(model.parameters(), 0.1)

    model, optimizer = build(8, 0.1)
    if of_words:
        model, inputs = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)), torch.arange(40) % 5
    else:
        inputs = pictures
    return {
        **{"torch": torch, "Monitor": Monitor, "SummaryWriter": SummaryWriter, "build": build, "model": model},
        **{name: getattr(hparams, name) for name in ("HParam", "Discrete", "grid")},
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
        "criterion": nn.CrossEntropyLoss(),
        "loader": DataLoader(TensorDataset(inputs, targets), 10),
        "pictures": pictures[:25],
        "test_inputs": pictures[:20],
        "test_targets": targets[:20],
        "groups": ["left", "right"] * 10,
        "accuracy": lambda scores, truth: (scores.argmax(1) == truth).float().mean(),
        "words": ["a", "b", "c", "d", "e"],
    }


TAGS = {
    "Curves of training and validation": ("validation", "epoch_loss"),
    "The learning rate, a scalar of one's own": ("train", "rate by hand"),
    "Pictures, and a confusion matrix every epoch": ("train", "predictions/confusion"),
    "The graph": (".", "model"),
    "Hyperparameters": ("run-3/validation", "epoch_accuracy"),
    "The profiler": ("train", "layer_time/1/backward_ms"),
    "Embeddings": ("train", "parameters/0/weight"),
    "Fairness": ("train", "slices/table"),
}


@pytest.mark.parametrize("title", SECTIONS)
def test_the_code_for_pytorch_runs_and_logs_what_it_says(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec("\n".join(SECTIONS[title]["PyTorch"]), given(of_words=title == "Embeddings"))
    run, tag = TAGS[title]
    assert tag in read("logs").tags(run)
    assert title != "Embeddings" or (tmp_path / "logs" / "train" / "projector_config.pbtxt").exists()


def test_every_argument_of_the_callback_is_in_the_table():
    named = re.findall(r"^\| `(\w+)=", GUIDE, re.MULTILINE)
    assert named == [
        "log_dir", "histogram_freq", "write_graph", "write_images", "write_steps_per_second", "update_freq",
        "profile_batch", "embeddings_freq", "embeddings_metadata",
    ]  # fmt: skip
    documented = Monitor.__init__.__kwdefaults__
    assert set(named) - {"log_dir"} <= set(documented)
