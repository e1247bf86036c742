"""Writes ``keras_callback.json``: what Keras' TensorBoard callback logs of small trainings, and the numbers it logged them of.

    python tests/golden/keras_callback.py

It needs tensorflow and keras, which no test does. Of each training the file holds the callback's options, what Keras said
at the end of each batch and epoch, and the runs, tags, steps and values of the scalars that the callback wrote of it. The
values of what depends on the clock are null.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EPOCHS, BATCHES, BATCH_SIZE = 3, 4, 2
CASES = {
    "epochs": {},
    "every batch": {"update_freq": "batch"},
    "every third batch, with speed": {"update_freq": 3, "write_steps_per_second": True},
    "epochs, with speed": {"write_steps_per_second": True},
    "without validation": {"update_freq": 2, "validation": False},
    "histograms of every second epoch": {"histogram_freq": 2},
}


class Listener(keras.callbacks.Callback):
    """Sets a learning rate for each epoch and notes what Keras says."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict[str, Any]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        rate = 0.1 / (epoch + 1)
        self.model.optimizer.learning_rate = rate
        self.epochs.append({"learning_rate": rate, "batches": []})

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.epochs[-1]["batches"].append({name: float(value) for name, value in logs.items()})

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epochs[-1]["logs"] = {name: float(value) for name, value in logs.items()}


def train(log_dir: str, validation: bool = True, **options: Any) -> list[dict[str, Any]]:
    """Trains a small model with the callback; gives what Keras said."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(BATCHES * BATCH_SIZE, 3)).astype(np.float32)
    y = x.sum(axis=1, keepdims=True)
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1, name="dense")])
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    listener = Listener()
    callbacks = [listener, keras.callbacks.TensorBoard(log_dir, write_graph=False, **options)]
    held_out = {"validation_data": (x, y), "validation_batch_size": BATCH_SIZE} if validation else {}
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0, callbacks=callbacks, **held_out)
    return listener.epochs


def scalars(directory: Path) -> dict[str, list[tuple[int, float | None]]]:
    """Tag -> steps and values of a run's scalars."""
    log = EventAccumulator(str(directory), {"tensors": 0}).Reload()
    return {
        tag: [
            (event.step, None if "per_second" in tag else float(tf.make_ndarray(event.tensor_proto)))
            for event in log.Tensors(tag)
        ]
        for tag in sorted(log.Tags()["tensors"])
        if log.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
    }


def histogram_steps(directory: Path) -> list[int]:
    """The steps of a run's histograms, which are those of all."""
    log = EventAccumulator(str(directory), {"tensors": 0}).Reload()
    tags = [tag for tag in log.Tags()["tensors"] if log.SummaryMetadata(tag).plugin_data.plugin_name == "histograms"]
    return sorted({event.step for tag in tags for event in log.Tensors(tag)})


def record(options: dict[str, Any]) -> dict[str, Any]:
    """One training, and what was logged of it."""
    with tempfile.TemporaryDirectory() as log_dir:
        epochs = train(log_dir, **options)
        runs = sorted(path for path in Path(log_dir).iterdir() if path.is_dir())
        return {
            "options": {name: value for name, value in options.items() if name != "validation"},
            "epochs": epochs,
            "runs": {run.name: scalars(run) for run in runs},
            "histogram_steps": histogram_steps(Path(log_dir, "train")),
        }


if __name__ == "__main__":
    golden = {"keras": keras.__version__, "cases": {name: record(options) for name, options in CASES.items()}}
    Path(__file__).with_suffix(".json").write_text(json.dumps(golden, indent=1) + "\n")
