"""Step 1 of a TensorBoard tutorial: a line learned with two learning rates, and the two losses over each other."""

import torch
from torch import nn

from torchboard import Monitor

torch.manual_seed(0)
x = torch.linspace(-1, 1, 1000)[:, None]
y = 0.5 * x + 2 + 0.05 * torch.randn_like(x)
order = torch.randperm(1000)
training, validation = order[:800], order[800:]

for lr in (0.01, 0.1):
    model = nn.Sequential(nn.Linear(1, 16), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr)
    with Monitor(model, f"runs/scalars/lr={lr}") as monitor:
        for _ in range(20):
            for batch in training[torch.randperm(800)].split(100):
                loss = nn.functional.mse_loss(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                monitor.log_batch(loss=loss)
            with monitor.phase("validation"), torch.no_grad():
                monitor.log_batch(loss=nn.functional.mse_loss(model(x[validation]), y[validation]))
            monitor.log_epoch()

print("The two runs are in runs/scalars. To compare them: tensorboard --logdir runs/scalars")
