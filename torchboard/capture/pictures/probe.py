"""The example that pictures show: cut out of a batch, along the axis that the model's layers take for that of the batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map, tree_map_only

from torchboard.errors import InvalidValueError
from torchboard.graph.hooks import InertWhenCopied
from torchboard.graph.quiet_pass import quiet_pass
from torchboard.graph.tensors import given_tensors

_Inputs = tuple[tuple, dict]


class Probe:
    """The inputs of a pass with one example.

    The pass is under the autocast that the batch was under. Where a batch does not tell how it is cut, the ways are tried in
    turn in the first pass, and the first that the model can run on stays. A layer that has ``batch_first=False`` and is given
    one step of several sequences says that it is not this one.

    Args:
        model: whose inputs they are.
        args: of a batch.
        kwargs: of a batch.

    Attributes:
        whole: the class of an input that holds tensors and is neither a list, a tuple nor a dict, so that nobody knows how it
            is cut: the batch is then left whole, and its first example is the first of what a layer puts out.
    """

    def __init__(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        objects = _Objects(model)
        inputs = tree_map(objects, (args, kwargs), is_leaf=_is_packed)
        self.whole = objects.holder
        cuts = [_copy] if self.whole else _cuts(*inputs, any(map(_is_sequence_first, model.modules())))
        self._model, self._is_cut = model, not self.whole
        self._autocast = _autocast_now(model)
        self._ways: list[_Inputs] = [tree_map(cut, inputs, is_leaf=_is_packed) for cut in cuts]

    @classmethod
    def given(cls, model: nn.Module, example: Tensor) -> Probe:
        """An input with a batch of one, which is not cut."""
        probe = cls(model, (example,), {})
        probe._is_cut, probe._autocast, probe._ways = False, (), [((_copy(example),), {})]
        return probe

    def run(self, watched: Callable[[], AbstractContextManager]) -> None:
        """A pass of a copy of the example, in a context; where it fails there may be another one in another context.

        Raises:
            InvalidValueError: the model cannot run on what was made of a batch; it says what the first way raises.
            Exception: what the model raises on an example that is given.
        """
        errors: list[Exception] = []
        for inputs in self._ways:
            copies = tree_map(_Objects(self._model), tree_map(_copy, inputs, is_leaf=_is_packed), is_leaf=_is_packed)
            try:
                with watched(), ExitStack() as stack:
                    for autocast in self._autocast:
                        stack.enter_context(autocast)
                    if self._is_cut:
                        stack.enter_context(_whole_sequences(self._model))
                    quiet_pass(self._model, *copies)
            except Exception as error:
                errors.append(error)
            else:
                self._ways = [inputs]
                return
        raise self._refused(errors[0])

    def _refused(self, error: Exception) -> Exception:
        """The error of a pass, with what the inputs are made of where they are not the user's."""
        if not (self._is_cut or self.whole) or isinstance(error, InvalidValueError):
            return error
        shapes = [[*tensor.shape] for tensor in given_tensors(*self._ways[0])]
        made = (
            "the first training batch, left whole"
            if self.whole
            else "the first example, cut out of the first training batch"
        )
        refused = InvalidValueError(
            f"{made}{f' ({shapes[0]})' if shapes else ''}",
            f"the model cannot run on that in evaluation mode: {type(error).__name__}: {error}",
            "give one input of the model, a tensor, as feature_maps, or False",
        )
        refused.__cause__ = error
        return refused


def _autocast_now(model: nn.Module) -> list[torch.autocast]:
    """Contexts in which a pass casts as one does here, on the CPU and where the parameters are."""
    kinds = sorted({"cpu", *(parameter.device.type for parameter in model.parameters())})
    return [
        torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        for kind in kinds
        if torch.amp.is_autocast_available(kind)
    ]


class _Objects:
    """Copies what a model is given beside tensors, with the tensors in it; what cannot be copied stays as it is.

    Attributes:
        holder: the class of the first that holds tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        self.holder = ""
        self._model = {id(part): part for part in (*model.modules(), *model.parameters(), *model.buffers())}

    def __call__(self, given: Any) -> Any:
        if isinstance(given, (Tensor, PackedSequence, nn.Module)):
            return given
        copies = dict(self._model)
        try:
            copied = copy.deepcopy(given, copies)
        except Exception:  # of files, locks and whatever else
            return given
        if any(isinstance(part, Tensor) and key not in self._model for key, part in copies.items()):
            self.holder = self.holder or type(given).__name__
        return copied


@dataclass(frozen=True)
class _Cut:
    """One example of what a batch consists of, a copy.

    What is as long as the first input is cut: along the same axis, or of sequence-first inputs along the first one, as
    paddings [batch, tokens] are. Of packed sequences the longest is taken.

    Attributes:
        first: the input that has the batch.
        axis: of it, and of most others.
        squares: whether masks [tokens, tokens] may be paddings of as many examples.
    """

    first: Tensor | PackedSequence
    axis: int
    squares: bool

    def __call__(self, given: Any) -> Any:
        if _is_packed(given):
            return _longest(given)
        if isinstance(given, Tensor) and (self.squares or not self.doubts(given)):
            count = _examples(self.first, self.axis)
            for axis in range(min(self.axis, given.ndim - 1), -1, -1):
                if given.size(axis) == count:
                    return _copy(given[:, :1] if axis else given[:1])
        return _copy(given)

    def doubts(self, given: Any) -> bool:
        """Whether it is as long as the batch both ways, so that it may be a mask."""
        if given is self.first or _is_packed(given) or not (given.is_floating_point() or given.dtype == torch.bool):
            return False
        return given.ndim == 2 and given.size(0) == given.size(1) == _examples(self.first, self.axis)


def _cuts(args: tuple, kwargs: dict, sequence_first: bool) -> Iterator[_Cut]:
    """The ways of cutting a batch, the likeliest first: along the first axis, with masks left whole."""
    inputs: list[Any] = []
    tree_map_only((Tensor, PackedSequence), inputs.append, (args, kwargs), is_leaf=_is_packed)
    first = next((given for given in inputs if _examples(given)), torch.empty(0, device="cpu"))
    axes = (0, 1) if sequence_first and not _is_packed(first) and first.ndim in (2, 3) else (0,)
    for axis in axes:
        yield (cut := _Cut(first, axis, False))
        if any(map(cut.doubts, inputs)):
            yield _Cut(first, axis, True)


def _copy(given: Any) -> Any:
    """A tensor or packed sequence for ourselves; all else as it is."""
    if _is_packed(given):
        return PackedSequence(given.data.detach().clone(), *given[1:])
    return given.detach().clone() if isinstance(given, Tensor) else given


def _is_packed(given: object) -> bool:
    return isinstance(given, PackedSequence)


def _examples(given: Any, axis: int = 0) -> int | None:
    """How many there are along an axis, or sequences; None of a number."""
    if _is_packed(given):
        return int(given.batch_sizes[0])  # it is on the host, always
    return given.size(axis) if given.ndim else None


def _longest(packed: PackedSequence) -> PackedSequence:
    """The first of the sequences in the order in which they are packed: the first row of each step."""
    steps = packed.batch_sizes
    rows = (steps.cumsum(0) - steps).to(packed.data.device, non_blocking=True)
    return PackedSequence(packed.data.detach()[rows], torch.ones_like(steps))


def _is_sequence_first(module: nn.Module) -> bool:
    return getattr(module, "batch_first", True) is False


@contextmanager
def _whole_sequences(model: nn.Module) -> Iterator[None]:
    """Stops a pass inside that gives a sequence-first layer one step of several sequences."""
    with ExitStack() as stack:
        for module in filter(_is_sequence_first, model.modules()):
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_pre_hook(_OneStep(), with_kwargs=True).remove)
        yield


class _OneStep(InertWhenCopied):
    """Refuses [1, sequences, features] in a pass of one example: it was cut along time."""

    __slots__ = ()

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        shape = next((given.shape for given in given_tensors(args, kwargs)), ())
        if len(shape) == 3 and shape[0] == 1 < shape[1]:
            raise InvalidValueError(
                f"the first example of a batch, of which {type(module).__name__} is given {[*shape]}",
                f"with batch_first=False that is one step of {shape[1]} examples",
                "give one whole example, a tensor, as feature_maps",
            )
