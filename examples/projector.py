"""How a network comes to tell digits apart: what its last layer but one makes of them, in the Projector tab every epoch."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from torchboard import Monitor

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)
torch.manual_seed(0)
training, probe = torch.randperm(len(images)).split([1500, 297])
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters(), 3e-3)

with Monitor(model, "runs/projector") as monitor:
    for _ in range(4):
        for batch in training[torch.randperm(len(training))].split(50):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.log_batch(loss=loss)
        monitor.log_embeddings("2", images[probe], labels=labels[probe].tolist(), images=images[probe])
        monitor.log_epoch()

print("The run is in runs/projector. To look at it: tensorboard --logdir runs/projector")
