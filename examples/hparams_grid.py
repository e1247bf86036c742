"""The HParams tutorial's grid: 2 x 2 x 2 x 2 trials of a small network on scikit-learn's digits, each trained for real."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset, random_split

from torchboard import Monitor
from torchboard.hparams import Discrete, HParam, Metric, grid, hparams_config, progress

UNITS = HParam("num_units", Discrete([16, 32]))
DROPOUT = HParam("dropout", Discrete([0.1, 0.2]))
OPTIMIZER = HParam("optimizer", Discrete(["adam", "sgd"]))
EPOCHS = HParam("epochs", Discrete([2, 4]))
OPTIMIZERS = {
    "adam": lambda weights: torch.optim.Adam(weights, 0.01),
    "sgd": lambda weights: torch.optim.SGD(weights, 0.1),
}

digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
training, validation = (part[:] for part in random_split(data, [1500, 297], torch.Generator().manual_seed(0)))


def score(model, images, labels):
    outputs = model(images)
    return {
        "loss": nn.functional.cross_entropy(outputs, labels),
        "accuracy": (outputs.argmax(1) == labels).float().mean(),
    }


def run(log_dir, choice):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, choice[UNITS]), nn.ReLU(), nn.Dropout(choice[DROPOUT]), nn.Linear(choice[UNITS], 10)
    )
    optimizer = OPTIMIZERS[choice[OPTIMIZER]](model.parameters())
    with Monitor(model, log_dir, hparams=choice, histogram_freq=0, write_graph=False) as monitor:
        for _ in range(choice[EPOCHS]):
            model.train()
            for batch in torch.randperm(1500).split(50):
                scores = score(model, training[0][batch], training[1][batch])
                optimizer.zero_grad()
                scores["loss"].backward()
                optimizer.step()
                monitor.log_batch(**scores)
            model.eval()
            with monitor.phase("validation"), torch.no_grad():
                monitor.log_batch(**score(model, *validation))
            monitor.log_epoch()


hparams_config(
    "runs/hparams_grid",
    hparams=[UNITS, DROPOUT, OPTIMIZER, EPOCHS],
    metrics=[Metric("epoch_accuracy", "validation", "accuracy"), Metric("epoch_loss", "validation", "loss")],
)
for number, choice in enumerate(progress(grid([UNITS, DROPOUT, OPTIMIZER, EPOCHS]))):
    run(f"runs/hparams_grid/{number:02}", choice)

print("The 16 trials are in runs/hparams_grid. To look at them: tensorboard --logdir runs/hparams_grid")
