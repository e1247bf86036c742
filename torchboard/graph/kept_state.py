"""What a model holds beside the numbers in its tensors, and the states of random generators: kept, and put back.

Looked at are the attributes of modules, and the lists, dicts, sets, deques and tuples in them, however deep. Objects of the
user's own classes are not looked into: they may hold the whole of a program. A module's hooks are left alone, as ours take
themselves off, and so is one of torch's lazy modules that waits for its first input.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from torchboard.graph.undone_writes import no_modes

_HOOKS = frozenset(name for name in vars(nn.Module()) if "_hooks" in name)
_CONTAINERS = frozenset({list, deque, set, dict, OrderedDict, defaultdict, Counter})
_DULL = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
"""Types that hold nothing."""


class KeptState:
    """Keeps the state of a model and of the process's random generators when it is made; a copy is made of no tensor.

    It costs a microsecond an attribute that can be changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: list[_Kept] = []
        self._generators: list[Callable[[], object]] = [
            partial(random.setstate, random.getstate()),
            partial(np.random.set_state, np.random.get_state()),
        ]
        seen: set[int] = set()
        waiting: list[Any] = [model]
        with no_modes():
            while waiting:
                value = waiting.pop()
                if id(value) not in seen:
                    seen.add(id(value))
                    waiting += [item for item in self._keep(value) if type(item) not in _DULL]

    def put_back(self) -> None:
        """Everything is again what it was; what has not changed is not written to."""
        with no_modes(), ExitStack() as stack:
            for generator in self._generators:
                stack.callback(generator)
            stack.callback(self._put_tensors_back)
            for container, copy in self._containers:
                _put_back(container, copy)

    def _keep(self, value: Any) -> Iterable[Any]:
        """What is inside of it."""
        if isinstance(value, nn.Module):
            if isinstance(value, torch.jit.ScriptModule) or _is_lazy(value):
                return value._modules.values()
            attributes = self._copied(value.__dict__)
            return [item for name, item in attributes.items() if name not in _HOOKS]
        if type(value) in _CONTAINERS:
            copy = self._copied(value)
            return copy.values() if isinstance(copy, dict) else copy
        if isinstance(value, tuple):
            return value
        if type(value) in (Tensor, nn.Parameter):
            self._tensors.append(_Kept(value))
        elif (generator := _generator(value)) is not None:
            self._generators.append(generator)
        return ()

    def _put_tensors_back(self) -> None:
        for tensor in self._tensors:
            tensor.put_back()

    def _copied(self, container: Any) -> Any:
        copy = dict(container) if isinstance(container, dict) else [*container]
        self._containers.append((container, copy))
        return copy


class _Kept:
    """What a tensor is beside its numbers: where they lie and how they are read, its gradient, whether it wants one."""

    __slots__ = ("_tensor", "_data", "_place", "_grad", "_requires_grad")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._data = tensor.data
        self._place = _place(tensor)
        self._grad = tensor.grad if tensor.is_leaf else None
        self._requires_grad = tensor.requires_grad

    def put_back(self) -> None:
        tensor = self._tensor
        if _place(tensor) != self._place:
            tensor.data = self._data
        if tensor.is_leaf:
            if tensor.requires_grad is not self._requires_grad:
                tensor.requires_grad_(self._requires_grad)
            if tensor.grad is not self._grad:
                tensor.grad = self._grad


def _place(tensor: Tensor) -> tuple[object, ...]:
    if tensor.layout is not torch.strided:
        return ()
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _put_back(container: Any, copy: Any) -> None:
    if len(container) == len(copy) and all(map(is_, container, copy)):
        if not isinstance(container, dict) or all(map(is_, container.values(), copy.values())):
            return
    container.clear()
    container.extend(copy) if isinstance(container, (list, deque)) else container.update(copy)


def _generator(value: Any) -> Callable[[], object] | None:
    """What puts a random generator back to its present state; None of anything else."""
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    return None


def _is_lazy(module: nn.Module) -> bool:
    return isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()
