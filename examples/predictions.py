"""What a classifier's predictions say about it: curves, confusions, calibration, and how it does on slices of its data."""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from torchboard import Monitor

data = load_breast_cancer()
x = torch.tensor(data.data, dtype=torch.float32)
x = (x - x.mean(0)) / x.std(0)
y = torch.tensor(data.target)
torch.manual_seed(0)
training, validation = torch.randperm(len(y)).split([400, len(y) - 400])
sizes = [("small", "large")[int(radius > 14)] for radius in data.data[validation, 0]]

model = nn.Sequential(nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.05)

with Monitor(model, "runs/predictions") as monitor:
    for _ in range(6):
        for batch in training[torch.randperm(400)].split(20):
            loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch])[:, 0], y[batch].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.log_batch(loss=loss)
        with monitor.phase("validation"), torch.no_grad():
            probabilities = torch.sigmoid(model(x[validation])[:, 0])
            monitor.log_predictions(y[validation], probabilities, classes=list(data.target_names))
            monitor.log_slices(y[validation], probabilities, groups=sizes)
        monitor.log_epoch()

print("The run is in runs/predictions. To look at it: tensorboard --logdir runs/predictions")
