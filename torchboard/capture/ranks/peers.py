"""Which monitors of a job's ranks belong together, and how to say which ranks are meant.

A monitor tells in the job's store which ``log_dir`` it was given, and as how many-th of its process it was made. Those with
one ``log_dir`` belong together. Where one of two was given none, those do that were made as the same in order. Two with different
directories are of different trainings, whatever they are called.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torchboard.capture.ranks.mail import Mail

_made: Counter[str | None] = Counter()
"""How many there have been with each directory in this process; under None all of them."""


class Card(NamedTuple):
    """What a monitor says of itself.

    Attributes:
        order: how many were made before it in its process.
        log_dir: where it was told to write, if it was.
        repeat: how many of the former had the same directory.
        options: what must be alike on all ranks: name -> text.
    """

    order: int
    log_dir: str | None
    repeat: int
    options: Mapping[str, str]

    def packed(self) -> bytes:
        """What ``Card(*json.loads(…))`` reads."""
        return json.dumps(self).encode()

    def belongs_to(self, other: Card) -> bool:
        """Whether both are of monitors of one training."""
        if self.log_dir is None or other.log_dir is None:
            return self.order == other.order
        return (self.log_dir, self.repeat) == (other.log_dir, other.repeat)


def new_card(log_dir: object, options: Mapping[str, str]) -> Card:
    """The card of the next monitor of this process; a directory is known by how it was given."""
    name = None if log_dir is None else str(log_dir)
    card = Card(_made[None], name, _made[name], options)
    _made.update({None, name})
    return card


class Peers:
    """The monitors of other ranks that belong to one.

    Args:
        card: that one's.
        mail: where all leave their cards.
    """

    def __init__(self, card: Card, mail: Mail) -> None:
        self._card, self._mail = card, mail
        self._places: dict[int, str] = {}
        self._looked: Counter[int] = Counter()
        self.others: dict[int, str] = {}
        """Rank -> the directory of a monitor that it has for another training."""
        self.options: dict[int, Mapping[str, str]] = {}
        """Rank -> the options of its monitor."""

    def place(self, rank: int) -> str | None:
        """Under which key a rank's monitor leaves what it has; None where there is none as yet. Does not wait."""
        while rank not in self._places and self._mail.has(key := _key(rank, self._looked[rank])):
            self._looked[rank] += 1
            card = Card(*json.loads(self._mail.read(key)))
            if card.belongs_to(self._card):
                self._places[rank], self.options[rank] = key, card.options
                self.others.pop(rank, None)
            elif card.log_dir is not None and self._card.log_dir is not None:
                self.others[rank] = card.log_dir
        return self._places.get(rank)

    def join(self, rank: int, greeting: bytes) -> str:
        """Leaves this rank's card, and what else others may find out of it; gives the key."""
        key = self._places[rank] = _key(rank, self._card.order)
        self._mail.give(f"{key}/greeting", greeting)
        self._mail.give(key, self._card.packed())
        return key


def _key(rank: int, order: int) -> str:
    return f"{rank}/{order}"


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
