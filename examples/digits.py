"""The whole job: handwritten digits, a network of residual blocks, a learning rate schedule, and everything on the pages.

    python examples/digits.py --epochs 8 --log-dir runs/digits

Scalars of training and validation, histograms of every parameter, gradient, update and activation, feature maps of each
convolution, a confusion matrix, pictures of the mistakes, the two graphs and the facts of the run.
"""

from __future__ import annotations

import argparse
import os

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split
from tqdm import tqdm

from torchboard import Capture, Monitor


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + x)


class DigitNet(nn.Module):
    """8 x 8 grey digits to ten scores."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(Block(channels), Block(channels))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(channels * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.blocks(self.stem(x)), 2)
        return self.head(self.dropout(x.flatten(1)))


def load(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """1,500 digits to train on and 297 to validate with."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    data = TensorDataset(images, torch.tensor(digits.target))
    return random_split(data, [1500, 297], torch.Generator().manual_seed(seed))


def train(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, monitor: Monitor) -> None:
    """One epoch; metrics stay on the device."""
    model.train()
    for images, labels in loader:
        outputs = model(images)
        loss = functional.cross_entropy(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.log_batch(loss=loss, accuracy=(outputs.argmax(1) == labels).float().mean())


@torch.no_grad()
def validate(model: nn.Module, data: TensorDataset, monitor: Monitor) -> dict[str, Tensor]:
    """Scores the validation digits, and logs the confusion matrix and the mistakes."""
    model.eval()
    images, labels = data[:]
    with monitor.phase("validation"):
        outputs = model(images)
        guesses = outputs.argmax(1)
        figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
        ConfusionMatrixDisplay.from_predictions(labels, guesses, ax=axes, cmap="Blues", colorbar=False)
        monitor.writer.add_figure("confusion_matrix", figure)
        mistakes = images[guesses != labels][:16]
        if len(mistakes):
            monitor.writer.add_images("mistakes", mistakes)
    return {"val_loss": functional.cross_entropy(outputs, labels), "val_accuracy": (guesses == labels).float().mean()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--log-dir", default="runs/digits")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    training, validation = load(options.seed)
    loader = DataLoader(training, batch_size=32, shuffle=True)
    model = DigitNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)

    with Monitor(model, options.log_dir, optimizer=optimizer, capture=Capture(every=10)) as monitor:
        for _ in tqdm(range(options.epochs), desc="training", unit="epoch"):
            train(model, loader, optimizer, monitor)
            monitor.log_epoch(**validate(model, validation, monitor))
            scheduler.step()

    folder = os.path.dirname(options.log_dir.rstrip("/")) or options.log_dir
    print(f"The run is in {options.log_dir}. To look at it: tensorboard --logdir {folder}")


if __name__ == "__main__":
    main()
