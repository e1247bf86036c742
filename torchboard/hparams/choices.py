"""Choices of hyperparameters to try: all of a grid, or some at random."""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from torchboard.errors import InvalidValueError
from torchboard.hparams.domains import Discrete, HParam, IntInterval, listed
from torchboard.values.hparams import Plain

_LONGEST = 60


class Grid(Iterator[dict[HParam, Plain]]):
    """The combinations that are still to come; its length is how many there are in all."""

    def __init__(self, axes: Sequence[HParam], values: Sequence[Sequence[Plain]]) -> None:
        self._length = math.prod(map(len, values))
        self._choices = (dict(zip(axes, chosen)) for chosen in itertools.product(*values))

    def __len__(self) -> int:
        return self._length

    def __next__(self) -> dict[HParam, Plain]:
        return next(self._choices)


def grid(hparams: Iterable[HParam]) -> Grid:
    """Every combination of the values of some hyperparameters, each a dict for a ``Trial``; the last varies fastest.

    Raises:
        InvalidValueError: a domain has no list of values (it is a ``RealInterval``, or there is none), or a name comes twice.
    """
    axes = listed(hparams)
    values: list[Sequence[Plain]] = []
    for hparam in axes:
        domain = hparam.domain
        if isinstance(domain, Discrete):
            values.append(domain.values)
        elif isinstance(domain, IntInterval):
            values.append(range(domain.min_value, domain.max_value + 1))
        else:
            raise InvalidValueError(
                f"hyperparameter {hparam.name!r} with domain {domain!r}",
                "a grid needs values to go through",
                "give it a Discrete domain, or use sample()",
            )
    return Grid(axes, values)


def sample(hparams: Iterable[HParam], n: int, seed: int) -> list[dict[HParam, Plain]]:
    """``n`` random choices, each a dict for a ``Trial``, uniform over the domains and the same for the same seed.

    Raises:
        InvalidValueError: a hyperparameter has no domain, or a name comes twice.
    """
    axes = listed(hparams)
    for hparam in axes:
        if hparam.domain is None:
            raise InvalidValueError(
                f"hyperparameter {hparam.name!r}", "it has no domain to choose from", "give its HParam a domain"
            )
    rng = random.Random(seed)
    return [{hparam: hparam.domain.sample_uniform(rng) for hparam in axes} for _ in range(n)]  # type: ignore[union-attr]


def progress(choices: Collection[Mapping[HParam, Plain]] | Grid) -> Iterator[dict[HParam, Plain]]:
    """The choices of ``grid`` or ``sample`` one by one, with a bar of tqdm's on stderr that names the one that runs.

    There is none where tqdm is not installed or stderr is no terminal.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        yield from map(dict, choices)
        return
    with tqdm(total=len(choices), desc="trials", unit="trial", file=sys.stderr, disable=None) as bar:
        for choice in choices:
            bar.set_postfix_str(", ".join(f"{hparam.name}={value}" for hparam, value in choice.items())[:_LONGEST])
            yield dict(choice)
            bar.update()
