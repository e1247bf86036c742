"""One model of the zoo in training, unwatched and watched; run by ``coverage_zoo.py`` in a process of its own."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from zoo_cases import Case
from zoo_checks import State, buffers_of, copied, put_back, random_states, same, seed
from zoo_pool import Figures, OverTime, described, limit

from torchboard.capture.options import Capture
from torchboard.capture.recorder import Recorder
from torchboard.graph.module_names import module_names
from torchboard.graph.tensors import nested_tensors
from torchboard.values import Event

SECONDS = 120
"""Of processor time, for one model."""
SHOWN = 6
"""Of what was missed, by name."""

torch.set_num_threads(1)
warnings.simplefilter("ignore")

Counts = Counter[str]
"""Tag -> elements."""


def figures_of(name: str, make: Callable[[], Case]) -> Figures:
    """What was seen of one model; ``cannot`` where it cannot be trained, ``failed`` with the reason."""
    try:
        with limit(SECONDS):
            model, args, kwargs = trained_case(name, make)
            buffers = buffers_of(model)
            plain, seconds = timed(lambda: trained(model, args, kwargs))
    except (Exception, OverTime) as error:
        return {"cannot": described(error)}
    try:
        with limit(SECONDS):
            put_back(model, buffers)
            expected = Expected(model)
            with expected.watching():
                trained(model, args, kwargs)
            put_back(model, buffers)
            recorder = Recorder(model, Capture(max_layers=None))
            recorder.arm(True)
            watched, armed_seconds = timed(lambda: trained(model, args, kwargs))
            recorder.arm(False)
            if recorder.error is not None:
                raise recorder.error
            seen = elements(recorder)
            faults = [*expected.missed_in(seen), *differences(plain, watched)]
            if faults and plain_differs_from_itself(model, args, kwargs, buffers, plain):
                faults = expected.missed_in(seen)
    except (Exception, OverTime) as error:
        return {"failed": described(error)}
    return {
        **({"faults": faults} if faults else {}),
        **expected.figures(seen),
        "plain": seconds,
        "armed": armed_seconds,
    }


def trained_case(name: str, make: Callable[[], Case]) -> Case:
    """The model in training mode; detectors get something to detect."""
    torch.manual_seed(0)
    model, args, kwargs = make()
    model.train()
    if args and isinstance(args[0], list) and name.startswith("torchvision"):
        args = (args[0], [_target(name) for _ in args[0]])
    return model, args, kwargs


def _target(name: str) -> dict[str, Tensor]:
    boxes = torch.tensor([[10.0, 10.0, 60.0, 70.0], [30.0, 20.0, 90.0, 80.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 1])}
    if "mask" in name:
        target["masks"] = torch.ones(2, 96, 128, dtype=torch.uint8)
    if "keypoint" in name:
        target["keypoints"] = torch.cat([torch.rand(2, 17, 2) * 40 + 20, torch.ones(2, 17, 1)], -1)
    return target


def trained(model: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """What one forward and backward pass gives and leaves behind."""
    args, kwargs = copied(args, kwargs)
    model.zero_grad(set_to_none=True)
    seed()
    result = model(*args, **kwargs)
    loss_of(result).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    left = {
        "outputs": [tensor.detach() for _, tensor in nested_tensors(result)],
        "gradients": {name: gradient.detach().clone() for name, gradient in gradients.items() if gradient is not None},
        "state": State.of(model),
        "random numbers": random_states(),
    }
    model.zero_grad(set_to_none=True)
    return left


def loss_of(result: Any) -> Tensor:
    """A number that every output has a share in, each element a different one."""
    parts = []
    for _, tensor in nested_tensors(result):
        if tensor.requires_grad:
            values = (tensor.values() if tensor.is_nested else tensor).reshape(-1)
            values = torch.view_as_real(values).reshape(-1) if values.is_complex() else values
            parts.append((values.float() * torch.arange(values.numel()).cos()).mean())
    if not parts:
        raise ValueError("nothing that it returns requires a gradient")
    return torch.stack(parts).sum()


def differences(plain: dict[str, Any], watched: dict[str, Any]) -> list[str]:
    """What of a watched pass is not what it was unwatched."""
    return [
        f"other {what}"
        for what in plain
        if not (same if what in ("outputs", "gradients") else lambda a, b: a == b)(plain[what], watched[what])
    ]


def plain_differs_from_itself(
    model: nn.Module, args: Any, kwargs: Any, buffers: list[Tensor], plain: dict[str, Any]
) -> bool:
    """Whether an unwatched pass gives something else each time."""
    put_back(model, buffers)
    return bool(differences(plain, trained(model, args, kwargs)))


class Expected:
    """What there is to see: every module's outputs, and the gradients that reach them, also from what the module itself goes
    on to do with a tensor that it returns.

    Containers whose output is their last child's are left out, TorchScript modules, which take no hooks, and tensors that
    have no real elements in memory.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {module: name or type(module).__name__ for module, name in module_names(model).items()}
        self._modules = {module: name for module, name in self._modules.items() if module is model or _has_own(module)}
        self.outputs: Counts = Counter()
        self.differentiable: set[str] = set()
        self.gradients: Counts = Counter()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Outputs are replaced by copies; an output changed in place later is not the module's any more."""
        handles = [module.register_forward_hook(self._hook(name)) for module, name in self._modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def missed_in(self, seen: Counts) -> list[str]:
        """What the recorder has not seen, by tag."""
        missed = [
            f"activations/{tag}: {seen[f'activations/{tag}']} of {self.outputs[tag]} elements"
            for tag in self.differentiable
            if seen[f"activations/{tag}"] != self.outputs[tag]
        ] + [
            f"activation_gradients/{tag}: {seen[f'activation_gradients/{tag}']} of {number} elements"
            for tag, number in self.gradients.items()
            if seen[f"activation_gradients/{tag}"] != number
        ]
        return missed[:SHOWN] + ([f"and {len(missed) - SHOWN} more"] if len(missed) > SHOWN else [])

    def figures(self, seen: Counts) -> Figures:
        """How much there was, and how much of it was seen; counted by tag."""
        return {
            "modules": len(self._modules),
            "outputs": len(self.differentiable),
            "outputs_seen": sum(seen[f"activations/{tag}"] == self.outputs[tag] for tag in self.differentiable),
            "gradients": len(self.gradients),
            "gradients_seen": sum(seen[f"activation_gradients/{tag}"] == n for tag, n in self.gradients.items()),
        }

    def _hook(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, result: Any) -> Any:
            tags: dict[int, list[str]] = {}  # a tensor may be in several places of one result
            is_recomputed = torch._C._current_graph_task_id() != -1
            for path, tensor in nested_tensors(result):
                if _is_measurable(tensor):
                    tag = name.replace(".", "/") + "".join(f".{key}" for key in path)
                    tags.setdefault(id(tensor), []).append(tag)
                    if not is_recomputed:
                        self._met(tag, tensor)
            copies: dict[int, Tensor] = {}
            return tree_map_only(Tensor, lambda tensor: self._copy(tensor, tags.get(id(tensor), ()), copies), result)

        return hook

    def _met(self, tag: str, tensor: Tensor) -> None:
        self.outputs[tag] += tensor.numel()
        if tensor.requires_grad and tensor.numel():
            self.differentiable.add(tag)

    def _copy(self, tensor: Tensor, tags: Sequence[str], copies: dict[int, Tensor]) -> Tensor:
        if not tags or not tensor.requires_grad:
            return tensor
        if id(tensor) not in copies:

            def arrived(gradient: Tensor) -> None:
                self.gradients.update(dict.fromkeys(tags, gradient.numel()))

            tensor.register_hook(arrived)
            copies[id(tensor)] = tensor.clone()
        return copies[id(tensor)]


def _has_own(module: nn.Module) -> bool:
    """Whether a module's output is its own, and can be seen."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    return type(module).forward not in (nn.Sequential.forward, nn.Module.forward)


def _is_measurable(tensor: Tensor) -> bool:
    return not (tensor.is_meta or tensor.is_complex() or tensor.is_nested or tensor.is_sparse)


def elements(recorder: Recorder) -> Counts:
    """Tag -> elements that the recorder saw."""
    seen: Counts = Counter()
    for tag, value in Event(0, 0.0, (), "", tuple(recorder.collect("train"))).settled().pairs:
        if value.plugin == "histograms":
            seen[tag] += round(float(value.buckets[:, 2].sum()))
        elif tag.startswith("nonfinite/"):
            seen[tag.removeprefix("nonfinite/")] += round(float(value.value))
    return seen


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    return action(), time.process_time() - began
