"""The facts of a run, as Markdown: what was trained, where, with what, and how it is watched."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchboard.graph.module_names import parameter_names, unwrapped
from torchboard.graph.tensors import is_flat_shard
from torchboard.values import Text, Value
from torchboard.values.text import code, table

_GIT_SECONDS = 2.0
_MAX_MODEL_CHARACTERS = 20_000


@dataclass(frozen=True)
class RunFacts:
    """A ``Pending`` that gives two texts: the facts and the model's structure. Asking git happens when it settles.

    Attributes:
        rows: name -> value of what is known already.
        structure: the model, printed.
    """

    rows: Mapping[str, object]
    structure: str

    @property
    def nbytes(self) -> int:
        return len(self.structure)

    @property
    def plugins(self) -> dict[str, str]:
        return {"run/facts": Text.plugin, "run/model": Text.plugin}

    def settle(self) -> Iterable[tuple[str, Value]]:
        commit = git_commit()
        rows = {**self.rows, **({"git commit": commit} if commit else {})}
        yield "run/facts", Text(table(("fact", "value"), rows))
        yield "run/model", Text(code(self.structure))


def run_facts(model: nn.Module, options: Mapping[str, object]) -> RunFacts:
    """What is to be known of a run that starts now; ``options`` are those that differ from their defaults, or all."""
    parameters = [parameter for _, parameter in parameter_names(model) if not is_lazy(parameter)]
    of = " in the shards of this rank" if any(map(is_flat_shard, parameters)) else ""
    rows = {
        "model": type(unwrapped(model)).__name__,
        "parameters": f"{sum(parameter.numel() for parameter in parameters):,}{of}",
        "trainable parameters": f"{sum(parameter.numel() for parameter in parameters if parameter.requires_grad):,}{of}",
        "parameter bytes": f"{sum(parameter.numel() * parameter.element_size() for parameter in parameters):,}{of}",
        "parameter dtypes": _listed(str(parameter.dtype).removeprefix("torch.") for parameter in parameters),
        "device": _listed(_device(parameter.device) for parameter in parameters),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
        **{name: _option(value) for name, value in options.items()},
    }
    structure = str(model)
    if len(structure) > _MAX_MODEL_CHARACTERS:
        structure = structure[:_MAX_MODEL_CHARACTERS] + "\n…"
    return RunFacts(rows, structure)


def git_commit() -> str:
    """The commit that the working directory is at, with ``+`` where tracked files were changed; empty without git."""
    commit = _git("rev-parse", "HEAD")
    return commit + ("+" if commit and _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _option(value: object) -> object:
    return f"tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else value


def _device(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _listed(items: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(items)) or "none"
