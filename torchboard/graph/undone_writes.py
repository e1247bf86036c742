"""What a pass writes to tensors that were there before it is undone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from torchboard.graph.tensors import given_tensors, is_plain, schema_of, tensors_in

_UNDECLARED = frozenset({"running_mean", "running_var"})
"""Arguments of normalisations that are written to, though their schemas do not say so."""
_FLAGS = frozenset({"training", "use_input_stats"})
"""Arguments of theirs that say whether they are."""
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


@contextmanager
def no_modes() -> Iterator[None]:
    """A context in which no mode of anybody's sees what is done."""
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        yield


class UndoneWrites(TorchDispatchMode):
    """Copies what an operator is about to write to, whoever holds it, unless an operator of the pass has made it.

    So a pass that writes to nothing costs a look at each operator, and no memory. What is not an operator of torch's, or does
    not say what it writes to, is not seen: a kernel of the user's own, NumPy on a tensor's memory.

    Args:
        stops: gives an exception for an operator that must not begin.
    """

    supports_higher_order_operators = True

    def __init__(self, stops: Callable[[Any], Exception | None] | None) -> None:
        super().__init__()
        self._stops = stops
        self._made: set[int] = set()
        self._kept: dict[tuple[Any, ...], Tensor] = {}
        self._copies: list[_Copies] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: it would import the compiler, which takes seconds; the pass runs eagerly."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self._stops is not None and (error := self._stops(func)) is not None:
            raise error
        written, flag, makes = _effects(func)
        if written and (flag is None or any(_given((flag,), args, kwargs))):
            self.keep(tensors_in(_given(written, args, kwargs)))
        result = func(*args, **kwargs)
        if makes:
            if type(result) is Tensor and result.layout is torch.strided:
                self._made.add(result.untyped_storage()._cdata)
            else:  # with results of a recurrent layer come its weights
                self._made.update(_memory(tensors_in(result)) - _memory(given_tensors(args, kwargs)))
        return result

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Copies the tensors, which ``undo`` puts back; those that it has copied before are passed over."""
        places = {_place(tensor): tensor for tensor in tensors}
        found = {place: tensor for place, tensor in places.items() if place not in self._kept}
        found = {place: tensor for place, tensor in found.items() if place[0] not in self._made}
        if found:
            with no_modes(), torch.no_grad():
                self._copies.append(_Copies([*found.values()]))
            self._kept |= found

    def undo(self) -> None:
        """Puts everything back, the last first, and the counts of how often it was written to."""
        with no_modes(), ExitStack() as stack:
            for copies in self._copies:
                stack.callback(copies.put_back)


class _Copies:
    """Tensors that lie where they lay when it was made, and what was there."""

    def __init__(self, tensors: list[Tensor]) -> None:
        counted = tuple(tensor for tensor in tensors if not tensor.is_inference())
        self._versions = torch.autograd._unsafe_preserve_version_counter(counted)
        self._tensors = [tensor.detach() for tensor in tensors]
        self._copies = [tensor.clone() for tensor in self._tensors]
        self._inference = len(counted) < len(tensors)

    def put_back(self) -> None:
        with self._versions, torch.inference_mode(self._inference), torch.no_grad():
            torch._foreach_copy_(self._tensors, self._copies)


class _Effects(NamedTuple):
    """What an operator does to memory.

    Attributes:
        written: the places and the names of arguments that it writes to.
        flag: the one of them that says whether it does.
        makes: whether what it returns is new.
    """

    written: tuple[tuple[int, str], ...]
    flag: tuple[int, str] | None
    makes: bool


@functools.cache
def _effects(operator: Any) -> _Effects:
    schema = schema_of(operator)
    places = [(place, argument.name) for place, argument in enumerate(schema.arguments)]
    undeclared = [place for place in places if place[1] in _UNDECLARED]
    declared = [place for place, argument in zip(places, schema.arguments) if argument.written]
    flag = next((place for place in places if undeclared and place[1] in _FLAGS), None)
    makes = schema.name.startswith("aten::") and not schema.writes and not schema.gives_views
    composite = makes and torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), _COMPOSITE)
    return _Effects((*declared, *undeclared), flag, makes and not composite)


def _given(places: Iterable[tuple[int, str]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    return [args[place] if place < len(args) else kwargs.get(name) for place, name in places]


def _memory(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors if is_plain(tensor)}


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor's numbers lie; the memory comes first. One that does not lie in one memory is told by itself."""
    if is_plain(tensor):
        return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
    return (None, id(tensor))
