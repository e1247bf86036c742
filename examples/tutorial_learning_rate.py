"""Step 2 of a TensorBoard tutorial: a scalar of one's own, the learning rate, in the shapes of ``tf.summary``."""

import torch
from torch import nn

from torchboard import Monitor, summary

torch.manual_seed(0)
x = torch.linspace(-1, 1, 1000)[:, None]
y = 0.5 * x + 2 + 0.05 * torch.randn_like(x)
model = nn.Sequential(nn.Linear(1, 16), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 if epoch < 5 else 0.2 if epoch < 10 else 0.05)

file_writer = summary.create_file_writer("runs/learning_rate/metrics")
file_writer.set_as_default()
with Monitor(model, "runs/learning_rate") as monitor:
    for epoch in range(15):
        for batch in torch.randperm(1000).split(100):
            loss = nn.functional.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.log_batch(loss=loss)
        summary.scalar("learning rate", schedule.get_last_lr()[0], step=epoch)
        monitor.log_epoch()  # which writes epoch_learning_rate without being asked
        schedule.step()
file_writer.close()

print("The run is in runs/learning_rate. To look at it: tensorboard --logdir runs/learning_rate")
