"""What the monitors of a job's ranks tell rank 0, through the store that the job itself was set up with.

The guarantee: no collective is ever run, so nothing of ours can be waited for by a rank that does not know of it, and no
process group can be broken by a rank that is late or gone. A rank leaves what it has in the store and goes on. Rank 0 takes
it, waits at most ``patience`` seconds for what is missing, once for each rank that misses, says so in a warning and goes on.
It works with every backend that keeps a store (all but MPI), needs no port or address of its own, and every fault of the
store ends in a warning.

Ends of epochs are numbered by how often rank 0 came to one, and rank 0 leaves the number that it comes to next. A rank that
finds itself behind goes on with that number, and is never paired with another epoch of rank 0's.

The cost, in each exchange: four short requests a rank, and its bytes once up and once down. They pass through the host of
the store, in general rank 0's, which holds them in between.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from os import environ
from typing import NamedTuple

import torch

from torchboard.capture.ranks.mail import Mail, awaited
from torchboard.capture.ranks.peers import Peers, listed, new_card
from torchboard.errors import TorchboardWarning
from torchboard.graph.job import is_set_up

_AHEAD = 2
"""Ends of epochs that a rank may be ahead of rank 0."""


class _Now(NamedTuple):
    """Where rank 0 is: which end of an epoch it comes to next, of which epoch, and how many steps it had at the one before."""

    number: int = 1
    epoch: int | None = None
    steps: int = -1


class Ranks:
    """This process among the ranks of a distributed job; in any other process it is rank 0 and alone.

    The job may be set up after this is made: until then the rank is what the launcher left in the environment (``RANK`` and
    ``WORLD_SIZE``, as ``torchrun`` does). A failure never leaves a method.

    Args:
        patience: seconds to wait for another rank.
        log_dir: where the log is written, if that was said: ranks meet those of the same directory.
        greeting: what others may find out about this rank at any time.
        options: what must be alike on all ranks, as texts; rank 0 tells of what is not.

    Attributes:
        writes: whether this is rank 0, whose monitor writes the log.
        rank: the number of this process.
        size: how many there are.
    """

    def __init__(
        self, patience: float, log_dir: object = None, greeting: bytes = b"", options: Mapping[str, str] | None = None
    ) -> None:
        self._card = new_card(log_dir, options or {})
        self._patience = patience
        self._greeting = greeting
        self._mail: Mail | None = None
        self._alone = False
        self._number = 0
        self._left: list[tuple[int, str]] = []
        self._missed: set[int] = set()
        self._present: dict[int, bool] = {}
        self._told: set[str] = set()
        self._unheard: set[str] = set()
        self._steps = 0
        self._is_of_another = False
        self.rank, self.size = _rank_and_size()
        self.writes = self.rank == 0
        self._join()
        self._was_early = self._mail is None

    @property
    def several(self) -> bool:
        """Whether there are other ranks that can be reached."""
        self._join()
        if self._mail is None and not self.writes and not self._alone:
            self.tell(
                f"This process is rank {self.rank} by its environment variable RANK, and only rank 0's Monitor writes; but "
                "torch.distributed is not set up. Unset RANK and WORLD_SIZE if this is a job of its own."
            )
        return self._mail is not None

    @property
    def watches(self) -> bool:
        """Whether what this rank sees of the training will be written."""
        return self.writes or not self._alone

    def end_epoch(self, epoch: int, steps: int, captures: bool) -> int:
        """Begins the exchange at the end of an epoch; gives the number of the epoch, which is rank 0's.

        Every rank calls it before it gives anything. Rank 0 waits here for the others; one that is some ends of epochs ahead
        waits for rank 0. A rank that comes when rank 0 has gone on without it has come late, if rank 0 had taken as many
        steps as it has, and what it gives is lost; if not, it has left one out, and is in the one that rank 0 ends next.

        Args:
            epoch: its number as this rank counts.
            steps: how many steps of training there were.
            captures: whether this rank gives more than what all give.
        """
        self._number += 1
        if self.several:
            with self._in_store():
                return self._open(epoch, steps) if self.writes else self._follow(epoch, steps, captures)
        return epoch

    def gather(self, what: str, payload: bytes, from_all: bool = False) -> dict[int, bytes]:
        """What every rank gave, by rank, on rank 0; nothing on the others, which do not wait.

        Every rank calls it, once in an exchange for the same ``what``; one that does not call it is missing in the answer.
        ``from_all`` is said of what ranks give too that capture nothing in this epoch.
        """
        taken = {0: payload} if self.writes else {}
        if self.several:
            with self._in_store():
                if self.writes:
                    taken |= self._take(
                        what, [rank for rank, captures in self._present.items() if captures or from_all]
                    )
                elif not self._is_of_another:
                    self._leave_behind(what, payload)
        return taken

    def from_first(self, what: str, payload: bytes) -> bytes:
        """What rank 0 gave, for which the others wait; their own payload where it did not come in time."""
        if not self.several:
            return payload
        with self._in_store():
            if self.writes:
                self._leave_behind(what, payload)
            elif not self._is_of_another and self._hears(lambda: self._of_first(f"{self._number}/{what}"), what):
                return self._mail.read(self._of_first(f"{self._number}/{what}"))
        return payload

    def greeting(self, rank: int) -> bytes | None:
        """What another rank said when it joined; None where it has not. Does not wait."""
        if self.several:
            with self._in_store():
                place = self._peers.place(rank)
                return None if place is None else self._mail.read(f"{place}/greeting")
        return None

    def tell(self, message: str) -> None:
        """Warns, of each thing once."""
        if message not in self._told:
            self._told.add(message)
            warnings.warn(message, TorchboardWarning, stacklevel=4)

    # ---- rank 0

    def _open(self, epoch: int, steps: int) -> int:
        """Finds out who is there, and says where to come next."""
        self._present, late, absent = {}, [], []
        deadline = time.monotonic() + self._patience
        for rank in range(1, self.size):
            waits = rank not in self._missed
            place = self._peers.place(rank)
            if place is None and self._was_early and waits:
                awaited(lambda rank=rank: self._peers.place(rank) or rank in self._peers.others, deadline)
                place = self._peers.place(rank)
            if place is None:
                (late if self._was_early and rank not in self._peers.others else absent).append(rank)
                continue
            if not waits and self._mail.has(last := f"{place}/{self._number - 1}/here"):
                self._mail.discard(last)  # it came late, so it will come again
                waits = True
            key = f"{place}/{self._number}/here"
            if self._mail.arrives(key, deadline if waits else 0.0):
                self._present[rank] = self._mail.take(key) == b"1"
                self._missed.discard(rank)
            else:
                late.append(rank)
        self._tell_of_absent(absent)
        self._tell_of_options()
        self._miss(late)
        now = _Now(self._number + 1, epoch + 1, steps)
        self._mail.give(f"{self._place}/now", json.dumps(now).encode())
        self._take_back(before=self._number - _AHEAD)
        return epoch

    def _take(self, what: str, ranks: list[int]) -> dict[int, bytes]:
        taken, deadline = {}, time.monotonic() + self._patience
        for rank in ranks:
            key = f"{self._peers.place(rank)}/{self._number}/{what}"
            if self._mail.arrives(key, deadline):
                taken[rank] = self._mail.take(key)
            else:
                del self._present[rank]
        self._miss([rank for rank in ranks if rank not in taken])
        return taken

    def _miss(self, late: list[int]) -> None:
        """Says once which ranks do not come."""
        new = [rank for rank in late if rank not in self._missed]
        self._missed.update(new)
        if new:
            self.tell(
                f"Rank 0 waited {self._patience:g} s in log_epoch() for {listed(new)} of {self.size}, which did not call it "
                "or are gone: what they see is missing from the log. Call log_epoch() on every rank. Rank 0 will not wait for "
                "them again unless they come."
            )

    def _tell_of_absent(self, absent: list[int]) -> None:
        none = [rank for rank in absent if rank not in self._peers.others]
        if none:
            self.tell(
                f"There is no Monitor on {listed(none)} of {self.size}: what these see is missing from the log. Make one on "
                "every rank; only rank 0's writes."
            )
        others = [rank for rank in absent if rank in self._peers.others]
        if others:
            self.tell(
                f"No Monitor on {listed(others)} of {self.size} has rank 0's log_dir ({self._card.log_dir!r}; there is one with "
                f"{self._peers.others[others[0]]!r}): what these see is missing from the log. Give the same log_dir on every "
                "rank; only rank 0's writes. Trainings of their own that share a torch.distributed job cannot be logged but "
                "rank 0's."
            )

    def _tell_of_options(self) -> None:
        for rank, options in self._peers.options.items():
            differ = [name for name, text in self._card.options.items() if options.get(name, text) != text]
            if rank != self.rank and differ:
                told = ", ".join(f"{name}={options[name]}, not {self._card.options[name]}" for name in differ)
                self.tell(
                    f"The Monitors of this job have other options than rank 0's ({told}): of what only some ranks capture, only "
                    "theirs is in the log. Give the same options on every rank."
                )
                break

    # ---- the others

    def _follow(self, epoch: int, steps: int, captures: bool) -> int:
        """Waits until rank 0 is no more than some ends of epochs behind, and says that this rank is there."""
        self._is_of_another = self._peers.place(0) is None and 0 in self._peers.others
        if self._is_of_another:
            self.tell(
                f"No Monitor on rank 0 has the log_dir of rank {self.rank}'s ({self._card.log_dir!r}; there is one with "
                f"{self._peers.others[0]!r}): nothing of what this rank sees is written. Give the same log_dir on every rank."
            )
            return epoch
        now = self._now()
        if now.number < self._number - 1:
            self._hears(lambda: self._now().number >= self._number - 1, "now")
            now = self._now()
        if now.number > self._number:
            self._number = now.number - (steps == now.steps and steps != self._steps)
        self._steps = steps
        self._take_back(before=max(now.number - 1, self._number - _AHEAD))
        self._leave_behind("here", b"1" if captures else b"0")
        return epoch if now.epoch is None else max(now.epoch + self._number - now.number, 0)

    def _now(self) -> _Now:
        key = self._of_first("now")
        return _Now() if key is None else _Now(*json.loads(self._mail.read(key)))

    def _of_first(self, what: str) -> str | None:
        """The key of what rank 0 left, if it is there."""
        place = self._peers.place(0)
        key = f"{place}/{what}"
        return key if place is not None and self._mail.has(key) else None

    def _hears(self, is_there: Callable[[], object], what: str) -> bool:
        """Waits for rank 0, which is told of and not waited for again if it does not come."""
        if is_there() or what not in self._unheard and awaited(is_there, time.monotonic() + self._patience):
            self._unheard.discard(what)
            return True
        self._unheard.add(what)
        self.tell(
            f"Rank {self.rank} waited {self._patience:g} s for rank 0, whose Monitor writes the log and did not "
            "follow: what this rank sees may be missing. Call log_epoch() on every rank."
        )
        return False

    # ---- the store

    def _join(self) -> None:
        if self._mail is not None or self._alone or not is_set_up():
            return
        self.rank, self.size = _rank_and_size()
        self._alone = self.size < 2 or self.writes != (self.rank == 0)
        if self._alone:
            return
        try:
            distributed = torch.distributed
            store = distributed.distributed_c10d._get_default_store().clone()
            store.set_timeout(timedelta(seconds=max(self._patience, 1.0)))
            self._mail = Mail(distributed.PrefixStore("torchboard", store))
            self._peers = Peers(self._card, self._mail)
            self._place = self._peers.join(self.rank, self._greeting)
        except (RuntimeError, AttributeError, ValueError) as error:
            self._leave(f"This job has no store that its ranks could meet in ({type(error).__name__}: {error}).")

    @contextmanager
    def _in_store(self) -> Iterator[None]:
        """A context in which a fault of the store makes this rank go on by itself."""
        try:
            yield
        except Exception as error:
            self._leave(f"The ranks of this job cannot reach its store any more ({error}).")

    def _leave(self, why: str) -> None:
        self._mail, self._alone = None, True
        self.tell(f"{why} From now on the log shows what rank 0 alone sees.")

    def _leave_behind(self, what: str, payload: bytes) -> None:
        """Leaves what others take, or this rank takes back."""
        key = f"{self._place}/{self._number}/{what}"
        if self._number:
            self._left.append((self._number, key))
        self._mail.give(key, payload)

    def _take_back(self, before: int) -> None:
        """What is left of exchanges before one."""
        for number, key in self._left:
            if number < before:
                self._mail.discard(key)
        self._left = [left for left in self._left if left[0] >= before]


def _rank_and_size() -> tuple[int, int]:
    """Of the job, or, before it is set up, as its launcher left them; 0 of 1 where there was none."""
    if is_set_up():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    try:
        rank, size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
    return (rank, size) if 0 <= rank < size else (0, 1)
