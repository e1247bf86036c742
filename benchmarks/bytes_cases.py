"""One call of every kind of value, small ones and large ones, for ``bytes.py``: by the name of the case, ``<kind> / <which>``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pictures import line_figure, photo

Adder = Callable[[], object]


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def noisy_photo() -> np.ndarray:
    """float32[512, 512, 3] in 0..1."""
    picture = photo() / 255
    return np.clip(picture + random().normal(0, 0.03, picture.shape), 0, 1).astype(np.float32)


def crops(size: int, number: int) -> np.ndarray:
    """float32[number, 3, size, size], from all over the photograph."""
    picture, side = noisy_photo(), int(number**0.5)
    places = [(512 - size) * place // max(side - 1, 1) for place in range(side)]
    parts = [picture[top : top + size, left : left + size] for top in places for left in places]
    return np.stack(parts).transpose(0, 3, 1, 2).copy()


def digits(number: int) -> np.ndarray:
    """float32[number, 1, 28, 28]: bright strokes on black."""
    rows, columns = np.mgrid[:28, :28]
    angles, offsets = random().uniform(0, np.pi, (number, 1, 1)), random().uniform(-5, 5, (number, 1, 1))
    distance = (rows - 14) * np.cos(angles) + (columns - 14) * np.sin(angles) - offsets
    return np.clip(2 - np.abs(distance), 0, 1).astype(np.float32)[:, None]


def walk(seed: int) -> np.ndarray:
    """float64[300]: a curve to plot."""
    return np.random.default_rng(seed).normal(size=300).cumsum()


def scalar_cases(writer: Any) -> dict[str, Adder]:
    return {
        "scalar / step 0": lambda: writer.add_scalar("loss", 0.5, 0),
        "scalar / step 1": lambda: writer.add_scalar("loss", 0.5, 1),
        "scalar / step 10,000,000": lambda: writer.add_scalar("loss", 0.5, 10_000_000),
        "scalar / tag of 120 letters": lambda: writer.add_scalar("l" * 120, 0.5, 1),
        "scalar / tag of 1,000 letters": lambda: writer.add_scalar("l" * 1000, 0.5, 1),
        "scalar / 100 of one tag": lambda: [writer.add_scalar("loss", 0.5, step) for step in range(100)],
        "scalars / 2 curves": lambda: writer.add_scalars("loss", {"a": 0.5, "b": 0.25}, 1),
        "scalars / 10 curves": lambda: writer.add_scalars("loss", {f"c{number}": 0.5 for number in range(10)}, 1),
        "text / 10 letters": lambda: writer.add_text("note", "ten letter", 1),
        "text / 10,000 letters": lambda: writer.add_text("note", "ten letter" * 1000, 1),
        "text / at step 0": lambda: writer.add_text("note", "ten letter", 0),
    }


def array_cases(writer: Any) -> dict[str, Adder]:
    import torch

    normal = torch.from_numpy(random().normal(size=1_000_000)).float()
    arrays = {
        "one float32": torch.tensor(0.5),
        "3 float32": normal[:3],
        "10 x 100 float32": normal[:1000].reshape(10, 100),
        "1,000,000 float32": normal,
        "zero float32": torch.tensor(0.0),
        "100 float64": normal[:100].double(),
        "100 float16": normal[:100].half(),
        "one int64": torch.tensor(7),
        "100 small int64": torch.arange(100),
        "100 large int64": torch.arange(100) * 2**55,
        "100 small int32": torch.arange(100).int(),
        "100 uint8": torch.arange(100).to(torch.uint8),
        "100 booleans": torch.arange(100) > 50,
        "100 zeros": torch.zeros(100),
    }
    cases = {f"tensor / {name}": lambda array=array: writer.add_tensor("t", array, 1) for name, array in arrays.items()}
    for count in (10, 1000, 1_000_000):
        cases[f"histogram / {count:,} elements"] = lambda count=count: writer.add_histogram("h", normal[:count], 1)
    cases["histogram / 100 zeros"] = lambda: writer.add_histogram("h", torch.zeros(100), 1)
    for count in (3, 30, 300):
        edges, counts = np.linspace(-1.0, 1.0, count + 1), np.arange(count)
        total = int(counts.sum())
        cases[f"pre-binned histogram / {count} buckets"] = lambda edges=edges, counts=counts, total=total: (
            writer.add_histogram_raw("h", -1.0, 1.0, total, 0.0, 1.0, edges[1:].tolist(), counts.tolist(), 1)
        )
    return cases


def picture_cases(writer: Any) -> dict[str, Adder]:
    picture, noisy = photo().transpose(2, 0, 1).copy(), noisy_photo().transpose(2, 0, 1).copy()
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, None].repeat(3, 0).repeat(64, 1)
    blocks = random().integers(0, 256, (3, 16, 16), np.uint8).repeat(32, axis=1).repeat(32, axis=2)
    pictures = {
        "1 x 1 x 3": picture[:, :1, :1],
        "8 x 8 x 3, noise": random().integers(0, 256, (3, 8, 8), np.uint8),
        "28 x 28 x 1, a stroke": digits(1)[0],
        "20 x 20 x 3, photograph": noisy[:, 100:120, 200:220],
        "64 x 64 x 3, one colour": np.zeros((3, 64, 64), np.uint8),
        "64 x 64 x 3, a ramp": ramp,
        "64 x 64 x 4, noise": random().integers(0, 256, (4, 64, 64), np.uint8),
        "512 x 512 x 3, photograph": picture,
        "512 x 512 x 3, photograph, noise": noisy,
        "512 x 512 x 3, 256 squares": blocks,
        "512 x 512 x 1, photograph": picture[:1],
    }
    cases = {f"picture / {name}": lambda one=one: writer.add_image("p", one, 1) for name, one in pictures.items()}
    batches = {
        "1 of 20 x 20 x 3": crops(20, 1),
        "4 of 20 x 20 x 3": crops(20, 4),
        "4 of 64 x 64 x 3": crops(64, 4),
        "16 of 28 x 28 x 1, strokes": digits(16),
        "64 of 32 x 32 x 3": crops(32, 64),
        "64 of 28 x 28 x 1, strokes": digits(64),
        "16 of 128 x 128 x 3": crops(128, 16),
    }
    cases |= {f"pictures / {name}": lambda many=many: writer.add_images("p", many, 1) for name, many in batches.items()}
    boxes = {16: [[2, 2, 9, 9]], 64: [[5, 5, 30, 30], [20, 10, 60, 50]], 512: [[50, 60, 300, 400]]}
    for size, corners in boxes.items():
        part = picture[:, 512 - size :, 512 - size :]
        cases[f"picture with boxes / {size} x {size} x 3"] = lambda part=part, corners=corners: (
            writer.add_image_with_boxes("p", part, np.array(corners, np.float32), 1)
        )
    for width, height in ((2.4, 1.8), (6.4, 4.8), (12, 8)):
        cases[f"figure / {100 * width:.0f} x {100 * height:.0f}"] = lambda width=width, height=height: (
            writer.add_figure("f", line_figure(walk(0), width, height), 1)
        )
    cases["figure / three of 640 x 480"] = lambda: writer.add_figure(
        "f", [line_figure(walk(seed)) for seed in range(3)], 1
    )
    return cases


def page_cases(writer: Any) -> dict[str, Adder]:
    """Sound, PR curves, meshes, custom scalars, trials."""
    sound = 0.1 * random().normal(size=(1, 441_000)).astype(np.float32)
    cases = {
        f"sound / {frames:,} frames": lambda frames=frames: writer.add_audio("s", sound[:, :frames], 1)
        for frames in (10, 44_100, 441_000)
    }
    scores = random().random(1000)
    truth = scores > random().random(1000)
    for count in (3, 30, 127):
        cases[f"PR curve / {count} thresholds"] = lambda count=count: writer.add_pr_curve(
            "pr", truth.astype(int), scores, 1, count
        )
    rows = [np.arange(127.0) for _ in range(4)] + [np.linspace(0, 1, 127)] * 2
    cases["PR curve, counted / 127 thresholds"] = lambda: writer.add_pr_curve_raw("pr", *rows, 1, 127)
    for count in (4, 1000, 20_000):
        points = random().normal(size=(1, count, 3)).astype(np.float32)
        colors = random().integers(0, 256, (1, count, 3))
        faces = random().integers(0, count, (1, 2 * count, 3))
        cases[f"mesh / {count:,} points"] = lambda points=points: writer.add_mesh("m", points, global_step=1)
        cases[f"mesh / {count:,} vertices, colours, faces"] = lambda points=points, colors=colors, faces=faces: (
            writer.add_mesh("m", points, colors, faces, {"camera": {"cls": "PerspectiveCamera"}}, 1)
        )
    for charts in (1, 100):
        layout = {"all": {f"chart {number}": ["Multiline", ["loss", "accuracy"]] for number in range(charts)}}
        cases[f"custom scalars / {charts} charts"] = lambda layout=layout: writer.add_custom_scalars(layout)
    cases["custom scalars / one line chart"] = lambda: writer.add_custom_scalars_multilinechart(["loss"])
    cases["custom scalars / one margin chart"] = lambda: writer.add_custom_scalars_marginchart(["a", "b", "c"])
    trial = ("trial",) if type(writer).__module__.startswith("tensorboardX") else (None, "trial")
    for count in (1, 10, 100):
        hparams = {f"h{number}": [0.5, True, "text"][number % 3] for number in range(count)}
        metrics = {f"m{number}": 0.5 for number in range(1 + count // 10)}
        cases[f"trial / {count} hyperparameters"] = lambda hparams=hparams, metrics=metrics: writer.add_hparams(
            hparams, metrics, *trial
        )
    domain = {"size": list(range(10)), "name": ["a", "b"]}
    cases["trial / 2 hyperparameters of 10 and 2 values"] = lambda: writer.add_hparams(
        {"size": 3, "name": "b"}, {"m": 0.5}, hparam_domain_discrete=domain, run_name="trial"
    )
    return cases


def model_cases(writer: Any) -> dict[str, Adder]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    small = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    nets = {
        "linear, ReLU": (small, torch.zeros(1, 4)),
        "20 linear layers": (nn.Sequential(*(nn.Linear(8, 8) for _ in range(20))), torch.zeros(1, 8)),
        "transformer of 2 layers": (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
            torch.zeros(1, 5, 8),
        ),
    }
    cases = {f"graph / {name}": lambda pair=pair: writer.add_graph(*pair) for name, pair in nets.items()}
    for count, size in ((5, 2), (100, 16), (1000, 128)):
        points, labels = torch.randn(count, size), [f"item {number}" for number in range(count)]
        pictures = torch.from_numpy(digits(count))
        cases[f"embedding / {count:,} x {size}"] = lambda points=points: writer.add_embedding(points, global_step=1)
        cases[f"embedding / {count:,} x {size}, labels, pictures"] = (
            lambda points=points, labels=labels, pictures=pictures: writer.add_embedding(points, labels, pictures, 1)
        )
    return cases


def tensorflow_cases() -> dict[str, Adder]:
    """Those of the cases that TensorFlow's and TensorBoard's summary functions have."""
    import tensorflow as tf
    from tensorboard.plugins.custom_scalar import layout_pb2
    from tensorboard.plugins.custom_scalar import summary as custom_scalar
    from tensorboard.plugins.hparams import api, api_pb2
    from tensorboard.plugins.hparams import summary as trials
    from tensorboard.plugins.mesh import summary_v2 as mesh

    class Functions:
        """The calls of a SummaryWriter, by summary functions."""

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            tf.summary.scalar(tag, value, step)

        def add_text(self, tag: str, text: str, step: int) -> None:
            tf.summary.text(f"{tag}/text_summary", text, step)

        def add_tensor(self, tag: str, values: Any, step: int) -> None:
            metadata = tf.compat.v1.SummaryMetadata()
            metadata.plugin_data.plugin_name = "tensor"
            tf.summary.write(tag, tf.constant(values.numpy()), step, metadata)

        def add_histogram(self, tag: str, values: Any, step: int) -> None:
            tf.summary.histogram(tag, values.numpy(), step)

        def add_image(self, tag: str, picture: np.ndarray, step: int) -> None:
            tf.summary.image(tag, picture.transpose(1, 2, 0)[None], step)

        def add_images(self, tag: str, pictures: np.ndarray, step: int) -> None:
            tf.summary.image(tag, pictures.transpose(0, 2, 3, 1), step, max_outputs=len(pictures))

        def add_audio(self, tag: str, sound: np.ndarray, step: int) -> None:
            tf.summary.audio(tag, sound[:, :, None], 44_100, step)

        def add_mesh(self, tag, vertices, colors=None, faces=None, config_dict=None, global_step=0) -> None:
            mesh.mesh(tag, vertices, faces, colors, config_dict, step=global_step)

        def add_custom_scalars(self, layout: dict) -> None:
            message = layout_pb2.Layout()
            for title, charts in layout.items():
                category = message.category.add(title=title)
                for name, (_, tags) in charts.items():
                    category.chart.add(title=name).multiline.tag.extend(tags)
            tf.summary.experimental.write_raw_pb(custom_scalar.pb(message).SerializeToString(), 0)

        def add_hparams(self, hparams: dict, metrics: dict, domains: None, run_name: str) -> None:
            api.hparams_config([api.HParam(name) for name in hparams], [api.Metric(name) for name in metrics])
            api.hparams(hparams, trial_id=run_name)
            for name, value in metrics.items():
                tf.summary.scalar(name, value, 0)
            end = trials.session_end_pb(api_pb2.STATUS_SUCCESS)
            tf.summary.experimental.write_raw_pb(end.SerializeToString(), 0)

    functions = Functions()
    groups = (scalar_cases, array_cases, picture_cases, page_cases)
    return {case: adder for group in groups for case, adder in group(functions).items()}


def cases_of(name: str, writer: Any) -> dict[str, Adder]:
    if name == "tensorflow":
        return tensorflow_cases()
    groups = (scalar_cases, array_cases, picture_cases, page_cases, model_cases)
    return {case: adder for group in groups for case, adder in group(writer).items()}
