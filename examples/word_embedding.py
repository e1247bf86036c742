"""Words that stand together come to lie together: an embedding learned from real text, in the Projector tab every epoch.

The text is what scikit-learn says of its data sets, about 15,000 words.
"""

import re
from collections import Counter

import torch
from sklearn import datasets
from torch import nn

from torchboard import Monitor

loaders = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
text = " ".join(getattr(datasets, f"load_{name}")().DESCR for name in loaders)
text += " ".join(
    getattr(datasets, name).__doc__ for name in dir(datasets) if name.startswith(("fetch_", "load_", "make_"))
)
tokens = re.findall(r"[a-z]{2,}", text.lower())
words = [word for word, _ in Counter(tokens).most_common(300)]
number = {word: place for place, word in enumerate(words)}
sequence = torch.tensor([number[word] for word in tokens if word in number])
pairs = torch.cat([torch.stack([sequence[:-gap], sequence[gap:]], 1) for gap in (1, 2)])  # words near each other

torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(len(words), 16), nn.Linear(16, len(words)))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)

with Monitor(model, "runs/word_embedding", embeddings_freq=2, embeddings_metadata=words, histogram_freq=2) as monitor:
    for _ in range(5):
        for batch in pairs[torch.randperm(len(pairs))].split(256):
            loss = nn.functional.cross_entropy(model(batch[:, 0]), batch[:, 1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.log_batch(len(batch), loss=loss)
        monitor.log_epoch()

print("The run is in runs/word_embedding. To look at it: tensorboard --logdir runs/word_embedding")
