"""The trainings of ``step_overhead`` and what may watch them; run as a script, one training that takes its steps on demand.

The process reads the number of steps to take, one a line, or ``epoch``, or ``on and off`` and a number, and answers each with
one JSON object of figures. So several trainings can take turns, a few steps each, on a machine that others use too.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

Batch = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Causal self-attention of eight heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(2, (3, 8, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and two linear layers, each behind a normalisation and beside a way around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.wide, self.gelu, self.narrow = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(self.gelu(self.wide(self.norm2(x))))


class Transformer(nn.Module):
    """A language model like GPT-2, its embedding and its last layer one matrix: 23 million parameters."""

    def __init__(self, words: int = 8192, width: int = 512, layers: int = 6, length: int = 128) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight
        self.apply(_initialise)

    def forward(self, text: Tensor) -> Tensor:
        x = self.words(text) + self.places(torch.arange(text.shape[1]))
        return self.head(self.norm(self.blocks(x))).flatten(0, 1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)


def digits_job() -> tuple[nn.Module, list[Batch]]:
    import digits
    from torch.utils.data import DataLoader

    batches = DataLoader(digits.load(0)[0], batch_size=32, shuffle=True, drop_last=True)
    return digits.DigitNet(), [tuple(batch) for batch in batches]


def resnet_job() -> tuple[nn.Module, list[Batch]]:
    from torchvision.models import resnet50

    return resnet50(), [(torch.randn(4, 3, 160, 160), torch.randint(0, 1000, (4,))) for _ in range(4)]


def transformer_job() -> tuple[nn.Module, list[Batch]]:
    texts = [torch.randint(0, 8192, (4, 129)) for _ in range(4)]
    return Transformer(), [(text[:, :-1], text[:, 1:].flatten()) for text in texts]


def layers_job() -> tuple[nn.Module, list[Batch]]:
    widths = [nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU()) for _ in range(12)]
    return nn.Sequential(*widths, nn.Linear(64, 10)), [(torch.randn(32, 64), torch.randint(0, 10, (32,)))]


def mobilenet_job() -> tuple[nn.Module, list[Batch]]:
    from torchvision.models import mobilenet_v3_small

    return mobilenet_v3_small(), [(torch.randn(8, 3, 64, 64), torch.randint(0, 1000, (8,))) for _ in range(4)]


def compiled_job() -> tuple[nn.Module, list[Batch]]:
    model, batches = digits_job()
    return torch.compile(model), batches


JOBS: dict[str, tuple[str, Callable[[], tuple[nn.Module, list[Batch]]]]] = {
    "resnet50": (
        "torchvision's ResNet-50: 25.6 million parameters, batches of 4 pictures of 160 x 160, SGD",
        resnet_job,
    ),
    "transformer": (
        "a transformer like GPT-2: 23.1 million parameters, 6 layers of width 512, 8192 words, batches of 4 x 128, AdamW",
        transformer_job,
    ),
    "mobilenet": (
        "torchvision's MobileNetV3-small: 2.5 million parameters, 208 modules, batches of 8 pictures of 64 x 64, SGD",
        mobilenet_job,
    ),
    "digits": ("the digits job: 12 thousand parameters, 18 layers, batches of 32 pictures of 8 x 8, SGD", digits_job),
    "layers": ("many small layers: 12 x (linear, normalisation, GELU) of width 64, batches of 32, SGD", layers_job),
    "compiled": ("the digits job under `torch.compile`, with its default backend", compiled_job),
}


class Watch:
    """Watches nothing; what the training calls."""

    def __init__(self, model: nn.Module, log_dir: str, every: int) -> None:
        self.model, self.log_dir, self.every = model, log_dir, every
        self.step = 0

    @property
    def due(self) -> bool:
        return self.step % self.every == 0

    def before_forward(self, inputs: Tensor) -> None: ...

    def before_step(self) -> None: ...

    def after_step(self, loss: Tensor) -> None:
        self.step += 1

    def end_epoch(self) -> None: ...

    def close(self) -> None: ...


class Torchboard(Watch):
    """The monitor as it comes."""

    def __init__(self, model: nn.Module, log_dir: str, every: int) -> None:
        super().__init__(model, log_dir, every)
        from torchboard import Capture, Monitor

        self.monitor = Monitor(model, log_dir, capture=Capture(every=every, **self.options))

    options: dict[str, str] = {}

    def after_step(self, loss: Tensor) -> None:
        self.monitor.log_batch(loss=loss)

    def end_epoch(self) -> None:
        self.monitor.log_epoch()

    def close(self) -> None:
        self.monitor.close()


class TorchboardSkip(Torchboard):
    options = {"compiled": "skip"}


class EmptyHooks(Watch):
    """Hooks where torchboard has them, on layers and on their outputs, that do nothing: what Python and torch take for them."""

    def __init__(self, model: nn.Module, log_dir: str, every: int) -> None:
        super().__init__(model, log_dir, every)
        for module in model.modules():
            if not isinstance(module, nn.Sequential):
                module.register_forward_hook(_tap)


def _tap(module: nn.Module, args: tuple, output: Tensor) -> None:
    if output.requires_grad and not output.is_leaf:
        output.register_hook(_nothing)


def _nothing(gradient: Tensor) -> None: ...


class Wandb(Watch):
    """Weights & Biases' own hooks: parameters and their gradients."""

    def __init__(self, model: nn.Module, log_dir: str, every: int) -> None:
        super().__init__(model, log_dir, every)
        os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=log_dir)
        import wandb

        self.run = wandb.init(project="step_overhead", dir=log_dir)
        self.run.watch(model, log="all", log_freq=every)

    def after_step(self, loss: Tensor) -> None:
        self.run.log({"loss": loss.detach()})

    def close(self) -> None:
        self.run.finish()


class ByHand(Watch):
    """Activations, parameters and their gradients through ``add_histogram``, as a user of the peer writes it."""

    def __init__(self, model: nn.Module, log_dir: str, every: int) -> None:
        super().__init__(model, log_dir, every)
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(log_dir)
        for name, module in model.named_modules():
            if not isinstance(module, nn.Sequential):
                module.register_forward_hook(lambda _, args, output, name=name: self.activation(name, output))

    def activation(self, name: str, output: Tensor) -> None:
        if self.due:
            self.writer.add_histogram(f"activations/{name or 'model'}", output, self.step)

    def before_step(self) -> None:
        if self.due:
            for name, parameter in self.model.named_parameters():
                self.writer.add_histogram(f"gradients/{name}", parameter.grad, self.step)
                self.writer.add_histogram(f"parameters/{name}", parameter, self.step)

    def after_step(self, loss: Tensor) -> None:
        self.writer.add_scalar("loss", loss, self.step)
        self.step += 1

    def end_epoch(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Torchlens(Watch):
    """A record of one more forward pass: every operation's output, kept in memory; nothing of gradients, nothing written."""

    def __init__(self, model: nn.Module, log_dir: str, every: int) -> None:
        super().__init__(model, log_dir, every)
        import torchlens

        self.trace = torchlens.trace

    def before_forward(self, inputs: Tensor) -> None:
        if self.due:
            self.kept = self.trace(self.model, inputs)


EVERY = 1 << 30
"""Steps between captured ones where none but an epoch's first is wanted."""
VARIANTS: dict[str, tuple[str, Callable[..., Watch], int]] = {
    "plain": ("no monitor", Watch, 1),
    "uncaptured": ("torchboard, steps that are not captured", Torchboard, EVERY),
    "torchboard_10": ("torchboard, 1 step in 10", Torchboard, 10),
    "torchboard_1": ("torchboard, every step", Torchboard, 1),
    "empty_1": ("hooks in the same places that do nothing, every step", EmptyHooks, 1),
    "skip_10": ('torchboard, 1 step in 10, `Capture(compiled="skip")`', TorchboardSkip, 10),
    "wandb_10": ('`wandb.watch(log="all")` offline, 1 step in 10', Wandb, 10),
    "wandb_1": ('`wandb.watch(log="all")` offline, every step', Wandb, 1),
    "peer_10": ("`SummaryWriter.add_histogram` in hooks, 1 step in 10", ByHand, 10),
    "peer_1": ("`SummaryWriter.add_histogram` in hooks, every step", ByHand, 1),
    "torchlens_10": ("`torchlens.trace` beside the pass, 1 step in 10", Torchlens, 10),
    "torchlens_1": ("`torchlens.trace` beside the pass, every step", Torchlens, 1),
}


SETTLING = 3
"""Steps that are not counted behind the beginning or the end of a watch, at least."""


class Training:
    """One training with one watch, a few steps at a time."""

    def __init__(self, job: str, variant: str, log_dir: str) -> None:
        torch.manual_seed(0)
        self.model, batches = JOBS[job][1]()
        self.batches = cycle(batches)
        adam = job == "transformer"
        self.optimizer = (
            torch.optim.AdamW(self.model.parameters(), lr=3e-4)
            if adam
            else torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        )
        self.nobody = self.watch = Watch(self.model, log_dir, 1)
        self.take(2)
        self._before = peak()
        self._variant, self._log_dir = variant, log_dir
        self.watch = self.begin_watch()

    def begin_watch(self) -> Watch:
        _, kind, every = VARIANTS[self._variant]
        return kind(self.model, tempfile.mkdtemp(dir=self._log_dir), every)

    def take(self, steps: int) -> dict[str, float]:
        """Trains, and says what it took a step, in seconds."""
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            inputs, targets = next(self.batches)
            self.watch.before_forward(inputs)
            loss = functional.cross_entropy(self.model(inputs), targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.watch.before_step()
            self.optimizer.step()
            self.watch.after_step(loss)
        return {
            "cpu": (time.process_time() - cpu) / steps,
            "wall": (time.perf_counter() - wall) / steps,
            "loss": float(loss.detach()),
            "hooks": hooks_on(self.model),
        }

    def on_and_off(self, steps: int) -> dict[str, dict[str, float]]:
        """So many steps without a watch and so many with a new one, both as many steps after the watch has gone or come: the
        first one is captured, and what a beginning leaves behind is not of these steps."""
        self.watch.close()
        self.watch = self.nobody
        self.take(max(SETTLING, steps))
        plain = self.take(steps)
        self.watch = self.begin_watch()
        self.take(max(SETTLING, steps))
        return {"plain": plain, "watched": self.take(steps)}

    def end_epoch(self) -> dict[str, float]:
        """Ends the epoch, and says what that took, and how much more memory the process took than before it was watched."""
        cpu, wall = time.process_time(), time.perf_counter()
        self.watch.end_epoch()
        return {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "memory": peak() - self._before,
        }


def peak() -> float:
    """The most memory that the process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def hooks_on(model: nn.Module) -> int:
    """How many hooks sit on the modules and the parameters of a model."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_modules = sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
    hooks = [p._backward_hooks or () for p in model.parameters()]
    hooks += [getattr(p, "_post_accumulate_grad_hooks", None) or () for p in model.parameters()]
    return on_modules + sum(map(len, hooks))


def main(job: str, variant: str) -> None:
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as log_dir:
        training = Training(job, variant, log_dir)
        for line in sys.stdin:
            what, _, number = line.strip().rpartition(" ")
            if what == "on and off":
                figures = training.on_and_off(int(number))
            else:
                figures = training.end_epoch() if number == "epoch" else training.take(int(number))
            print(json.dumps(figures), file=answers, flush=True)
        training.watch.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
