"""Embeddings on the Projector's page, through both of TensorBoard's readers."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import torch
from serving import tensorboard, until

from torchboard import SummaryWriter


def test_points_labels_and_pictures_are_what_was_added(loader, tmp_path):
    torch.manual_seed(0)
    points = torch.randn(6, 4).bfloat16()
    pictures = torch.randint(0, 256, (6, 3, 5, 7), dtype=torch.uint8)
    labels = [["tab\tinside", 1], ["", 2], ["line\nbreak", 3], ["ü", 4], ["e", 5], ["f", 6]]
    with SummaryWriter(tmp_path / "log" / "run") as writer:
        writer.add_scalar("loss", 1.0, 0)
        writer.add_embedding(points, labels, pictures, 3, "conv/1", metadata_header=["name", "size"])
        writer.add_embedding(np.eye(3), ["a", "", "c"])
    with tensorboard(tmp_path / "log", loader, tmp_path / "output.txt") as board:
        until(lambda: board.get("plugins_listing")["projector"]["enabled"])
        assert board.plugin("projector", "runs") == ["run"]
        listed = board.plugin("projector", "info", run="run")["embeddings"]
        assert [(info["tensorName"], info["tensorShape"]) for info in listed] == [
            ("conv/1:00003", [6, 4]),
            ("default:00000", [3, 3]),
        ]
        query = {"run": "run", "name": "conv/1:00003"}
        _, body = board.fetch("plugin/projector/tensor", **query)
        np.testing.assert_array_equal(np.frombuffer(body, np.float32).reshape(6, 4), points.float().numpy())
        _, body = board.fetch("plugin/projector/metadata", **query)
        assert body.decode().splitlines() == [
            *("name\tsize", "tab inside\t1", "\t2", "line break\t3", "ü\t4", "e\t5", "f\t6")
        ]
        _, body = board.fetch("plugin/projector/sprite_image", **query)
        sprite = np.asarray(PIL.Image.open(io.BytesIO(body)))
        assert listed[0]["sprite"]["singleImageDim"] == [7, 5] and sprite.shape == (15, 21, 3)
        for number, picture in enumerate(pictures.permute(0, 2, 3, 1).numpy()):
            row, column = divmod(number, 3)
            np.testing.assert_array_equal(sprite[row * 5 :, column * 7 :][:5, :7], picture)
        _, body = board.fetch("plugin/projector/metadata", run="run", name="default:00000")
        assert body.decode().splitlines() == ["a", "(empty)", "c"]
        assert board.complaints() == []
