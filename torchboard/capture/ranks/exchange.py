"""What the monitors of a job's ranks tell rank 0, through the store that the job itself was set up with.

The guarantee: no collective is ever run, so nothing of ours can be waited for by a rank that does not know of it, and no
process group can be broken by a rank that is late or gone. A rank leaves what it has in the store and goes on. Rank 0 takes
it, waits at most ``patience`` seconds for what is missing, once for each rank that misses, says so in a warning and goes on.
It works with every backend that keeps a store (all but MPI), needs no port or address of its own, and every fault of the
store ends in a warning.

The cost, in each exchange: three short requests a rank, and its bytes once up and once down. They pass through the host of
the store, in general rank 0's, which holds them in between.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from os import environ
from typing import Any

import torch

from torchboard.errors import TorchboardWarning
from torchboard.graph.job import is_set_up

_CHUNK = 4 << 20
"""Bytes of one value: a ``TCPStore`` takes 8 MiB at most."""
_LOOK, _LONGEST_LOOK = 0.001, 0.05
"""Seconds between looks, at first and at last."""
_AHEAD = 2
"""Exchanges that a rank may be ahead of rank 0."""

_made: Counter[str] = Counter()
"""How many there have been of each name in this process."""


class Ranks:
    """This process among the ranks of a distributed job; in any other process it is rank 0 and alone.

    The job may be set up after this is made: until then the rank is what the launcher left in the environment (``RANK`` and
    ``WORLD_SIZE``, as ``torchrun`` does). A failure never leaves a method.

    Args:
        name: the same on all ranks; those made under one name are told apart by the order in which they are made.
        patience: seconds to wait for another rank.
        greeting: what others may find out about this rank at any time.

    Attributes:
        writes: whether this is rank 0, whose monitor writes the log.
        rank: the number of this process.
        size: how many there are.
    """

    def __init__(self, name: str, patience: float, greeting: bytes = b"") -> None:
        self._prefix = f"torchboard/{name}/{_made[name]}"
        _made[name] += 1
        self._patience = patience
        self._greeting = greeting
        self._store: Any = None
        self._alone = False
        self._rounds: Counter[str] = Counter()
        self._missed: dict[int, list[str]] = {}
        self._told: set[str] = set()
        self._waits = True
        self._greeted = {0}
        self.rank, self.size = _rank_and_size()
        self.writes = self.rank == 0
        self._join()
        self._was_early = self._store is None

    @property
    def several(self) -> bool:
        """Whether there are other ranks that can be reached."""
        self._join()
        if self._store is None and not self.writes and not self._alone:
            self.tell(
                f"This process is rank {self.rank} by its environment variable RANK, and only rank 0's Monitor writes; but "
                "torch.distributed is not set up. Unset RANK and WORLD_SIZE if this is a job of its own."
            )
        return self._store is not None

    @property
    def watches(self) -> bool:
        """Whether what this rank sees of the training will be written."""
        return self.writes or not self._alone

    def gather(self, what: str, payload: bytes) -> dict[int, bytes]:
        """What every rank gave, by rank, on rank 0; nothing on the others, which in general do not wait.

        Every rank calls it, as often as rank 0 does for the same ``what``; a rank that is some calls ahead waits until rank 0
        follows, and a rank that does not call is missing in the answer.
        """
        number = self._next(what)
        taken = {0: payload} if self.writes else {}
        if not self.several:
            return taken
        try:
            if self.writes:
                taken |= self._take(f"{what}/{number}")
            else:
                self._follow(what, number)
                self._give(f"{what}/{number}/{self.rank}", payload)
        except RuntimeError as error:
            self._leave(f"The ranks of this job cannot reach its store any more ({error}).")
        return taken

    def from_first(self, what: str, payload: bytes) -> bytes:
        """What rank 0 gave, for which the others wait; their own payload where it did not come in time."""
        number = self._next(what)
        if not self.several:
            return payload
        key = f"{what}/{number}"
        try:
            if self.writes:
                self._give(key, payload)
                if number >= _AHEAD:
                    self._discard(f"{what}/{number - _AHEAD}")
            elif self._arrives(key, self._deadline()):
                self._waits = True
                return self._read(key)
            else:
                self._first_is_missing()
        except RuntimeError as error:
            self._leave(f"The ranks of this job cannot reach its store any more ({error}).")
        return payload

    def greeting(self, rank: int) -> bytes | None:
        """What another rank said when it joined; None where it has not. Does not wait."""
        try:
            if self.several and self._store.check([f"here/{rank}"]):
                return self._read(f"here/{rank}")
        except RuntimeError as error:
            self._leave(f"The ranks of this job cannot reach its store any more ({error}).")
        return None

    def tell(self, message: str) -> None:
        """Warns, of each thing once."""
        if message not in self._told:
            self._told.add(message)
            warnings.warn(message, TorchboardWarning, stacklevel=4)

    # ---- rank 0

    def _take(self, key: str) -> dict[int, bytes]:
        taken, late = {}, []
        deadline = time.monotonic() + self._patience
        for rank in range(1, self.size):
            if self._arrives(f"{key}/{rank}", deadline if self._is_expected(rank) else 0.0):
                self._forgive(rank)
                taken[rank] = self._read(f"{key}/{rank}")
                self._discard(f"{key}/{rank}")
            elif rank in self._greeted or self._was_early:
                if rank not in self._missed:
                    late.append(rank)
                self._missed.setdefault(rank, []).append(f"{key}/{rank}")
        absent = [rank for rank in range(1, self.size) if rank not in self._greeted and rank not in taken]
        if absent and not self._was_early:
            self.tell(
                f"There is no Monitor on {_listed(absent)} of {self.size}: what these see is missing from the log. Make one on "
                "every rank; only rank 0's writes."
            )
        if late:
            self.tell(
                f"Rank 0 waited {self._patience:g} s in log_epoch() for {_listed(late)} of {self.size}, which did not call it "
                "or are gone: what they see is missing from the log. Call log_epoch() on every rank. Rank 0 will not wait for "
                "them again unless they come."
            )
        return taken

    def _is_expected(self, rank: int) -> bool:
        """Whether a rank is worth waiting for: it has a monitor, and came to the exchange that it was missed in, if late."""
        if rank not in self._greeted:
            if not self._store.check([f"here/{rank}"]):
                return self._was_early and rank not in self._missed
            self._greeted.add(rank)
        if rank in self._missed and not self._store.check(self._missed[rank][:1]):
            return False
        self._forgive(rank)
        return True

    def _forgive(self, rank: int) -> None:
        """Throws away what came late."""
        for key in self._missed.pop(rank, ()):
            if self._store.check([key]):
                self._discard(key)

    # ---- the others

    def _follow(self, what: str, number: int) -> None:
        """Waits until rank 0 is no more than some exchanges behind; takes back what it has not taken in time."""
        old = f"{what}/{number - _AHEAD}/{self.rank}"
        deadline, pause = self._deadline(), _LOOK
        while number >= _AHEAD and self._store.check([old]):
            if time.monotonic() >= deadline:
                self._discard(old)
                return self._first_is_missing()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)
        self._waits = True

    def _deadline(self) -> float:
        return time.monotonic() + self._patience if self._waits else 0.0

    def _first_is_missing(self) -> None:
        self._waits = False
        self.tell(
            f"Rank {self.rank} waited {self._patience:g} s for rank 0, whose Monitor writes the log and did not "
            "follow: what this rank sees may be missing. Call log_epoch() on every rank."
        )

    # ---- the store

    def _next(self, what: str) -> int:
        self._rounds[what] += 1
        return self._rounds[what] - 1

    def _join(self) -> None:
        distributed = torch.distributed
        if self._store is not None or self._alone or not is_set_up():
            return
        self.rank, self.size = _rank_and_size()
        self._alone = self.size < 2 or self.writes != (self.rank == 0)
        if self._alone:
            return
        try:
            store = distributed.distributed_c10d._get_default_store().clone()
            store.set_timeout(timedelta(seconds=max(self._patience, 1.0)))
            self._store = distributed.PrefixStore(self._prefix, store)
            self._give(f"here/{self.rank}", self._greeting)
        except (RuntimeError, AttributeError, ValueError) as error:
            self._leave(f"This job has no store that its ranks could meet in ({type(error).__name__}: {error}).")

    def _leave(self, why: str) -> None:
        self._store, self._alone = None, True
        self.tell(f"{why} From now on the log shows what rank 0 alone sees.")

    def _arrives(self, key: str, deadline: float) -> bool:
        pause = _LOOK
        while not self._store.check([key]):
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_LOOK)
        return True

    def _give(self, key: str, payload: bytes) -> None:
        """Leaves bytes under a key, in chunks, the first one last and with their number before it."""
        chunks = [payload[at : at + _CHUNK] for at in range(0, len(payload), _CHUNK)] or [b""]
        for number, chunk in enumerate(chunks[1:], 1):
            self._store.set(f"{key}/{number}", chunk)
        self._store.set(key, b"%d\n%b" % (len(chunks), chunks[0]))

    def _read(self, key: str) -> bytes:
        chunks, _, first = self._store.get(key).partition(b"\n")
        return b"".join([first, *(self._store.get(f"{key}/{number}") for number in range(1, int(chunks)))])

    def _discard(self, key: str) -> None:
        chunks = self._store.get(key).partition(b"\n")[0]
        for place in (key, *(f"{key}/{number}" for number in range(1, int(chunks)))):
            self._store.delete_key(place)


def _rank_and_size() -> tuple[int, int]:
    """Of the job, or, before it is set up, as its launcher left them; 0 of 1 where there was none."""
    if is_set_up():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    try:
        rank, size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
    return (rank, size) if 0 <= rank < size else (0, 1)


def _listed(ranks: Iterable[int]) -> str:
    """``rank 3`` or ``ranks 1-3, 7``."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and spans[-1][1] == rank - 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    names = [f"{first}-{last}" if last > first else str(first) for first, last in spans]
    single = len(spans) == 1 and spans[0][0] == spans[0][1]
    return f"{'rank' if single else 'ranks'} {', '.join(names)}"
