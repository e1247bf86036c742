"""Where the time of a batch goes: by operator, by layer, and on a time line, in the Profile tab and in Perfetto.

The Profile tab needs ``pip install xprof``; the scalars ``layer_time/…``, the text ``profile/operations`` and the trace for
ui.perfetto.dev do not.
"""

import torch
from torch import nn

from torchboard import Monitor

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(4),
    nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 10),
)  # fmt: skip
optimizer = torch.optim.SGD(model.parameters(), 0.01)

with Monitor(model, "runs/profiler", profile_batch=(5, 8), write_steps_per_second=True) as monitor:
    for _ in range(10):
        images, labels = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.log_batch(len(images), loss=loss)
    monitor.log_epoch()

print("The run is in runs/profiler. To look at it: tensorboard --logdir runs/profiler")
