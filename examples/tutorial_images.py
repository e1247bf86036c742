"""Step 3 of a TensorBoard tutorial: pictures of the data, a figure, feature maps, and a confusion matrix every epoch."""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from torchboard import Monitor

digits = load_digits()
data = TensorDataset(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target))
training, validation = random_split(data, [1500, 297], torch.Generator().manual_seed(0))
images, labels = training[:25]

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(),
    nn.Linear(1024, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), 1e-3)

with Monitor(model, "runs/images") as monitor:
    monitor.writer.add_images("training data", images, 0)
    figure, axes = plt.subplots(5, 5, figsize=(6, 6), layout="constrained")
    for cell, image, label in zip(axes.flat, images, labels):
        cell.imshow(image[0], cmap="binary")
        cell.set_title(int(label))
        cell.axis("off")
    monitor.writer.add_figure("training data with labels", figure, 0)
    for _ in range(3):
        for inputs, targets in DataLoader(training, batch_size=50, shuffle=True):
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.log_batch(loss=loss)
        with monitor.phase("validation"), torch.no_grad():
            inputs, targets = validation[:]
            monitor.log_predictions(targets, model(inputs), images=inputs, logits=True)
        monitor.log_epoch()

print("The run is in runs/images. To look at it: tensorboard --logdir runs/images")
