"""Writes ``tensorflow_v1.tfevents`` and ``tensorflow_v2.tfevents``: small event files of TensorFlow's own writers.

    python tests/golden/tensorflow_logs.py

It needs tensorflow, which no test does. Both hold, under the same tags, what ``VALUES`` says: the first as summary operators
in a graph with a session and a ``FileWriter`` leave it, the second as ``tf.summary`` does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

STEPS = 20
VALUES = {
    "loss": lambda step: np.float32(1 / (step + 1)),
    "weights": lambda step: np.arange(100, dtype=np.float32),
    "picture": lambda step: np.full((1, 4, 5, 3), 51, np.uint8),
    "sound": lambda step: np.zeros((1, 8, 1), np.float32),
    "notes": lambda step: "text",
}
OLD = tf.compat.v1


def write_new(log_dir: str) -> None:
    """Scalars at every step, and one of each other kind."""
    with tf.summary.create_file_writer(log_dir).as_default():
        for step in range(STEPS):
            tf.summary.scalar("loss", VALUES["loss"](step), step)
        tf.summary.histogram("weights", VALUES["weights"](3), 3)
        tf.summary.image("picture", VALUES["picture"](3), 3)
        tf.summary.audio("sound", VALUES["sound"](3), 8000, 3)
        tf.summary.text("notes", VALUES["notes"](3), 3)


def write_old(log_dir: str) -> None:
    """The same, by operators of a graph that is written too."""
    with tf.Graph().as_default() as graph, OLD.Session() as session:
        number = OLD.placeholder(tf.float32, (), "number")
        loss = OLD.summary.scalar("loss", number)
        others = [
            OLD.summary.histogram("weights", VALUES["weights"](3)),
            OLD.summary.image("picture", VALUES["picture"](3)),
            OLD.summary.audio("sound", VALUES["sound"](3), 8000),
            OLD.summary.text("notes", tf.constant(VALUES["notes"](3))),
        ]
        with OLD.summary.FileWriter(log_dir, graph) as writer:
            for step in range(STEPS):
                writer.add_summary(session.run(loss, {number: VALUES["loss"](step)}), step)
            writer.add_summary(session.run(OLD.summary.merge(others)), 3)


if __name__ == "__main__":
    for version, write in (("v1", write_old), ("v2", write_new)):
        with tempfile.TemporaryDirectory() as log_dir:
            write(log_dir)
            (written,) = Path(log_dir).glob("*tfevents*")
            Path(__file__).with_name(f"tensorflow_{version}.tfevents").write_bytes(written.read_bytes())
