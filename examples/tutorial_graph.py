"""Step 4 of a TensorBoard tutorial: the graph of a model, with its layers, and what they cost."""

import torch
from torch import nn

from torchboard import SummaryWriter

model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10), nn.Softmax(1))

with SummaryWriter("runs/graph") as writer:
    writer.add_graph(model, torch.zeros(1, 28, 28))

print("The graph is in runs/graph. To look at it: tensorboard --logdir runs/graph")
