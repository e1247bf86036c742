"""What the monitors of a job's ranks tell rank 0, through the store that the job itself was set up with.

The guarantee: no collective is ever run, so nothing of ours can be waited for by a rank that does not know of it, and no
process group can be broken by a rank that is late or gone. A rank leaves what it has in the store and goes on. Rank 0 takes
it, waits at most ``patience`` seconds for what is missing, less and less for a rank that goes on missing, says so in a warning
and goes on. It works with every backend that keeps a store (all but MPI), needs no port or address of its own, and every fault
of the store ends in a warning.

Ends of epochs are numbered by how often rank 0 came to one, and rank 0 leaves the number that it comes to next. A rank that
finds itself behind goes on with that number, and is never paired with another epoch of rank 0's. One that is more than two
ahead, and has waited, leaves its end of an epoch out. So none takes back what rank 0 is about to take.

The cost, in each exchange: four short requests a rank, and its bytes once up and once down. They pass through the host of
the store, in general rank 0's, which holds them in between.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from os import environ
from typing import NamedTuple

import torch

from torchboard.capture.ranks.mail import Mail, awaited
from torchboard.capture.ranks.patience import Patience
from torchboard.capture.ranks.peers import Peers, listed, new_card
from torchboard.errors import TorchboardWarning
from torchboard.graph.job import is_set_up

_KEPT = 2
"""Ends of epochs that what rank 0 left lies there for a rank that is behind."""


class _Now(NamedTuple):
    """Where rank 0 is: which end of an epoch it comes to next, of which epoch, and how many steps it had at the one before."""

    number: int = 1
    epoch: int | None = None
    steps: int = -1


class Ranks:
    """This process among the ranks of a distributed job; in any other process it is rank 0 and alone.

    The job may be set up after this is made: until then the rank is what the launcher left in the environment (``RANK`` and
    ``WORLD_SIZE``, as ``torchrun`` does). A failure never leaves a method. Other ranks find this one from ``join`` on.

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
        self._seconds = patience
        self._patience = Patience(patience)
        self._greeting = greeting
        self._mail: Mail | None = None
        self._alone = False
        self._was_early = False
        self._number = 0
        self._left: list[tuple[int, list[str]]] = []
        self._missed: dict[int, str] = {}
        self._named: set[int] = set()
        self._present: dict[int, bool] = {}
        self._told: set[str] = set()
        self._steps = 0
        self._takes_part = True
        self.rank, self.size = _rank_and_size()
        self.writes = self.rank == 0

    def join(self) -> None:
        """Says that the monitor is made, and lets other ranks find it: at once, or at the first end of an epoch of the job.

        One that could not be made does not come to this, and the next of this rank is found in its place.
        """
        self._enter()
        self._was_early = self._mail is None
        if self._mail is not None:
            with self._in_store():
                self._peers.stay()

    def close(self) -> None:
        """Says that the monitor is closed; a store that is gone by then is no matter."""
        if self._mail is not None:
            with suppress(Exception):
                self._peers.close()

    @property
    def several(self) -> bool:
        """Whether there are other ranks that can be reached."""
        self._enter()
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
                self._peers.stay()
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
                elif self._takes_part:
                    self._leave_behind(what, payload)
        return taken

    def from_first(self, what: str, payload: bytes) -> bytes:
        """What rank 0 gave, for which the others wait; their own payload where it did not come in time."""
        if not self.several:
            return payload
        key = f"{self._number}/{what}"
        with self._in_store():
            if self.writes:
                self._leave_behind(what, payload)
            elif self._takes_part and self._hears(lambda: self._of_first(key) is not None, what):
                said = self._of_first(key)
                return payload if said is None else said
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
        self._present, absent, start = {}, [], time.monotonic()
        for rank in range(1, self.size):
            self._note(rank)
            deadline = start + self._patience[rank]
            if self._was_early and not self._is_known(rank):
                awaited(lambda rank=rank: self._is_known(rank), deadline)
            if self._peers.place(rank) is None and (not self._was_early or self._peers.other(rank)):
                absent.append(rank)
            elif (said := self._receive(rank, "here", deadline)) is not None:
                self._present[rank] = said == b"1"
        for message in self._peers.complaints(absent, self.size):
            self.tell(message)
        self._tell_of_missed()
        now = _Now(self._number + 1, epoch + 1, steps)
        self._mail.give(f"{self._place}/now", json.dumps(now).encode())
        self._take_back(before=self._number - _KEPT)
        return epoch

    def _take(self, what: str, ranks: list[int]) -> dict[int, bytes]:
        start = time.monotonic()
        posts = {rank: self._receive(rank, what, start + self._patience[rank]) for rank in ranks}
        self._tell_of_missed()
        return {rank: post for rank, post in posts.items() if post is not None}

    def _is_known(self, rank: int) -> bool:
        return self._peers.place(rank) is not None or self._peers.other(rank) is not None

    def _receive(self, rank: int, what: str, deadline: float) -> bytes | None:
        """What a rank gives in this exchange; where it does not come in time, nothing more is taken from it in this one."""
        place, key = self._peers.place(rank), f"{self._number}/{what}"
        post = None if place is None else self._mail.take(f"{place}/{key}", deadline)
        if post is None:
            self._missed[rank] = key
            self._present.pop(rank, None)
        return post

    def _note(self, rank: int) -> None:
        """How long a rank is waited for depends on whether it came to the exchange before, be it late."""
        missed, place = self._missed.pop(rank, None), self._peers.place(rank)
        if place is not None or missed:
            self._patience.note(rank, missed is None or place is not None and self._mail.has(f"{place}/{missed}"))

    def _tell_of_missed(self) -> None:
        """Says once of each rank that it does not come."""
        new = sorted(self._missed.keys() - self._named)
        self._named.update(new)
        if new:
            self.tell(
                f"Rank 0 waited {self._seconds:g} s in log_epoch() for {listed(new)} of {self.size}, which did not call it "
                "or are gone: what they see is missing from the log. Call log_epoch() on every rank. Until they come "
                "again rank 0 will wait for them for a second in all."
            )

    # ---- the others

    def _follow(self, epoch: int, steps: int, captures: bool) -> int:
        """Waits until rank 0 is no more than two ends of epochs behind, and says that this rank is there."""
        other = self._peers.other(0)
        self._takes_part = other is None
        if other is not None:
            self.tell(
                f"No Monitor on rank 0 has the log_dir of rank {self.rank}'s ({self._card.log_dir!r}; there is one with "
                f"{other!r}): nothing of what this rank sees is written. Give the same log_dir on every rank."
            )
            self._number -= 1
            return epoch
        now = self._now()
        if self._number > now.number + 1:
            self._takes_part = self._hears(lambda: self._number <= self._now().number + 1, "now")
            now = self._now()
        if now.number > self._number:
            self._number = now.number - (steps == now.steps and steps != self._steps)
        self._number = min(self._number, now.number + 1)
        self._steps = steps
        self._take_back(before=now.number - 1)
        if self._takes_part:
            self._leave_behind("here", b"1" if captures else b"0")
        return epoch if now.epoch is None else max(now.epoch + self._number - now.number, 0)

    def _now(self) -> _Now:
        said = self._of_first("now")
        return _Now() if said is None else _Now(*json.loads(said))

    def _of_first(self, what: str) -> bytes | None:
        """What rank 0 left, if it is there."""
        place = self._peers.place(0)
        return None if place is None else self._mail.read(f"{place}/{what}")

    def _hears(self, is_there: Callable[[], bool], what: str) -> bool:
        """Waits for rank 0, which is told of if it does not come."""
        came = is_there() or awaited(is_there, time.monotonic() + self._patience[what])
        self._patience.note(what, came)
        if not came:
            self.tell(
                f"Rank {self.rank} waited {self._seconds:g} s for rank 0, whose Monitor writes the log and did not "
                "follow: what this rank sees may be missing. Call log_epoch() on every rank."
            )
        return came

    # ---- the store

    def _enter(self) -> None:
        """Finds the store, once there is one, and leaves the card in it."""
        if self._mail is not None or self._alone or not is_set_up():
            return
        self.rank, self.size = _rank_and_size()
        self._alone = self.size < 2 or self.writes != (self.rank == 0)
        if self._alone:
            return
        try:
            distributed = torch.distributed
            store = distributed.distributed_c10d._get_default_store().clone()
            store.set_timeout(timedelta(seconds=max(self._seconds, 1.0)))
            self._mail = Mail(distributed.PrefixStore("torchboard", store))
            self._peers = Peers(self._card, self.rank, self._mail)
            self._place = self._peers.join(self._greeting)
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
        keys = self._mail.give(f"{self._place}/{self._number}/{what}", payload)
        if self._number:
            self._left.append((self._number, keys))

    def _take_back(self, before: int) -> None:
        """What is left of exchanges before one."""
        for number, keys in self._left:
            if number < before:
                self._mail.discard(keys)
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
