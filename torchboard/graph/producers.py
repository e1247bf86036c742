"""Who wrote the tensor that is read here: tensors, views and in-place writes traced back to what produced them.

A tensor is known by itself, as long as it lives, and by the bytes it looks at. The second is needed because autograd
makes new tensor objects for views, and because a write through one view changes what all the others read. For every
storage the in-place writes are kept with the view they went through; a read depends on the newest writes that may
overlap it, back to one that covers it. Chunks, slices and columns of one buffer are proven disjoint, so a cell that
writes its gates into the chunks of one tensor is drawn with four edges and not with sixteen.

No tensor is kept alive and no memory held: tensors are known by their address and a weak reference, and a weak reference to
a storage frees its bytes while its address stays taken, so that an address is never mistaken for a later storage's.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from torchboard.graph.nodes import Source

_new = tuple.__new__
"""Makes a named tuple in a third of the time that calling its class takes."""
_PLAIN = (torch.Tensor, torch.nn.Parameter)
"""Types of tensors that wrap no others."""


class View(NamedTuple):
    """The part of its storage that a strided tensor looks at, in elements."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


class _Mark(NamedTuple):
    """A source and when it became one."""

    time: int
    source: Source


@dataclass
class _Storage:
    """What happened to one storage.

    Attributes:
        alive: keeps its address from being used again.
        maker: who made the first tensor on it.
        views: who made each view of it, or wrote it last.
        writes: the last in-place write through each view, oldest first.
    """

    alive: StorageWeakRef
    maker: _Mark
    views: dict[View | None, _Mark] = field(default_factory=dict)
    writes: dict[View | None, _Mark] = field(default_factory=dict)


class Producers:
    """The sources of the tensors of one pass."""

    def __init__(self) -> None:
        self._clock = itertools.count()
        self._tensors: dict[int, tuple[weakref.ref[torch.Tensor], _Mark]] = {}
        self._storages: dict[int, _Storage] = {}

    def made(self, tensor: torch.Tensor, source: Source) -> None:
        """``tensor`` came from ``source``: new, or as a view of something older."""
        mark = _Mark(next(self._clock), source)
        self._remember(tensor, mark)
        for inner in _wrapped(tensor):
            if not self.of(inner):
                self._remember(inner, mark)

    def wrote(self, tensor: torch.Tensor, source: Source) -> None:
        """``source`` wrote into ``tensor`` in place."""
        mark = _Mark(next(self._clock), source)
        storage = self._remember(tensor, mark)
        if storage is not None:
            view = view_of(tensor)
            storage.writes.pop(view, None)
            storage.writes[view] = mark

    def allocated(self, tensors: list[torch.Tensor]) -> int:
        """Bytes of the storages under ``tensors`` that were not seen before."""
        fresh: dict[int, int] = {}
        for tensor in tensors:
            for inner in _wrapped(tensor) or (tensor,):
                key = storage_key(inner)
                if key is not None and key not in self._storages:
                    fresh[key] = inner.untyped_storage().nbytes()
        return sum(size for size in fresh.values() if isinstance(size, int))

    def knows(self, tensor: torch.Tensor, source: Source | None = None) -> bool:
        """Whether this very tensor was seen, and not only another on the same storage; with ``source``, as coming from it."""
        mark = self._mark_of(tensor)
        return mark is not None and (source is None or mark.source == source)

    def of(self, tensor: torch.Tensor, through: torch.Tensor | None = None) -> tuple[Source, ...]:
        """The sources that a read of ``tensor`` depends on, the newest first; empty if it was never seen.

        With ``through``, a view of it, only that part of ``tensor`` is read.
        """
        known = self._mark_of(tensor)
        key = storage_key(tensor)
        storage = self._storages.get(key) if key is not None else None
        if storage is None:
            if known is None:
                return tuple(dict.fromkeys(source for inner in _wrapped(tensor) for source in self.of(inner)))
            return (known.source,)
        origin = known or storage.views.get(view_of(tensor)) or storage.maker
        if not storage.writes:
            return (origin.source,)
        view = view_of(tensor if through is None else through)
        sources = []
        for written, mark in reversed(storage.writes.items()):
            if mark.time <= origin.time:
                break
            if not disjoint(written, view):
                sources.append(mark.source)
                if written == view:
                    return tuple(sources)
        return (*sources, origin.source)

    def _mark_of(self, tensor: torch.Tensor) -> _Mark | None:
        """What is known of this very tensor; at the address of one that is gone there may be another."""
        found = self._tensors.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def _remember(self, tensor: torch.Tensor, mark: _Mark) -> _Storage | None:
        self._tensors[id(tensor)] = weakref.ref(tensor), mark
        key = storage_key(tensor)
        if key is None:
            return None
        storage = self._storages.get(key)
        if storage is None:
            storage = self._storages[key] = _Storage(StorageWeakRef(tensor.untyped_storage()), mark)
        storage.views[view_of(tensor)] = mark
        return storage


def storage_key(tensor: torch.Tensor) -> int | None:
    """A number that tensors share while they share their bytes; None for one without a storage (sparse, wrapped)."""
    try:
        return tensor.untyped_storage()._cdata
    except Exception:  # what a tensor subclass raises here is its own affair
        return None


def view_of(tensor: torch.Tensor) -> View | None:
    """The part of its storage that ``tensor`` looks at; None for one that is not strided or has symbols for sizes."""
    try:
        view = _new(View, (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype))
        hash(view)
    except Exception:  # symbols cannot be hashed
        return None
    return view


def _wrapped(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors inside a wrapper such as ``DTensor``: no operator shows that it is wrapped or unwrapped."""
    if type(tensor) in _PLAIN:
        return []
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return []
    names, _ = flatten()
    return [inner for inner in (getattr(tensor, name) for name in names) if isinstance(inner, torch.Tensor)]


def disjoint(a: View | None, b: View | None) -> bool:
    """Whether two views of one storage are proven to share no element; False wherever that is in doubt.

    Two views with the same strides are boxes on one lattice. If no box is so wide that it runs into the next line of
    the lattice, an address has one coordinate a line, and boxes apart along any axis are apart.
    """
    if a is None or b is None or a.dtype != b.dtype:
        return False
    if 0 in a.shape or 0 in b.shape:
        return True
    if a.offset > b.offset:
        a, b = b, a
    if _last(a) < b.offset:
        return True
    if a.strides != b.strides or len(a.shape) != len(b.shape):
        return False
    return _apart_on_lattice(a, b)


def _apart_on_lattice(a: View, b: View) -> bool:
    """``disjoint`` for views of the same strides, ``a`` starting first."""
    axes = [(t, na, nb) for t, na, nb in zip(a.strides, a.shape, b.shape) if max(na, nb) > 1 and t > 0]
    rest, apart, lines = b.offset - a.offset, False, []
    for stride, size_a, size_b in sorted(axes, reverse=True):
        shift, rest = divmod(rest, stride)
        apart = apart or shift >= size_a
        lines.append((stride, max(size_a, shift + size_b)))
    reach = rest
    for stride, extent in reversed(lines):
        if reach >= stride:
            return False
        reach += (extent - 1) * stride
    return apart or rest != 0


def _last(view: View) -> int:
    """Offset of the last element."""
    return view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides))
