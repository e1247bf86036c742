"""Choices of hyperparameters to try: all of a grid, or some at random."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

from torchboard.errors import InvalidValueError
from torchboard.hparams.domains import Discrete, HParam, IntInterval, listed
from torchboard.values.hparams import Plain


def grid(hparams: Iterable[HParam]) -> Iterator[dict[HParam, Plain]]:
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
    return (dict(zip(axes, chosen)) for chosen in itertools.product(*values))


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
