"""Which monitors of a job's ranks belong together, and how to say which ranks are meant.

The monitors of a rank leave their cards in the job's store, numbered in the order in which they join, and a card tells which
``log_dir`` its monitor was given. Those with one ``log_dir`` belong together, the first of one rank with the first of
another, and so on. Where one of two was given none, those do that have one number. Two with different directories are of
different trainings, whatever they are called.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torchboard.capture.ranks.mail import Mail
from torchboard.log_dir import spelled


class Card(NamedTuple):
    """What a monitor says of itself.

    Attributes:
        log_dir: where it was told to write, if it was.
        options: what must be alike on all ranks: name -> text.
    """

    log_dir: str | None
    options: Mapping[str, str]

    def packed(self) -> bytes:
        """What ``Card(*json.loads(…))`` reads."""
        return json.dumps(self).encode()


def new_card(log_dir: object, options: Mapping[str, str]) -> Card:
    """A monitor's card; a directory is known by how it was given, since ranks may have disks of their own."""
    is_path = isinstance(log_dir, (str, os.PathLike))
    return Card(spelled(log_dir) if is_path else None if log_dir is None else str(log_dir), options)


class Peers:
    """The monitors of other ranks that belong to one.

    Args:
        card: that one's.
        rank: its rank.
        mail: where all leave their cards.
    """

    def __init__(self, card: Card, rank: int, mail: Mail) -> None:
        self._card, self._rank, self._mail = card, rank, mail
        self._cards: dict[int, list[Card]] = {}
        self._places: dict[int, str] = {}
        self._options: dict[int, Mapping[str, str]] = {}
        self._number = mail.count(_joined(rank))
        self._is_counted = False

    def join(self, greeting: bytes) -> str:
        """Leaves the card, and what else others may find out; gives the key under which this monitor leaves what it has.

        Until ``stay`` is called it is taken for a try: the next monitor of this rank takes its number.
        """
        key = self._places[self._rank] = _place(self._rank, self._number)
        self._mail.give(f"{key}/greeting", greeting)
        self._mail.give(key, self._card.packed())
        return key

    def stay(self) -> None:
        """The next monitor of this rank has the next number."""
        if not self._is_counted:
            self._is_counted = True
            self._mail.count(_joined(self._rank), 1)

    def place(self, rank: int) -> str | None:
        """Under which key a rank's monitor leaves what it has; None where there is none as yet. Does not wait."""
        if rank not in self._places:
            number = self._number_on(rank)
            if number is not None:
                self._places[rank] = _place(rank, number)
                self._options[rank] = self._cards[rank][number].options
        return self._places.get(rank)

    def close(self) -> None:
        """This monitor is closed."""
        self._mail.give(f"{self._places[self._rank]}/closed", b"")

    def other(self, rank: int) -> str | None:
        """The directory of an open monitor that a rank has, and this rank none for, where it has none for this one."""
        if self._card.log_dir is None or self.place(rank) is not None:
            return None
        mine = Counter(card.log_dir for card in self._known(self._rank))
        for number, (log_dir, _) in enumerate(self._known(rank)):
            mine[log_dir] -= 1
            if log_dir is not None and mine[log_dir] < 0 and not self._mail.has(f"{_place(rank, number)}/closed"):
                return log_dir
        return None

    def complaints(self, absent: Sequence[int], size: int) -> Iterator[str]:
        """What rank 0 tells of ranks that it found no monitor of its training on, and of monitors with other options."""
        others = {rank: log_dir for rank in absent if (log_dir := self.other(rank)) is not None}
        none = [rank for rank in absent if rank not in others]
        of_mine = "" if self._card.log_dir is None else f" with rank 0's log_dir ({self._card.log_dir!r})"
        if none:
            yield (
                f"There is no Monitor on {listed(none)} of {size}{of_mine}: what these see is missing from the log. Make one "
                "on every rank; only rank 0's writes."
            )
        if others:
            yield (
                f"No Monitor on {listed(others)} of {size} has rank 0's log_dir ({self._card.log_dir!r}; there is one with "
                f"{next(iter(others.values()))!r}): what these see is missing from the log. Give the same log_dir on every "
                "rank; only rank 0's writes. Trainings of their own that share a torch.distributed job cannot be logged but "
                "rank 0's."
            )
        for options in self._options.values():
            differ = [name for name, text in self._card.options.items() if options.get(name, text) != text]
            if differ:
                told = ", ".join(f"{name}={options[name]}, not {self._card.options[name]}" for name in differ)
                yield (
                    f"The Monitors of this job have other options than rank 0's ({told}): of what only some ranks capture, only "
                    "theirs is in the log. Give the same options on every rank."
                )
                break

    def _number_on(self, rank: int) -> int | None:
        cards, log_dir, number = self._known(rank), self._card.log_dir, self._number
        if log_dir is not None:
            before = sum(card.log_dir == log_dir for card in self._known(self._rank)[:number])
            alike = [one for one, card in enumerate(cards) if card.log_dir == log_dir]
            if before < len(alike):
                return alike[before]
        is_there = number < len(cards) and None in (log_dir, cards[number].log_dir)
        return number if is_there else None

    def _known(self, rank: int) -> list[Card]:
        """The cards that a rank has left so far."""
        cards = self._cards.setdefault(rank, [])
        while (said := self._mail.read(_place(rank, len(cards)))) is not None:
            cards.append(Card(*json.loads(said)))
        return cards


def _place(rank: int, number: int) -> str:
    return f"{rank}/{number}"


def _joined(rank: int) -> str:
    return f"{rank}/joined"


def listed(ranks: Iterable[int]) -> str:
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
