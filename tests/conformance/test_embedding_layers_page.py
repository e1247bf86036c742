"""The embedding layers of a monitored model on the Projector's page, through both of TensorBoard's readers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from serving import tensorboard, until
from torch import nn

from torchboard import Monitor, SummaryWriter
from torchboard.errors import TorchboardWarning


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.inner = nn.ModuleDict({"zeros": nn.Embedding.from_pretrained(torch.zeros(2, 4))})

    def forward(self, x):
        return self.words(x).sum()


def test_layers_and_epochs_can_be_chosen_and_other_runs_stay(loader, tmp_path):
    (tmp_path / "words.tsv").write_text("word\tcount\n" + "".join(f"wörd {row}\t{row}\n" for row in range(5)))
    model = Words()
    seen = []
    metadata = {"words": tmp_path / "words.tsv", "inner.zeros": ["nothing", ""]}
    with Monitor(model, tmp_path / "log" / "a", embeddings_freq=2, embeddings_metadata=metadata) as monitor:
        for _ in range(3):
            model(torch.tensor([1]))
            seen.append(model.words.weight.detach().numpy().copy())
            monitor.log_epoch(loss=1.0)
            with torch.no_grad():
                model.words.weight.mul_(2.0)
    with SummaryWriter(tmp_path / "log" / "b") as writer:
        writer.add_scalar("loss", 1.0, 0)
        writer.add_embedding(np.eye(3))
    infinite = nn.Embedding.from_pretrained(torch.full((2, 2), float("inf")))
    with Monitor(infinite, tmp_path / "log" / "c", embeddings_freq=1) as monitor:
        with pytest.warns(TorchboardWarning, match="not finite"):
            monitor.log_epoch(loss=1.0)
    with tensorboard(tmp_path / "log", loader, tmp_path / "output.txt") as board:
        until(lambda: board.get("plugins_listing")["projector"]["enabled"])
        assert sorted(board.plugin("projector", "runs")) == ["a/train", "b"]
        listed = board.plugin("projector", "info", run="a/train")["embeddings"]
        assert [(info["tensorName"], info["tensorShape"]) for info in listed] == [
            (f"embeddings/{name}:0000{step}", shape)
            for step in (0, 2)
            for name, shape in (("words", [5, 3]), ("inner/zeros", [2, 4]))
        ]
        for step in (0, 2):
            query = {"run": "a/train", "name": f"embeddings/words:0000{step}"}
            _, body = board.fetch("plugin/projector/tensor", **query)
            np.testing.assert_array_equal(np.frombuffer(body, np.float32).reshape(5, 3), seen[step])
            _, body = board.fetch("plugin/projector/metadata", **query)
            assert body.decode().splitlines() == ["word\tcount", *(f"wörd {row}\t{row}" for row in range(5))]
        query = {"run": "a/train", "name": "embeddings/inner/zeros:00002"}
        _, body = board.fetch("plugin/projector/metadata", **query)
        assert body.decode().splitlines() == ["nothing", "(empty)"]
        _, body = board.fetch("plugin/projector/tensor", **query)
        assert np.frombuffer(body, np.float32).tolist() == [0.0] * 8
        assert board.complaints() == []
