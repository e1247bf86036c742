"""What TensorBoard's two readers make of the kinds with a dashboard of their own."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator

import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
import torch
from test_rules import END, loaded

from torchboard import SummaryWriter
from torchboard.run import open_run
from torchboard.values import Audio, PrCurve, Scalar, Video
from torchboard.values.mesh import CONTENTS


def test_pr_curves_are_drawn_at_their_thresholds(show, tmp_path):
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 500), random.random(500)
    with SummaryWriter(tmp_path / "log") as writer:
        for step in range(3):
            writer.add_pr_curve("curve", labels, torch.tensor(scores), step, num_thresholds=200)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    assert list(board.tags("pr_curves", ".")) == ["curve"]
    run = board.full(".")
    entries = board.plugin("pr_curves", "pr_curves", run=".", tag="curve")[run]
    assert [entry["step"] for entry in entries] == [0, 1, 2]
    table = PrCurve.from_predictions(labels, scores, 200).table
    kept = len(entries[-1]["thresholds"])
    assert kept >= 198 and (table[:2, kept:] == 0).all()
    np.testing.assert_allclose(entries[-1]["thresholds"], np.linspace(0, 1, 200)[:kept])
    names = ["true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall"]
    for name, row in zip(names, table):
        np.testing.assert_allclose(entries[-1][name], row[:kept], rtol=1e-6, err_msg=name)


def test_sound_is_served_as_wav_files_clip_by_clip(show, tmp_path):
    tone = np.sin(np.arange(800) / 8)
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_audio("mono", torch.tensor(tone)[None], 0, sample_rate=8000)
        writer.add_audio("clips", np.stack([tone, -tone])[:, None], 0, sample_rate=8000)
        writer.add_audio("stereo", np.zeros((2, 800), np.int16), 0)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    assert {tag: about["samples"] for tag, about in board.tags("audio", ".").items()} == {
        "mono": 1,
        "clips": 2,
        "stereo": 1,
    }
    for tag, sample, channels, sign in (("mono", 0, 1, 1), ("clips", 1, 1, -1), ("stereo", 0, 2, 0)):
        (entry,) = board.plugin("audio", "audio", run=".", tag=tag, sample=sample)
        media_type, body = board.fetch(f"plugin/audio/individualAudio?{entry['query']}")
        assert media_type == "audio/wav" and entry["contentType"] == "audio/wav"
        with wave.open(io.BytesIO(body)) as file:
            assert (file.getnchannels(), file.getnframes()) == (channels, 800)
            samples = np.frombuffer(file.readframes(800), "<i2")[::channels]
        np.testing.assert_allclose(samples / 32767, sign * tone, atol=1e-4)


def _first_of_each_step(
    board, plugin: str, route: str, tag: str, counts: tuple[int, ...]
) -> Iterator[tuple[str, bytes]]:
    """Type and bytes of what is first at each step of a tag that has so many things at its steps."""
    assert board.tags(plugin, ".")[tag]["samples"] == max(counts)
    entries = board.plugin(plugin, plugin, run=".", tag=tag, sample=0)
    assert [entry["step"] for entry in entries] == list(range(len(counts)))
    return (board.fetch(f"plugin/{plugin}/{route}?{entry['query']}") for entry in entries)


@pytest.mark.parametrize("counts", [(2, 1, 3), (1, 2, 1)])
def test_the_number_of_clips_may_change_from_step_to_step(show, tmp_path, counts):
    tone = np.sin(np.arange(800) / 8)
    with SummaryWriter(tmp_path / "log") as writer:
        for step, count in enumerate(counts):
            writer.add_audio("clips", np.stack([tone] * count)[:, None], step, sample_rate=8000)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    for media_type, body in _first_of_each_step(board, "audio", "individualAudio", "clips", counts):
        assert (media_type, body[:4], len(body)) == ("audio/wav", b"RIFF", 44 + 2 * 800)


@pytest.mark.parametrize("counts", [(2, 1, 3), (1, 2, 1)])
def test_the_number_of_pictures_may_change_from_step_to_step(show, tmp_path, counts):
    picture = np.random.default_rng(0).integers(0, 256, (3, 5, 7), np.uint8)
    with SummaryWriter(tmp_path / "log") as writer:
        for step, count in enumerate(counts):
            writer.add_images("pictures", np.stack([picture] * count), step)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    for _, body in _first_of_each_step(board, "images", "individualImage", "pictures", counts):
        assert np.array_equal(np.asarray(PIL.Image.open(io.BytesIO(body))), picture.transpose(1, 2, 0))


def test_meshes_are_served_part_by_part_in_their_own_types(show, tmp_path):
    vertices = np.random.default_rng(0).random((2, 5, 3), np.float32)
    colors, faces = (vertices * 255).astype(np.uint8), np.array([[[0, 1, 2]], [[2, 3, 4]]], np.int32)
    config = {"camera": {"cls": "PerspectiveCamera", "fov": 75}}
    with SummaryWriter(tmp_path / "log") as writer:
        for step in range(2):
            writer.add_mesh("a/mesh", vertices + step, colors, faces, config, step)
        writer.add_mesh("cloud", torch.tensor(vertices[0]))
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    assert board.tags("mesh", ".") == {"a/mesh": {"samples": 2}, "cloud": {"samples": 1}}
    entries = board.plugin("mesh", "meshes", run=".", tag="a/mesh", sample=1)
    assert {(entry["step"], entry["content_type"]) for entry in entries} == {
        (step, part) for step in range(2) for part in CONTENTS.values()
    }
    assert all(json.loads(entry["config"]) == config and entry["components"] == 14 for entry in entries)
    parts = {"VERTEX": vertices[1] + 1, "FACE": faces[1], "COLOR": colors[1]}
    for part, array in parts.items():
        query = {"run": board.full("."), "tag": "a/mesh", "content_type": part, "sample": 1, "step": 1}
        _, body = board.fetch("plugin/mesh/data", **query)
        assert body == array.tobytes(), part


def test_layouts_of_custom_scalars_are_drawn_with_the_curves_they_name(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_custom_scalars({"losses": {"all": ["Multiline", ["loss/.*"]]}})
        writer.add_custom_scalars_marginchart(["mean", "low", "high"], "bands", "mean")
        for tag in ("loss/a", "loss/b", "mean", "low", "high"):
            writer.add_scalar(tag, 1.5, 0)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    layout = board.plugin("custom_scalars", "layout")
    charts = {category["title"]: category["chart"] for category in layout["category"]}
    assert charts["losses"] == [{"title": "all", "multiline": {"tag": ["loss/.*"]}}]
    assert charts["bands"] == [
        {"title": "mean", "margin": {"series": [{"value": "mean", "lower": "low", "upper": "high"}]}}
    ]
    answer = board.plugin("custom_scalars", "scalars", run=".", tag="loss/.*")
    assert answer["regex_valid"] and sorted(answer["tag_to_events"]) == ["loss/a", "loss/b"]


@pytest.mark.parametrize(("lossless", "media_type"), [(False, "image/gif"), (True, "image/png")])
def test_videos_are_served_as_animations(show, tmp_path, lossless, media_type):
    frames = np.random.default_rng(0).integers(0, 255, (2, 5, 6, 7, 1), np.uint8)
    run = open_run(tmp_path / "log")
    run.write(0, (("video", Video(frames, 10, lossless)),))
    run.write(0, ((END, Scalar(0.0)),))
    run.close()
    board = loaded(show(tmp_path / "log"))
    assert board.tags("images", ".")["video"]["samples"] == 2
    for sample, expected in enumerate(frames[..., 0]):
        (entry,) = board.plugin("images", "images", run=".", tag="video", sample=sample)
        served, body = board.fetch(f"plugin/images/individualImage?{entry['query']}")
        assert served == media_type
        with PIL.Image.open(io.BytesIO(body)) as file:
            shown = [np.asarray(frame.convert("L")) for frame in PIL.ImageSequence.Iterator(file)]
            assert file.info["duration"] == 100
        assert np.array_equal(shown, expected)


def test_scalars_of_one_chart_are_runs_beside_each_other(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        for step in range(3):
            writer.add_scalars("loss/all", {"train": step, "test": torch.tensor(2.0 * step)}, step)
    board = show(tmp_path / "log")
    assert board.await_points("loss_all_train", "loss/all", last=2) == [(0, 0), (1, 1), (2, 2)]
    assert board.await_points("loss_all_test", "loss/all", last=2) == [(0, 0), (1, 2), (2, 4)]


def test_tensors_disturb_no_page(show, tmp_path):
    with SummaryWriter(tmp_path / "log") as writer:
        for value in (np.zeros((2, 3)), np.array(5), np.zeros(0, np.uint32), torch.zeros(2, dtype=torch.complex64)):
            writer.add_tensor(f"tensor/{np.asarray(value).dtype}", value)
        writer.add_scalar(END, 0.0)
    board = loaded(show(tmp_path / "log"))
    for plugin in ("scalars", "histograms", "images", "text", "pr_curves", "mesh", "audio"):
        assert not any(tag.startswith("tensor/") for tag in board.tags(plugin, "."))


def test_descriptions_are_shown_with_sound_curves_and_videos(show, tmp_path):
    values = {
        "audio": Audio((np.zeros((1, 8), np.int16),), 8000, "**what** it is"),
        "pr_curves": PrCurve(np.ones((6, 3), np.float32), "**what** it is"),
        "images": Video(np.zeros((1, 2, 4, 4, 3), np.uint8), description="**what** it is"),
    }
    run = open_run(tmp_path / "log")
    run.write(0, tuple((f"mine/{plugin}", value) for plugin, value in values.items()))
    run.write(0, ((END, Scalar(0.0)),))
    run.close()
    board = loaded(show(tmp_path / "log"))
    for plugin in values:
        assert "<strong>what</strong> it is" in board.tags(plugin, ".")[f"mine/{plugin}"]["description"]
