"""A small convolutional network learns scikit-learn's 1,797 handwritten digits, watched by torchboard."""

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from tqdm import tqdm

from torchboard import Monitor

digits = load_digits()
data = TensorDataset(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target))
training, validation = random_split(data, [1500, 297], torch.Generator().manual_seed(0))
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def score(outputs, labels):
    hits = outputs.argmax(1) == labels
    return {"loss": nn.functional.cross_entropy(outputs, labels), "accuracy": hits.float().mean()}


with Monitor(model, "runs/quickstart") as monitor:
    for _ in tqdm(range(8), desc="training", unit="epoch"):
        for images, labels in DataLoader(training, batch_size=32, shuffle=True):
            scores = score(model(images), labels)
            optimizer.zero_grad()
            scores["loss"].backward()
            optimizer.step()
            monitor.log_batch(**scores)
        with monitor.phase("validation"), torch.no_grad():
            images, labels = validation[:]
            outputs = model(images)
            monitor.log_batch(**score(outputs, labels))
            matrix = ConfusionMatrixDisplay.from_predictions(labels, outputs.argmax(1))
            monitor.writer.add_figure("confusion_matrix", matrix.figure_)
        monitor.log_epoch()

print("The run is in runs/quickstart. To look at it: tensorboard --logdir runs")
